//! A private software TPM for one test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::run::tool;
use crate::wire::Wire;

/// `TPM_PT_LOCKOUT_COUNTER`: failed authorizations that count towards the lockout.
const LOCKOUT_COUNTER: u32 = 0x20e;
/// First handles of loaded sessions, saved sessions and transient objects.
const LEFT_BEHIND: [u32; 3] = [0x0200_0000, 0x0300_0000, 0x8000_0000];

/// A running swtpm on two loopback ports, with its own state. It ends with the value.
pub struct Swtpm {
    child: Child,
    port: u16,
    banks: Vec<String>,
    // Removed after the process that writes to it: fields drop in order, `drop` kills first.
    _state: Option<TempDir>,
}

impl Swtpm {
    /// A new TPM with the sha256 bank.
    pub fn start() -> Self {
        Self::with_banks(&["sha256"])
    }

    /// A new TPM with these banks, of sha1, sha256, sha384 and sha512.
    pub fn with_banks(banks: &[&str]) -> Self {
        // swtpm changes to / : the state's path must be absolute, as a TempDir's is.
        let state = TempDir::with_prefix("swtpm-").expect("a temporary folder");
        let (child, port) = (0..50)
            .find_map(|_| try_start(state.path(), free_ports()))
            .expect("swtpm starts on a free pair of ports (package swtpm)");
        let banks = banks.iter().map(ToString::to_string).collect();
        let tpm = Self { child, port, banks, _state: Some(state) };
        tpm.allocate();
        tpm
    }

    /// The TPM of a machine that is off, with the sha256 bank, in this folder: an absolute path.
    pub fn on_state(folder: &Path) -> Self {
        let (child, port) = (0..50)
            .find_map(|_| try_start(folder, free_ports()))
            .expect("swtpm starts on a free pair of ports (package swtpm)");
        Self { child, port, banks: vec!["sha256".to_owned()], _state: None }
    }

    /// The data port; the control port is the next one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The TCTI string.
    pub fn tcti(&self) -> String {
        tcti(self.port)
    }

    /// A connection of the kit's own. No other program is served while it lives.
    pub fn wire(&self) -> Wire {
        Wire::connect(self.port)
    }

    /// A reboot: PCRs, sessions and transient objects are gone, NV memory stays. The TPM is told
    /// before: it counts a power cut after the use of a guessable object as a failed authorization.
    pub fn restart(&self) {
        self.wire().shutdown();
        let init = [0, 0, 0, 2, 0, 0, 0, 0];
        assert_eq!(send_control(self.port, &init, 4).unwrap(), [0; 4], "CMD_INIT");
        self.wire().startup();
    }

    /// Makes it another TPM: a new storage seed, no persistent keys. PCRs stay.
    pub fn replace_owner(&self) {
        self.wire().clear();
    }

    /// Puts a storage root key where systemd does, `ecc256` or `rsa2048`, and its public half into a file
    /// in a folder.
    pub fn make_srk(&self, folder: &Path, algorithm: &str) -> PathBuf {
        let tcti = self.tcti();
        let [context, public] = ["srk.ctx", "srk.pub"].map(|name| folder.join(name));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (context, public_path) = (text(&context), text(&public));
        let kind = format!("{algorithm}:aes128cfb");
        let attributes =
            "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
        let on = ["-Q", "-T", &tcti];
        let create = ["-C", "o", "-G", &kind, "-g", "sha256", "-a", attributes, "-c", &context];
        tool("tpm2_createprimary", &[&on[..], &create].concat());
        tool("tpm2_evictcontrol", &[&on[..], &["-C", "o", "-c", &context, "0x81000001"]].concat());
        self.flush();
        tool("tpm2_readpublic", &[&on[..], &["-c", "0x81000001", "-o", &public_path]].concat());
        public
    }

    /// Removes what a killed program left loaded, as a resource manager does.
    pub fn flush(&self) {
        let mut wire = self.wire();
        for kind in LEFT_BEHIND {
            for handle in wire.handles(kind) {
                wire.flush(handle);
            }
        }
    }

    /// How many objects and sessions are loaded.
    pub fn loaded(&self) -> usize {
        let mut wire = self.wire();
        LEFT_BEHIND.iter().map(|kind| wire.handles(*kind).len()).sum()
    }

    /// Failed authorizations counted towards the dictionary-attack lockout.
    pub fn lockout_counter(&self) -> u32 {
        self.wire().property(LOCKOUT_COUNTER)
    }

    /// Removes an NV index.
    pub fn undefine_index(&self, index: u32) {
        self.wire().undefine_index(index);
    }

    /// Forgets the failed authorizations.
    pub fn reset_lockout(&self) {
        self.wire().reset_lockout();
    }

    /// The value of a PCR, in lower-case hexadecimal.
    pub fn pcr(&self, bank: &str, pcr: u8) -> String {
        hex::encode(self.wire().read_pcr(bank, pcr))
    }

    /// Extends a PCR, in every active bank, with a digest made of `byte`.
    pub fn extend(&self, pcr: u32, byte: u8) {
        let digest = |bank: &String| {
            let alg = crate::wire::alg_id(bank);
            let len = match alg {
                0x4 => 20,
                0xb => 32,
                0xc => 48,
                _ => 64,
            };
            (alg, vec![byte; len])
        };
        let digests: Vec<_> = self.banks.iter().map(digest).collect();
        self.wire().extend(pcr, &digests);
    }

    fn allocate(&self) {
        let banks: Vec<&str> = self.banks.iter().map(String::as_str).collect();
        self.wire().allocate(&banks);
        self.restart();
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The TCTI string of a TPM, or of a proxy before one, on a data port.
pub fn tcti(port: u16) -> String {
    format!("swtpm:host=127.0.0.1,port={port}")
}

/// A pair of ports that nobody listens on now, below the range of outgoing connections.
pub(crate) fn free_ports() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        // Test processes run side by side: start each elsewhere.
        let pair = (std::process::id().wrapping_mul(37).wrapping_add(step)) % 10_000;
        let port = 12_000 + 2 * pair as u16;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 1) {
            return port;
        }
    }
}

/// Starts swtpm; `None` when it ended at once, as it does when a port was taken in the meantime.
fn try_start(state: &Path, port: u16) -> Option<(Child, u16)> {
    // The control socket is handed over as standard input: what answers there is this process and
    // no other test's, and it answers once its data port is open.
    let control = TcpListener::bind(("127.0.0.1", port + 1)).ok()?;
    let mut child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", state.display()))
        .args(["--ctrl", "type=tcp,fd=0", "--server"])
        .arg(format!("type=tcp,port={port},bindaddr=127.0.0.1"))
        .stdin(OwnedFd::from(control))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm (package swtpm)");
    let get_capability = [0, 0, 0, 1];
    if send_control(port, &get_capability, 8).is_ok() {
        return Some((child, port));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// Sends a command to the control port and returns the first bytes of the answer.
fn send_control(port: u16, command: &[u8], len: usize) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port + 1))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(command)?;
    let mut answer = vec![0; len];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
