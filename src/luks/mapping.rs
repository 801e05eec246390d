//! An open volume as the kernel has it, whoever opened it.

use std::fs::File;
use std::path::Path;

use rustix::io::Errno;
use serde_json::Value;

use super::error::LuksError;
use super::pin::{Pin, PinMismatch, mismatch};
use crate::ffi::device_mapper::{self, Table};

/// device-mapper's control device, below the root.
const CONTROL: &str = "dev/mapper/control";
const SECTOR: u64 = 512;

/// The table of an open volume.
pub struct Mapping(Table);

impl Mapping {
    /// The mapping of this name; `None` where there is none.
    ///
    /// # Errors
    /// [`LuksError::Io`] where the kernel does not answer.
    pub fn named(root: &Path, name: &str) -> Result<Option<Self>, LuksError> {
        let control = root.join(CONTROL);
        let failed = |errno: Errno| LuksError::io(&control, errno);
        let file = match File::options().read(true).write(true).open(&control) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LuksError::io(&control, error)),
        };
        Ok(device_mapper::table(&file, name).map_err(failed)?.map(Self))
    }
}

impl Pin {
    /// Compares an open mapping: the volume's UUID, one `crypt` target, with the pinned cipher and
    /// at the pinned offset. Its key is out of reach.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_mapping(&self, Mapping(table): &Mapping) -> Result<(), PinMismatch> {
        let uuid = format!("CRYPT-LUKS2-{}-", self.uuid().replace('-', ""));
        if !table.uuid.starts_with(&uuid) {
            return Err(mismatch("mapping", &uuid, &table.uuid));
        }
        let [(kind, line)] = table.targets.as_slice() else {
            let found = format!("{} targets", table.targets.len());
            return Err(mismatch("mapping", "1 target", &found));
        };
        if kind != "crypt" {
            return Err(mismatch("mapping type", "crypt", kind));
        }
        let words: Vec<&str> = line.split(' ').collect();
        let word = |at: usize| words.get(at).copied().unwrap_or_default();
        let segment = self.segment();
        if segment.contains_key("integrity") {
            // The kernel then names an authenticated cipher over another mapping.
            let authenticated = words.iter().any(|word| word.starts_with("integrity:"));
            return match authenticated {
                true => Ok(()),
                false => Err(mismatch("mapping integrity", "one", "none")),
            };
        }
        let encryption = segment.get("encryption").and_then(Value::as_str).unwrap_or_default();
        if word(0) != encryption {
            return Err(mismatch("mapping encryption", encryption, word(0)));
        }
        let offset = segment.get("offset").and_then(Value::as_str).unwrap_or_default();
        let sectors = offset.parse::<u64>().map(|bytes| (bytes / SECTOR).to_string());
        let sectors = sectors.unwrap_or_default();
        if word(4) != sectors {
            return Err(mismatch("mapping offset", &sectors, word(4)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luks::Pins;

    const UUID: &str = "9b4b2c38-0d02-4c4c-a3e7-6b6e2a6ec8c1";

    fn pin(segment: &str) -> Pin {
        let text =
            format!(r#"{{"{UUID}":{{"digest":{{}},"segment":{segment},"volume_key":"00"}}}}"#);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pins.json");
        std::fs::write(&path, text).expect("written");
        Pins::read(&path).expect("pins").get(UUID).expect("an entry").expect("a pin")
    }

    fn mapping(uuid: &str, targets: &[(&str, &str)]) -> Mapping {
        let target = |(kind, line): &(&str, &str)| (kind.to_string(), line.to_string().into());
        Mapping(Table { uuid: uuid.into(), targets: targets.iter().map(target).collect() })
    }

    #[test]
    fn the_kernels_table_is_compared() {
        let pin = pin(r#"{"encryption":"aes-xts-plain64","offset":"16777216","type":"crypt"}"#);
        let uuid = "CRYPT-LUKS2-9b4b2c380d024c4ca3e76b6e2a6ec8c1-root";
        let good = "aes-xts-plain64 :64:logon:cryptsetup:x 0 254:0 32768 1 allow_discards";
        let check = |uuid, targets: &[_]| pin.check_mapping(&mapping(uuid, targets));
        assert_eq!(check(uuid, &[("crypt", good)]), Ok(()));
        let field = |result: Result<(), PinMismatch>| result.expect_err("a difference").field;
        assert_eq!(field(check("CRYPT-LUKS2-00-root", &[("crypt", good)])), "mapping");
        assert_eq!(field(check(uuid, &[("linear", "254:0 32768")])), "mapping type");
        assert_eq!(field(check(uuid, &[("crypt", good), ("crypt", good)])), "mapping");
        let null = "cipher_null-ecb - 0 254:0 32768";
        assert_eq!(field(check(uuid, &[("crypt", null)])), "mapping encryption");
        let moved = "aes-xts-plain64 :64:k 0 254:0 0";
        assert_eq!(field(check(uuid, &[("crypt", moved)])), "mapping offset");
        assert_eq!(field(check(uuid, &[("crypt", "")])), "mapping encryption");
    }

    #[test]
    fn integrity_stays() {
        let pin = pin(r#"{"encryption":"aes-xts-random","integrity":{"type":"hmac(sha256)"}}"#);
        let uuid = "CRYPT-LUKS2-9b4b2c380d024c4ca3e76b6e2a6ec8c1-root";
        let check = |line| pin.check_mapping(&mapping(uuid, &[("crypt", line)]));
        assert!(
            check("capi:authenc(hmac(sha256),xts(aes))-random :96:k 0 254:1 0 1 integrity:48:aead")
                .is_ok()
        );
        assert!(check("aes-xts-plain64 :64:k 0 254:1 0").is_err());
    }
}
