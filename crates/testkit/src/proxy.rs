//! A proxy before a TPM: records what passes, stalls, or cuts the line.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::swtpm::{Swtpm, free_ports, tcti};
use crate::wire::{command_name, read_message, u32_at};

/// What the proxy does with commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything.
    Pass,
    /// Accepts connections, and answers nothing, not even on the control port.
    Silent,
    /// Passes this many commands, then takes commands and never answers.
    StallAfter(usize),
    /// Passes this many commands, then hangs up on every connection.
    CutAfter(usize),
}

/// A recording proxy on its own pair of loopback ports. It ends with the value.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    mode: Mode,
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    commands: Vec<u32>,
    bytes: Vec<u8>,
}

impl Proxy {
    /// A proxy that passes and records.
    pub fn before(tpm: &Swtpm) -> Self {
        Self::with_mode(tpm, Mode::Pass)
    }

    /// A proxy that interferes.
    pub fn with_mode(tpm: &Swtpm, mode: Mode) -> Self {
        let shared = Arc::new(Shared {
            target: tpm.port(),
            mode,
            stop: AtomicBool::new(false),
            seen: Mutex::default(),
        });
        let (data, control, port) = (0..50)
            .find_map(|_| {
                let port = free_ports();
                let listen = |port| TcpListener::bind(("127.0.0.1", port)).ok();
                Some((listen(port)?, listen(port + 1)?, port))
            })
            .expect("a free pair of ports");
        serve(data, &shared, Shared::carry_commands);
        serve(control, &shared, Shared::carry_control);
        Self { port, shared }
    }

    /// The TCTI string of the TPM behind this proxy.
    pub fn tcti(&self) -> String {
        tcti(self.port)
    }

    /// The names of the commands that arrived, in order.
    pub fn commands(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().commands.iter().map(|code| command_name(*code)).collect()
    }

    /// How often each command arrived.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for name in self.commands() {
            *counts.entry(name).or_default() += 1;
        }
        counts
    }

    /// Whether these bytes passed, in either direction.
    pub fn carried(&self, secret: &[u8]) -> bool {
        assert!(secret.len() >= 8, "too short to tell a secret from chance");
        self.shared.seen.lock().unwrap().bytes.windows(secret.len()).any(|window| window == secret)
    }

    /// Bytes that passed, in both directions.
    pub fn traffic(&self) -> usize {
        self.shared.seen.lock().unwrap().bytes.len()
    }

    /// Forgets what was recorded.
    pub fn reset(&self) {
        *self.shared.seen.lock().unwrap() = Seen::default();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Each accepting thread wakes up for one more connection, and sees the flag.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = TcpStream::connect(("127.0.0.1", self.port + 1));
    }
}

fn serve(
    listener: TcpListener,
    shared: &Arc<Shared>,
    carry: fn(&Shared, TcpStream) -> std::io::Result<()>,
) {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            if shared.stop.load(Ordering::SeqCst) {
                break;
            }
            let Ok(client) = client else { break };
            let shared = Arc::clone(&shared);
            // Either side hanging up is how a connection ends.
            std::thread::spawn(move || drop(carry(&shared, client)));
        }
    });
}

impl Shared {
    fn carry_commands(&self, mut client: TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        let mut tpm = TcpStream::connect(("127.0.0.1", self.target))?;
        tpm.set_nodelay(true)?;
        while let Some(command) = read_message(&mut client)? {
            let passed = {
                let mut seen = self.seen.lock().unwrap();
                seen.commands.push(u32_at(&command, 6));
                seen.bytes.extend(&command);
                seen.commands.len() - 1
            };
            match self.mode {
                Mode::CutAfter(limit) if passed >= limit => return Ok(()),
                Mode::StallAfter(limit) if passed >= limit => return self.stall(&mut client),
                Mode::Silent => return self.stall(&mut client),
                _ => {}
            }
            tpm.write_all(&command)?;
            let Some(answer) = read_message(&mut tpm)? else { break };
            self.seen.lock().unwrap().bytes.extend(&answer);
            client.write_all(&answer)?;
        }
        Ok(())
    }

    fn carry_control(&self, mut client: TcpStream) -> std::io::Result<()> {
        if self.mode == Mode::Silent {
            return self.stall(&mut client);
        }
        let mut tpm = TcpStream::connect(("127.0.0.1", self.target + 1))?;
        let mut back = (tpm.try_clone()?, client.try_clone()?);
        let answers = std::thread::spawn(move || {
            let _ = std::io::copy(&mut back.0, &mut back.1);
            let _ = back.1.shutdown(std::net::Shutdown::Write);
        });
        let _ = std::io::copy(&mut client, &mut tpm);
        let _ = tpm.shutdown(std::net::Shutdown::Write);
        let _ = answers.join();
        Ok(())
    }

    /// Swallows what comes, until the client gives up or the proxy ends.
    fn stall(&self, client: &mut TcpStream) -> std::io::Result<()> {
        client.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut buffer = [0; 4096];
        while !self.stop.load(Ordering::SeqCst) {
            match client.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
