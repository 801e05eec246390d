//! Asking for a secret on a terminal, without echo.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::secret::SecretBuffer;

/// Longest passphrase that cryptsetup takes from a terminal.
const MAX_PASSPHRASE: usize = 512;

/// Asks on `terminal` and takes one line of at most 512 bytes, without its end.
///
/// # Errors
/// In words: what the system said, that the user gave up, or that the line is too long.
pub fn read_secret_line(terminal: &mut File, prompt: &str) -> Result<SecretBuffer, String> {
    write!(terminal, "{prompt}").map_err(|error| error.to_string())?;
    let line = {
        let _silence = Silence::start(terminal).map_err(|error| error.to_string())?;
        read_line(terminal)
    };
    let _ = writeln!(terminal);
    line
}

/// Takes one line, byte by byte: with echo off the terminal's own line editing would leave
/// Ctrl-C to kill us with the echo still off.
fn read_line(terminal: &mut File) -> Result<SecretBuffer, String> {
    let mut line = SecretBuffer::new(Vec::with_capacity(MAX_PASSPHRASE));
    loop {
        let mut byte = [0];
        if terminal.read(&mut byte).map_err(|error| error.to_string())? == 0 {
            return Err("the terminal went away".into());
        }
        match byte {
            [b'\r' | b'\n'] => return Ok(line),
            [3 | 4] => return Err("given up".into()),
            [8 | 127] => {
                line.pop();
            }
            [21] => line.clear(),
            [byte] if line.len() < MAX_PASSPHRASE => line.push(byte),
            _ => return Err(format!("longer than {MAX_PASSPHRASE} bytes")),
        }
    }
}

/// Echo and line editing are off while this lives.
struct Silence {
    terminal: OwnedFd,
    before: Termios,
}

impl Silence {
    fn start(terminal: &File) -> std::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal: terminal.as_fd().try_clone_to_owned()?, before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}
