//! The pin: which volume this is, beyond what an attacker with the disk can imitate.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::metadata::Metadata;
use crate::measurement::PcrBank;
use crate::secret::VolumeKey;

/// Bytes of the shortest volume key that is pinned: 256 bits.
const KEY_MIN: usize = 32;
/// Printable bytes of a hostile value that a message shows.
const SHOWN_MAX: usize = 64;

/// The identity of one volume.
///
/// A header's keyslots and digest prove nothing about the data behind them: whoever has the disk
/// can keep both and turn the data segment into plaintext. The pin holds the segment itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Pin {
    uuid: String,
    pub(super) entry: Entry,
}

/// A pin as its file has it, under the volume's UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The LUKS2 digest object of the data segment, without `keyslots`: that list changes whenever
    /// a keyslot is added, and only says which keyslots to compare with the digest.
    digest: Map<String, Value>,
    /// The only LUKS2 segment object, whole.
    segment: Map<String, Value>,
    /// HMAC-SHA256 under the volume key of `vmseal-pin:` and the UUID, in hexadecimal.
    volume_key: String,
    /// Fields of later versions, kept.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// What differs between the pinned volume and the one at hand. All text is printable ASCII and
/// bounded, although it may come from a hostile header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinMismatch {
    /// What differs, such as `segment 0 encryption`.
    pub field: String,
    /// What was pinned.
    pub expected: String,
    /// What the header says.
    pub found: String,
}

impl fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: pinned {}, header says {}", self.field, self.expected, self.found)
    }
}

impl std::error::Error for PinMismatch {}

/// Why a volume cannot be pinned: its header does not promise that the data is encrypted by one
/// strong key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpinnable {
    /// What is wrong, such as `segment 0 encryption`.
    pub field: String,
    /// What a pinned volume has there.
    pub expected: String,
    /// What the header says.
    pub found: String,
}

impl fmt::Display for Unpinnable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, expected, found } = self;
        write!(f, "the volume cannot be pinned: {field} must be {expected}, header says {found}")
    }
}

impl std::error::Error for Unpinnable {}

impl Pin {
    /// The identity of the volume with this header and key.
    ///
    /// # Errors
    /// [`Unpinnable`] unless the header has exactly one segment, of type `crypt` with a real
    /// cipher, exactly one digest for it, no reencryption, no mandatory requirement, and the key
    /// has at least 256 bits.
    pub fn of(metadata: &Metadata, key: &VolumeKey) -> Result<Self, Unpinnable> {
        let unpinnable = |mismatch: PinMismatch| Unpinnable {
            field: mismatch.field,
            expected: mismatch.expected,
            found: mismatch.found,
        };
        let identity = Identity::of_encrypted(metadata).map_err(unpinnable)?;
        let length = key.expose().len();
        if length < KEY_MIN {
            let found = format!("{} bits", length * 8);
            return Err(unpinnable(mismatch("volume key", "at least 256 bits", &found)));
        }
        let uuid = metadata.uuid().to_owned();
        let entry = Entry {
            digest: identity.digest,
            segment: identity.segment.clone(),
            volume_key: fingerprint(&uuid, key),
            extra: Map::new(),
        };
        Ok(Self { uuid, entry })
    }

    /// Whether a header could be that of any pinned volume. Where no pin is known this still keeps
    /// the key from a header that does not promise encrypted data.
    ///
    /// # Errors
    /// The first thing that no pinned volume has.
    pub fn check_unpinned(metadata: &Metadata) -> Result<(), PinMismatch> {
        Identity::of_encrypted(metadata).map(|_| ())
    }

    pub(super) fn new(uuid: &str, entry: Entry) -> Self {
        Self { uuid: uuid.to_owned(), entry }
    }

    /// The pinned segment object.
    pub(super) fn segment(&self) -> &Map<String, Value> {
        &self.entry.segment
    }

    /// The UUID of the volume.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Compares a header, before any key is released to it.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_header(&self, metadata: &Metadata) -> Result<(), PinMismatch> {
        if metadata.uuid() != self.uuid {
            return Err(mismatch("UUID", &self.uuid, metadata.uuid()));
        }
        let identity = Identity::of(metadata)?;
        compare("segment 0", &self.entry.segment, identity.segment)?;
        compare("digest", &self.entry.digest, &identity.digest)
    }

    /// Compares the key that a keyslot released, before it is used.
    ///
    /// # Errors
    /// The difference, without anything of either key.
    pub fn check_key(&self, key: &VolumeKey) -> Result<(), PinMismatch> {
        if fingerprint(&self.uuid, key) == self.entry.volume_key {
            return Ok(());
        }
        Err(mismatch("volume key", "the enrolled key", "another one"))
    }

    /// The entry of the pins file.
    pub fn entry(&self) -> Value {
        serde_json::to_value(&self.entry).unwrap_or_default()
    }

    /// SHA-256 of the entry's JSON (sorted keys, no white space), in hexadecimal: the value of
    /// `vmseal.pin=UUID:HEX`.
    pub fn digest(&self) -> String {
        digest_of(&self.entry())
    }

    /// The word for a measured kernel command line that pins the volume: `vmseal.pin=UUID:HEX`.
    pub fn cmdline_word(&self) -> String {
        format!("vmseal.pin={}:{}", self.uuid, self.digest())
    }
}

/// SHA-256 of an entry. serde_json's maps are sorted, and so is whatever goes through a value.
pub(super) fn digest_of(entry: &Value) -> String {
    hex::encode(Sha256::digest(entry.to_string()))
}

fn fingerprint(uuid: &str, key: &VolumeKey) -> String {
    PcrBank::Sha256.hmac(key.expose(), format!("vmseal-pin:{uuid}").as_bytes()).to_string()
}

/// `cipher_null` in any spelling, the kernel's `capi:` one included, is none.
fn is_cipher(encryption: &str) -> bool {
    !encryption.is_empty() && !encryption.to_ascii_lowercase().contains("null")
}

/// What every pinned header has, and what it pins of it.
struct Identity<'a> {
    segment: &'a Map<String, Value>,
    digest: Map<String, Value>,
}

impl<'a> Identity<'a> {
    /// As [`Identity::of`], of a header that names a real cipher.
    fn of_encrypted(metadata: &'a Metadata) -> Result<Self, PinMismatch> {
        let identity = Self::of(metadata)?;
        let encryption = identity.segment.get("encryption");
        if !encryption.and_then(Value::as_str).is_some_and(is_cipher) {
            return Err(mismatch("segment 0 encryption", "a cipher", &shown(encryption)));
        }
        Ok(identity)
    }

    fn of(metadata: &'a Metadata) -> Result<Self, PinMismatch> {
        let requirements = metadata.json().pointer("/config/requirements");
        if requirements.is_some_and(|found| !is_empty(found)) {
            return Err(mismatch("requirements", "none", &shown(requirements)));
        }
        for (id, keyslot) in metadata.entries("keyslots") {
            if keyslot.get("type").and_then(Value::as_str) != Some("luks2") {
                let found = shown(keyslot.get("type"));
                return Err(mismatch(&format!("keyslot {id} type"), "luks2", &found));
            }
        }
        // By name, not by number: "0" and "00" are two segments.
        let segments: Vec<_> = metadata.entries("segments").collect();
        let [("0", Value::Object(segment))] = segments.as_slice() else {
            let names: Vec<_> = segments.iter().map(|(name, _)| *name).collect();
            return Err(mismatch("segments", "0 only", &names.join(" ")));
        };
        if segment.get("type").and_then(Value::as_str) != Some("crypt") {
            return Err(mismatch("segment 0 type", "crypt", &shown(segment.get("type"))));
        }
        let lists_segment = |digest: &&Value| {
            let list = digest.get("segments").and_then(Value::as_array);
            list.is_some_and(|list| !list.is_empty())
        };
        let digests: Vec<_> =
            metadata.entries("digests").map(|(_, digest)| digest).filter(lists_segment).collect();
        let [Value::Object(digest)] = digests.as_slice() else {
            let found = digests.len().to_string();
            return Err(mismatch("digests of segment 0", "1", &found));
        };
        let mut digest = digest.clone();
        digest.remove("keyslots");
        Ok(Self { segment, digest })
    }
}

fn is_empty(requirements: &Value) -> bool {
    let empty = |list: &Value| list.as_array().is_some_and(Vec::is_empty);
    requirements.as_object().is_some_and(|object| object.values().all(empty))
}

fn compare(
    of: &str,
    pinned: &Map<String, Value>,
    found: &Map<String, Value>,
) -> Result<(), PinMismatch> {
    let names = pinned.keys().chain(found.keys());
    match names.into_iter().find(|name| pinned.get(*name) != found.get(*name)) {
        None => Ok(()),
        Some(name) => {
            let field = format!("{of} {}", printable(name));
            Err(mismatch(&field, &shown(pinned.get(name)), &shown(found.get(name))))
        }
    }
}

pub(super) fn mismatch(field: &str, expected: &str, found: &str) -> PinMismatch {
    let [field, expected, found] = [field, expected, found].map(printable);
    PinMismatch { field, expected, found }
}

/// A JSON value as a message shows it.
fn shown(value: Option<&Value>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(value) => printable(&value.to_string()),
    }
}

/// Printable ASCII of bounded length, whatever was given.
fn printable(text: &str) -> String {
    let safe = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    let shown: String = text.chars().take(SHOWN_MAX).map(safe).collect();
    if shown.is_empty() { "nothing".to_owned() } else { shown }
}
