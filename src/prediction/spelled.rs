//! Paths as people, loaders and device paths spell them.

use crate::artifact::Volume;

/// A path of a boot file in any spelling: with `/` or `\`, with or without a leading one, with
/// GRUB's `(device)` before it or `esp/` or `boot/` in front.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spelled {
    volume: Option<Volume>,
    path: String,
}

impl Spelled {
    /// Understands a spelling.
    pub fn parse(text: &str) -> Self {
        let path = text.replace('\\', "/");
        let path = match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            Some((_, rest)) => rest.to_owned(),
            None => path,
        };
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let (volume, parts) = match parts.as_slice() {
            ["esp", rest @ ..] if !rest.is_empty() => (Some(Volume::Esp), rest),
            // Where the running system mounts the ESP.
            ["boot", "efi", rest @ ..] if !rest.is_empty() => (Some(Volume::Esp), rest),
            ["efi", rest @ ..] if matches!(rest, ["EFI" | "loader", _, ..]) => {
                (Some(Volume::Esp), rest)
            }
            all => (None, all),
        };
        Self { volume, path: parts.join("/") }
    }

    /// Whether it is a spelling of the file at `path`.
    pub fn is_of(&self, volume: Volume, path: &str) -> bool {
        let other = Self::parse(path);
        if self.volume.is_some_and(|own| own != volume) {
            return false;
        }
        // `/boot` may be a folder of a file system or a file system of its own.
        let tail = |path: &str| path.strip_prefix("boot/").unwrap_or(path).to_owned();
        let (own, other) = (tail(&self.path), tail(&other.path));
        match volume {
            Volume::Esp => own.eq_ignore_ascii_case(&other),
            Volume::Boot => own == other,
        }
    }

    /// The name of this file within `folder`, if it is in it.
    pub fn name_in(&self, volume: Volume, folder: &str) -> Option<&str> {
        let (own_folder, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let own = Self { volume: self.volume, path: own_folder.to_owned() };
        own.is_of(volume, folder).then_some(name)
    }

    /// The path, absolute and with `/`.
    pub fn path(&self) -> String {
        format!("/{}", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_names_the_same_file() {
        for text in [
            "EFI/BOOT/BOOTX64.EFI",
            "/EFI/BOOT/BOOTX64.EFI",
            "\\EFI\\BOOT\\BOOTX64.EFI",
            "esp/EFI/BOOT/BOOTX64.EFI",
            "(hd0,gpt1)/EFI/BOOT/BOOTX64.EFI",
            "/boot/efi/EFI/BOOT/BOOTX64.EFI",
            "efi/boot/bootx64.efi",
        ] {
            assert!(Spelled::parse(text).is_of(Volume::Esp, "/EFI/BOOT/BOOTX64.EFI"), "{text}");
        }
        for text in ["boot/grub/grub.cfg", "/grub/grub.cfg", "(hd0,gpt2)/grub/grub.cfg"] {
            for path in ["/grub/grub.cfg", "/boot/grub/grub.cfg"] {
                assert!(Spelled::parse(text).is_of(Volume::Boot, path), "{text} {path}");
            }
        }
        assert!(!Spelled::parse("GRUB/grub.cfg").is_of(Volume::Boot, "/grub/grub.cfg"));
        assert!(!Spelled::parse("esp/vmlinuz").is_of(Volume::Boot, "/vmlinuz"));
        assert!(!Spelled::parse("deb/vmlinuz").is_of(Volume::Esp, "/deb/vmlinuz2"));
    }

    #[test]
    fn folders_list_their_files() {
        let entry = Spelled::parse("loader/entries/deb.conf");
        assert_eq!(entry.name_in(Volume::Esp, "/loader/entries"), Some("deb.conf"));
        assert_eq!(entry.name_in(Volume::Esp, "/loader"), None);
        assert_eq!(Spelled::parse("vmlinuz").name_in(Volume::Boot, "/"), Some("vmlinuz"));
    }
}
