//! A copy of each line of the journal for the system's own, which may be kept elsewhere.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Facility authpriv, severity notice.
const PRIORITY: u8 = 10 * 8 + 5;
/// Most bytes of a message: what every syslog daemon takes.
const MAX_LEN: usize = 1000;

/// Sends one line to the syslog socket below `root`, which systemd's journal serves too. Nothing
/// fails or waits where nobody listens.
pub fn tell_syslog(root: &Path, text: &str) {
    let Ok(socket) = UnixDatagram::unbound() else { return };
    let text: String = text.chars().filter(|c| *c == ' ' || c.is_ascii_graphic()).collect();
    let text = text.get(..MAX_LEN).unwrap_or(&text);
    let message = format!("<{PRIORITY}>vmseal[{}]: {text}", std::process::id());
    // A daemon that does not read must not hold us up.
    let _ = socket.set_nonblocking(true);
    let _ = socket.send_to(message.as_bytes(), root.join("dev/log"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_plain_text() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(root.path().join("dev")).expect("a folder");
        tell_syslog(root.path(), "nobody listens");
        let daemon = UnixDatagram::bind(root.path().join("dev/log")).expect("a socket");
        tell_syslog(root.path(), &format!("line 1\n<0>kernel: {}", "x".repeat(2000)));
        let mut buffer = [0; 4096];
        let length = daemon.recv(&mut buffer).expect("a message");
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let process = std::process::id();
        assert!(message.starts_with(&format!("<85>vmseal[{process}]: line 1<0>kernel: xxx")));
        assert!(length < 1100, "{length}");
        for _ in 0..10_000 {
            tell_syslog(root.path(), "a daemon that does not read");
        }
    }
}
