//! Words for whoever stands at the console.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use vmseal::exit::Exit;

const PLYMOUTH: [&str; 2] = ["/usr/bin/plymouth", "/bin/plymouth"];

/// One line in one write: the console is shared with the kernel.
pub fn say(text: impl std::fmt::Display) {
    let _ = std::io::stderr().write_all(format!("vmseal: {text}\n").as_bytes());
}

/// The same to a splash screen, which hides the console.
pub fn show(text: &str) {
    let Some(plymouth) = PLYMOUTH.into_iter().find(|path| Path::new(path).exists()) else { return };
    let quiet = |arguments: &[&str]| {
        let mut command = Command::new(plymouth);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if quiet(&["--ping"]) {
        quiet(&["display-message", &format!("--text=vmseal: {text}")]);
    }
}

/// What to do after a volume was not opened.
pub fn advice(exit: Exit) -> &'static str {
    match exit {
        Exit::NotPinned => {
            "This is not a disk that was enrolled here. Do not open it, nor type its passphrase."
        }
        Exit::PcrMismatch => "If you did not make this change, do not type the passphrase here.",
        Exit::OtherTpm => {
            "If you did not replace this machine's TPM, do not type the passphrase here."
        }
        Exit::NoSignature => {
            "If you did not make this change, do not type the passphrase here. Nobody approved this boot."
        }
        Exit::Refused => "The device may still appear.",
        _ => {
            "The TPM opens nothing in this boot. Once the system runs, 'vmseal status' tells more."
        }
    }
}
