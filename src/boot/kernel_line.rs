//! What the kernel command line tells the boot step. It is measured, so that whoever changes it
//! boots another boot.

use std::time::Duration;

/// Longest wait that a command line can ask for, in seconds.
const TIMEOUT_MAX: u64 = 3600;

/// The words of the kernel command line that count here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelLine {
    /// `vmseal=off`: nothing is released; pins, latch and gate stay.
    pub off: bool,
    /// `vmseal.timeout=SECONDS`: how long the TPM may take, in all.
    pub timeout: Option<Duration>,
    /// `vmseal.pin=UUID:HEX`: the digest of a volume's pin.
    pub pins: Vec<(String, String)>,
    /// UUID and name of each volume in `rd.luks.uuid=` and `rd.luks.name=`.
    pub volumes: Vec<(String, String)>,
}

impl KernelLine {
    /// Parses `/proc/cmdline`. The last of several values counts where there can be only one.
    pub fn parse(text: &str) -> Self {
        let mut line = Self::default();
        let mut uuids = Vec::new();
        for word in words(text) {
            let (key, value) = word.split_once('=').unwrap_or((&word, ""));
            // Some boot loaders' lines have dashes; systemd takes both.
            match key.replace('_', "-").as_str() {
                "vmseal" => line.off = value == "off",
                "vmseal.timeout" => {
                    let seconds = value.parse().ok().filter(|n| (1..=TIMEOUT_MAX).contains(n));
                    line.timeout = seconds.map(Duration::from_secs).or(line.timeout);
                }
                "vmseal.pin" => {
                    if let Some((uuid, digest)) = value.split_once(':') {
                        line.pins.push((uuid.to_ascii_lowercase(), digest.to_ascii_lowercase()));
                    }
                }
                "rd.luks.uuid" | "luks.uuid" => uuids.push(bare(value)),
                "rd.luks.name" | "luks.name" => {
                    if let Some((uuid, name)) = value.split_once('=') {
                        line.volumes.push((bare(uuid), name.to_owned()));
                    }
                }
                _ => {}
            }
        }
        for uuid in uuids {
            if !line.volumes.iter().any(|(named, _)| *named == uuid) {
                let name = format!("luks-{uuid}");
                line.volumes.push((uuid, name));
            }
        }
        line
    }
}

/// A UUID without the prefix that dracut's own lines have.
fn bare(uuid: &str) -> String {
    let uuid = uuid.strip_prefix("luks-").unwrap_or(uuid);
    uuid.to_ascii_lowercase()
}

/// Words between white space, double quotes holding it together as the kernel has it.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            white if white.is_ascii_whitespace() && !quoted => {
                words.push(std::mem::take(&mut word));
            }
            other => word.push(other),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_vmseal() {
        let line = KernelLine::parse(
            "BOOT_IMAGE=/vmlinuz root=/dev/a quiet vmseal.timeout=5 vmseal.pin=AB-1:FF00 \
             vmseal.pin=cd-2:11 vmseal=off\n",
        );
        assert!(line.off);
        assert_eq!(line.timeout, Some(Duration::from_secs(5)));
        let pins = [("ab-1", "ff00"), ("cd-2", "11")];
        assert_eq!(line.pins, pins.map(|(uuid, hex)| (uuid.into(), hex.into())));
        assert!(!KernelLine::parse("vmseal=off vmseal=on").off);
    }

    #[test]
    fn nonsense_changes_nothing() {
        let line = KernelLine::parse(
            "vmseal vmseal.timeout=0 vmseal.timeout=x vmseal.pin=ab rd.luks.name=u",
        );
        assert_eq!(line, KernelLine::default());
        let kept = KernelLine::parse("vmseal.timeout=7 vmseal.timeout=99999");
        assert_eq!(kept.timeout, Some(Duration::from_secs(7)));
    }

    #[test]
    fn volumes_by_uuid() {
        let line =
            KernelLine::parse("rd.luks.uuid=luks-1-a rd.luks.uuid=2-B rd.luks.name=2-b=data");
        let volumes = [("2-b", "data"), ("1-a", "luks-1-a")];
        assert_eq!(line.volumes, volumes.map(|(uuid, name)| (uuid.into(), name.into())));
    }

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(words("a \"b c\" d=\"e f\""), ["a", "b c", "d=e f"]);
    }
}
