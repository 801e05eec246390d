//! The volumes of a boot, as crypttab(5) and the kernel command line name them.

use std::path::{Path, PathBuf};

use super::kernel_line::KernelLine;
use crate::luks::ActivateOptions;

/// Passphrases that are asked for where crypttab does not say, as cryptsetup-initramfs and systemd.
const TRIES: u32 = 3;

/// One volume to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootVolume {
    /// Name of the device-mapper device.
    pub name: String,
    /// The device's path, once udev has made its links.
    pub device: PathBuf,
    /// A detached header.
    pub header: Option<PathBuf>,
    /// How often a passphrase is asked for; `None` for ever.
    pub tries: Option<u32>,
    /// How it is opened.
    pub options: ActivateOptions,
}

impl BootVolume {
    /// A volume without any option.
    pub fn new(name: impl Into<String>, device: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            device: device.into(),
            header: None,
            tries: Some(TRIES),
            options: ActivateOptions::default(),
        }
    }

    /// The volumes that the lines of a crypttab name, in order. What is no entry is passed over, as
    /// cryptsetup-initramfs and systemd do.
    pub fn of_crypttab(text: &str) -> Vec<Self> {
        crypttab_lines(text).filter_map(|fields| Self::of_fields(&fields)).collect()
    }

    /// The volumes that the kernel command line names by their UUID (`rd.luks.uuid=`,
    /// `rd.luks.name=`), as systemd-cryptsetup-generator would open them.
    pub fn of_kernel_line(line: &KernelLine) -> Vec<Self> {
        let of_uuid = |(uuid, name): &(String, String)| {
            Self::new(name, Path::new("/dev/disk/by-uuid").join(uuid))
        };
        line.volumes.iter().map(of_uuid).collect()
    }

    fn of_fields(fields: &[String]) -> Option<Self> {
        let [name, source, rest @ ..] = fields else { return None };
        let mut volume = Self::new(name, crypttab_device(source));
        for option in rest.get(1).iter().flat_map(|options| options.split(',')) {
            volume.set(option);
        }
        Some(volume)
    }

    /// Options that change how the volume is opened, in the spellings of both crypttab(5)s. The
    /// others are for other programs.
    fn set(&mut self, option: &str) {
        let options = &mut self.options;
        match option.split_once('=').unwrap_or((option, "")) {
            ("readonly" | "read-only", "") => options.read_only = true,
            ("discard" | "allow-discards", "") => options.allow_discards = true,
            ("no-read-workqueue", "") => options.no_read_workqueue = true,
            ("no-write-workqueue", "") => options.no_write_workqueue = true,
            ("same-cpu-crypt", "") => options.same_cpu_crypt = true,
            ("submit-from-crypt-cpus", "") => options.submit_from_crypt_cpus = true,
            ("header", path) if path.starts_with('/') => self.header = Some(path.into()),
            ("tries", number) => {
                if let Ok(number) = number.parse() {
                    self.tries = (number > 0).then_some(number);
                }
            }
            _ => {}
        }
    }
}

/// The fields of each line of a crypttab that is no comment, escapes read.
pub fn crypttab_lines(text: &str) -> impl Iterator<Item = Vec<String>> + '_ {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let fields = lines.map(|line| line.split_ascii_whitespace().map(unescape).collect());
    fields.filter(|fields: &Vec<String>| !fields.is_empty())
}

/// The path under which udev shows the device of a line's second field.
pub fn crypttab_device(source: &str) -> PathBuf {
    let (tag, value) = source.split_once('=').unwrap_or((source, ""));
    let value = value.trim_matches('"');
    let folder = match tag {
        "UUID" => "/dev/disk/by-uuid",
        "LABEL" => "/dev/disk/by-label",
        "PARTUUID" => "/dev/disk/by-partuuid",
        "PARTLABEL" => "/dev/disk/by-partlabel",
        "ID" => "/dev/disk/by-id",
        _ => return source.into(),
    };
    // udev writes UUIDs in small letters, whatever the file has.
    let value = if tag.ends_with("UUID") { value.to_ascii_lowercase() } else { value.to_owned() };
    Path::new(folder).join(value)
}

/// `\040` is a space: names and paths have no other way to hold one.
fn unescape(field: &str) -> String {
    let mut text = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match (byte, rest) {
            // cryptsetup-initramfs writes a zero before the three digits.
            (b'\\', [b'0', digits @ ..]) if octal(digits).is_some() => {
                text.extend(octal(digits));
                rest = digits.get(3..).unwrap_or_default();
            }
            (b'\\', digits) if octal(digits).is_some() => {
                text.extend(octal(digits));
                rest = digits.get(3..).unwrap_or_default();
            }
            (b'\\', [b'\\', after @ ..]) => {
                text.push(b'\\');
                rest = after;
            }
            _ => text.push(*byte),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The byte that three octal digits stand for.
fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits.get(..3)?).ok()?;
    u8::from_str_radix(digits, 8).ok().filter(|_| !digits.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(line: &str) -> BootVolume {
        let volumes = BootVolume::of_crypttab(line);
        assert_eq!(volumes.len(), 1, "{volumes:?}");
        volumes.into_iter().next().expect("one")
    }

    #[test]
    fn sources_become_paths() {
        for (source, path) in [
            ("UUID=0A7e", "/dev/disk/by-uuid/0a7e"),
            ("UUID=\"0A7e\"", "/dev/disk/by-uuid/0a7e"),
            ("PARTUUID=1-2", "/dev/disk/by-partuuid/1-2"),
            ("LABEL=Root", "/dev/disk/by-label/Root"),
            ("/dev/mapper/vg-root", "/dev/mapper/vg-root"),
            ("/dev/disk/by-path/a=b", "/dev/disk/by-path/a=b"),
        ] {
            assert_eq!(only(&format!("root {source} none luks")).device, Path::new(path));
        }
    }

    #[test]
    fn names_may_hold_spaces() {
        assert_eq!(only(r"my\040root /dev/a none").name, "my root");
        assert_eq!(only(r"my\0040root /dev/a none").name, "my root");
        assert_eq!(only(r"a\\b /dev/a none").name, r"a\b");
        assert_eq!(only(r"a\ b /dev/a").name, r"a\");
        assert_eq!(only(r"a\+12 /dev/a").name, r"a\+12");
    }

    #[test]
    fn options_of_both_families_count() {
        let volume =
            only("  root UUID=1 none luks,discard,read-only,tries=5,header=/h,tpm2-device=auto");
        assert!(volume.options.allow_discards && volume.options.read_only);
        assert_eq!(volume.tries, Some(5));
        assert_eq!(volume.header.as_deref(), Some(Path::new("/h")));
        assert_eq!(only("a /dev/a none tries=0").tries, None);
        assert_eq!(only("a /dev/a none tries=many").tries, Some(TRIES));
    }

    #[test]
    fn what_is_no_entry_is_passed_over() {
        assert_eq!(BootVolume::of_crypttab("# a /dev/a\n\n   \nname-alone\n"), []);
        assert_eq!(BootVolume::of_crypttab(r" #a /dev/a"), []);
        assert_eq!(only(r"\043a /dev/a").name, "#a");
        assert_eq!(BootVolume::of_crypttab("a /dev/a\nb /dev/b -\n").len(), 2);
    }
}
