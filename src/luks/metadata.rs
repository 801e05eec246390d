//! The metadata of a LUKS2 header: keyslots, tokens, and the room that is left.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::error::LuksError;
use crate::ffi::cryptsetup::Context;

/// Bytes of the binary header before each JSON area (LUKS2 on-disk format, 2.1).
const BINARY_HEADER: u64 = 4096;

/// What a header says, as libcryptsetup understood it. Unauthenticated.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    uuid: String,
    json: Value,
    json_area: u64,
}

/// The room of the JSON area, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonSpace {
    /// The longest text that fits.
    pub size: u64,
    /// The length of the present text.
    pub used: u64,
}

impl JsonSpace {
    /// Bytes left.
    pub fn free(self) -> u64 {
        self.size.saturating_sub(self.used)
    }
}

/// One keyslot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyslot {
    /// Its number, 0 to 31.
    pub id: u32,
    /// `luks2`, or `reencrypt`.
    pub kind: String,
    /// Bytes of the key it holds.
    pub key_size: u64,
    /// Bytes of its binary area.
    pub area_size: u64,
    /// How a passphrase becomes its key; `None` for other kinds than `luks2`.
    pub pbkdf: Option<Pbkdf>,
    /// Whether it is tried on its own.
    pub priority: Priority,
    /// Whether it holds the key of the data; `false` for unbound keyslots.
    pub bound: bool,
}

/// A keyslot's key derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pbkdf {
    /// `pbkdf2`, `argon2i` or `argon2id`.
    pub kind: String,
    /// PBKDF2's hash, such as `sha512`; empty for Argon2.
    pub hash: String,
    /// Iterations of PBKDF2, or the time cost of Argon2.
    pub iterations: u64,
}

/// A keyslot's `priority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Opened only when asked for by number.
    Ignore,
    /// Tried after the preferred ones.
    Normal,
    /// Tried first.
    Prefer,
}

impl Metadata {
    /// Takes the metadata out of a loaded context.
    pub(super) fn of(context: &Context, path: &Path) -> Result<Self, LuksError> {
        let damaged =
            |detail: &str| LuksError::HeaderDamaged { path: path.into(), detail: detail.into() };
        let json = context.json().map_err(|failure| damaged(&failure.detail))?;
        let json = serde_json::from_slice(&json).map_err(|_| damaged("its JSON is no JSON"))?;
        // libcryptsetup writes nothing else, and a terminal would obey what it does not print.
        let is_uuid = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        let uuid = context.uuid().filter(|uuid| uuid.len() == 36 && uuid.bytes().all(is_uuid));
        let size = context.metadata_size().map_err(|failure| damaged(&failure.detail))?;
        Ok(Self {
            uuid: uuid.ok_or_else(|| damaged("it has no UUID"))?,
            json,
            // One byte is the NUL that ends the text.
            json_area: size.saturating_sub(BINARY_HEADER + 1),
        })
    }

    /// The volume's UUID, as written in the binary header.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The whole JSON object: `keyslots`, `tokens`, `segments`, `digests`, `config`.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The fields of a top-level object, as they are.
    pub(super) fn entries(&self, name: &str) -> impl Iterator<Item = (&str, &Value)> {
        let object = self.json.get(name).and_then(Value::as_object);
        object.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
    }

    /// The objects under a top-level name, by number.
    pub(super) fn objects(&self, name: &str) -> BTreeMap<u32, &Map<String, Value>> {
        let parse = |id: &str| id.parse::<u32>().ok();
        self.entries(name)
            .filter_map(|(id, value)| Some((parse(id)?, value.as_object()?)))
            .collect()
    }

    /// The tokens by number, unparsed.
    pub fn tokens(&self) -> BTreeMap<u32, Value> {
        let whole = |(id, token): (_, &Map<_, _>)| (id, Value::Object(token.clone()));
        self.objects("tokens").into_iter().map(whole).collect()
    }

    /// The keyslots, ascending.
    pub fn keyslots(&self) -> Vec<Keyslot> {
        let bound: Vec<u32> = self
            .objects("digests")
            .values()
            .filter(|digest| !strings(digest.get("segments")).is_empty())
            .flat_map(|digest| strings(digest.get("keyslots")))
            .filter_map(|id| id.parse().ok())
            .collect();
        let keyslot = |(id, json): (u32, &Map<String, Value>)| Keyslot {
            id,
            kind: text(json.get("type")),
            key_size: number(json.get("key_size")),
            area_size: number(json.get("area").and_then(|area| area.get("size"))),
            pbkdf: json.get("kdf").map(|kdf| Pbkdf {
                kind: text(kdf.get("type")),
                hash: text(kdf.get("hash")),
                iterations: number(kdf.get("iterations").or_else(|| kdf.get("time"))),
            }),
            priority: match json.get("priority").and_then(Value::as_u64) {
                Some(0) => Priority::Ignore,
                Some(2) => Priority::Prefer,
                _ => Priority::Normal,
            },
            bound: bound.contains(&id),
        };
        self.objects("keyslots").into_iter().map(keyslot).collect()
    }

    /// Offset and length in bytes of the areas of `luks2` keyslots.
    pub(super) fn keyslot_areas(&self) -> Vec<(u64, u64)> {
        let keyslots = self.entries("keyslots").map(|(_, keyslot)| keyslot);
        keyslots
            .filter(|keyslot| keyslot.get("type").and_then(Value::as_str) == Some("luks2"))
            .filter_map(area)
            .collect()
    }

    /// How many more keyslots for the volume's key have room between the areas in use.
    pub(super) fn free_keyslot_areas(&self) -> u64 {
        let keyslots = self.keyslots();
        let key_size =
            keyslots.iter().filter(|keyslot| keyslot.bound).map(|keyslot| keyslot.key_size);
        // The key is split into 4000 stripes, and the area rounded up to whole pages
        // (libcryptsetup's `get_area_size`).
        let needed = (key_size.max().unwrap_or(64) * 4000).next_multiple_of(4096).max(4096);
        let start = 2 * (self.json_area + 1 + BINARY_HEADER);
        let length = number(self.json.pointer("/config/keyslots_size"));
        let mut areas: Vec<_> =
            self.entries("keyslots").filter_map(|(_, keyslot)| area(keyslot)).collect();
        areas.push((start.saturating_add(length), 0));
        areas.sort_unstable();
        let mut end = start;
        let mut free = 0;
        for (offset, length) in areas {
            free += offset.saturating_sub(end) / needed;
            end = end.max(offset.saturating_add(length));
        }
        free
    }

    /// The room of the JSON area.
    pub fn json_space(&self) -> JsonSpace {
        JsonSpace { size: self.json_area, used: compact_length(&self.json) }
    }
}

/// Bytes of a value in the form that libcryptsetup writes: no white space, slashes unescaped.
pub(super) fn compact_length(json: &Value) -> u64 {
    json.to_string().len() as u64
}

fn area(keyslot: &Value) -> Option<(u64, u64)> {
    let area = keyslot.get("area")?;
    Some((number(area.get("offset")), number(area.get("size"))))
}

fn strings(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// LUKS2 writes 64-bit numbers as strings, smaller ones as numbers; libcryptsetup checked both.
fn number(value: Option<&Value>) -> u64 {
    match value {
        Some(Value::String(digits)) => digits.parse().unwrap_or(0),
        Some(value) => value.as_u64().unwrap_or(0),
        None => 0,
    }
}
