//! Words for whoever stands at the console.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use vmseal::exit::Exit;
use vmseal::measurement::text::printable;

/// Of the kernel that runs.
const RELEASE: &str = "/proc/sys/kernel/osrelease";
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
pub fn advice(exit: Exit) -> Cow<'static, str> {
    let text = match exit {
        Exit::NotPinned => {
            "This is not a disk that was enrolled here. Do not open it, nor type its passphrase."
        }
        Exit::PcrMismatch => "If you did not make this change, do not type the passphrase here.",
        Exit::OtherTpm => {
            "If you did not replace this machine's TPM, do not type the passphrase here."
        }
        // Whoever picked an old kernel from the menu learns which one it is.
        Exit::NoSignature => return not_approved(std::fs::read_to_string(RELEASE).ok()).into(),
        Exit::Refused => "The device may still appear.",
        _ => {
            "The TPM opens nothing in this boot. Once the system runs, 'vmseal status' tells more."
        }
    };
    text.into()
}

fn not_approved(release: Option<String>) -> String {
    let kernel = release.map(|release| format!(" of kernel {}", printable(release.trim_end(), 64)));
    format!(
        "Nobody approved this boot{}, or the approval was withdrawn. If you did not choose it, or make the change, do not type the passphrase here.",
        kernel.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_approved_is_named() {
        let said = not_approved(Some("6.12.107\x1b\n".to_owned()));
        assert!(
            said.starts_with(r"Nobody approved this boot of kernel 6.12.107\u{1b}, or "),
            "{said}"
        );
        assert!(not_approved(None).starts_with("Nobody approved this boot, or "));
    }
}
