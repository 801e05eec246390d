//! `artifacts.json`: digests of files, by path.

use serde_json::{Map, Value};

use super::spelled::Spelled;
use crate::artifact::{KnownDigests, Volume};
use crate::measurement::text::printable;
use crate::measurement::{Digest, PcrBank};

/// Files known by digests alone, as a file of them lists them: an object from path to `size`, one
/// digest a bank under the bank's name, and Authenticode digests under `authenticode_` and it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownFiles(Vec<(String, KnownDigests)>);

impl KnownFiles {
    /// Longest such file that is read, in bytes.
    pub const MAX_LEN: usize = 16 << 20;

    /// Parses the file.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        // serde_json quotes its input, which is hostile.
        let whole: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| printable(&error.to_string(), 200))?;
        let files = whole.into_iter().map(|(path, value)| {
            let known = known(&value).map_err(|why| format!("{}: {why}", printable(&path, 200)))?;
            Ok((path, known))
        });
        Ok(Self(files.collect::<Result<_, String>>()?))
    }

    /// The files, by path as it is written there.
    pub fn files(&self) -> &[(String, KnownDigests)] {
        &self.0
    }

    /// What is known of the file at `path`, in whatever spelling both have.
    ///
    /// # Errors
    /// The paths that are there, shortened, where none is the one.
    pub fn get(&self, path: &str) -> Result<&KnownDigests, String> {
        let wanted = Spelled::parse(path);
        let is_same = |key: &str| {
            let key = Spelled::parse(key);
            [Volume::Esp, Volume::Boot]
                .into_iter()
                .any(|volume| key.is_of(volume, path) && wanted.is_of(volume, &key.path()))
        };
        if let Some((_, known)) = self.0.iter().find(|(key, _)| key == path || is_same(key)) {
            return Ok(known);
        }
        let shown = self.0.iter().take(12).map(|(key, _)| printable(key, 80));
        let more = if self.0.len() > 12 { ", ..." } else { "" };
        Err(format!("it has {}{more}", shown.collect::<Vec<_>>().join(", ")))
    }
}

fn known(value: &Value) -> Result<KnownDigests, String> {
    let object = value.as_object().ok_or("not an object")?;
    let digests = |prefix: &str| {
        let of_bank = |bank: PcrBank| {
            let text = object.get(&format!("{prefix}{bank}"))?;
            let text = text.as_str().unwrap_or_default();
            Some(Digest::from_hex(bank, text).map_err(|error| error.to_string()))
        };
        PcrBank::ALL.into_iter().filter_map(of_bank).collect::<Result<Vec<_>, _>>()
    };
    Ok(KnownDigests {
        size: object.get("size").and_then(Value::as_u64),
        plain: digests("")?,
        authenticode: digests("authenticode_")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_path_in_any_spelling_or_says_what_is_there() {
        let digest = "00".repeat(32);
        let text = format!(
            r#"{{"esp/EFI/BOOT/BOOTX64.EFI": {{"authenticode_sha256": "{digest}", "size": 3}},
                "boot/vmlinuz": {{"sha256": "{digest}"}}}}"#
        );
        let known = KnownFiles::parse(text.as_bytes()).unwrap();
        let loader = known.get("\\EFI\\BOOT\\bootx64.efi").unwrap();
        assert_eq!((loader.size, loader.plain.len(), loader.authenticode.len()), (Some(3), 0, 1));
        assert_eq!(known.get("(hd0,gpt2)/vmlinuz").unwrap().plain.len(), 1);
        let refusal = known.get("initrd").unwrap_err();
        assert_eq!(refusal, "it has boot/vmlinuz, esp/EFI/BOOT/BOOTX64.EFI");
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for text in ["", "[]", r#"{"a": 1}"#, r#"{"a": {"sha256": "00"}}"#] {
            assert!(KnownFiles::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
