//! The record: what systemd's token has no room for, in a LUKS2 token of its own.
//!
//! It says which PCR values each approved boot had, so that a refusal can name what differs. It is
//! unauthenticated: nothing is opened, and no keyslot removed, on its word alone.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::JournalHead;
use super::field::{Fields, TokenError};
use crate::measurement::{Digest, PcrBank, PcrIndex, PcrValues};
use crate::policy::{PolicyDigest, Signatures};

const TYPE: &str = "vmseal-record";
const VERSION: u64 = 1;
const KNOWN: [&str; 9] = [
    "type",
    "keyslots",
    "version",
    "generation",
    "entries",
    "pending",
    "signatures",
    "pin",
    "journal_head",
];
/// Bytes of each event's digest that the record keeps: enough to tell which event differs.
const PREFIX: usize = 4;

/// Whether a boot may be opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryState {
    /// Approved by whoever enrolled or resealed.
    Approved,
}

/// One approved boot.
#[derive(Debug, Clone, PartialEq)]
pub struct BootEntry {
    /// Digest of the policy that its token carries: the link between the two.
    pub policy_hash: PolicyDigest,
    /// The keyslot that opens for it.
    pub keyslot: u32,
    /// The PCR values that it was sealed to.
    pub values: PcrValues,
    /// For each PCR, the first bytes of the digest of each event that extended it, in order.
    pub events: BTreeMap<PcrIndex, Vec<[u8; PREFIX]>>,
    /// Whether it may be opened for.
    pub state: EntryState,
    /// Fields of later versions.
    other: Map<String, Value>,
}

/// A keyslot that an enrolment has begun and may have left without its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its number.
    pub keyslot: u32,
    /// What ties the announcement to the volume key and to the header that it was written to;
    /// empty where that is not told, and then it is not believed.
    pub mac: String,
}

/// The `vmseal-record` token.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Record {
    /// Counts approvals: the policy epoch.
    pub generation: u64,
    /// The approved boots, oldest first.
    pub entries: Vec<BootEntry>,
    /// The keyslot of an enrolment that is under way, or was cut short.
    pub pending: Option<Pending>,
    /// Signatures of approved boots, which the header carries for the boot step. They speak for
    /// themselves: the TPM verifies them.
    pub signatures: Signatures,
    /// The volume's entry of the pins file, for a boot step that knows its digest alone
    /// (`vmseal.pin=`). Whoever has the disk can write another: only the digest makes it a pin.
    pub pin: Option<Value>,
    /// Where the journal of the system that wrote this ended: what it holds is on record there.
    pub journal_head: Option<JournalHead>,
    other: Map<String, Value>,
}

impl BootEntry {
    /// An approved boot.
    pub fn new(
        keyslot: u32,
        policy_hash: PolicyDigest,
        values: PcrValues,
        events: BTreeMap<PcrIndex, Vec<[u8; PREFIX]>>,
    ) -> Self {
        Self {
            policy_hash,
            keyslot,
            values,
            events,
            state: EntryState::Approved,
            other: Map::new(),
        }
    }

    /// [`boot_id`] of it.
    pub fn id(&self) -> String {
        boot_id(&self.policy_hash, &self.values)
    }

    /// The first bytes of an event's digest, as [`BootEntry::events`] keeps them.
    pub fn event_prefix(digest: &[u8]) -> Option<[u8; PREFIX]> {
        digest.first_chunk::<PREFIX>().copied()
    }
}

impl Record {
    /// Most entries that a record may have.
    pub const MAX_ENTRIES: usize = 8;
    /// Most bytes of the pin's JSON; a longer one is left out.
    pub const MAX_PIN: usize = 600;
    /// Most bytes of JSON: LUKS2's area holds about 12 KiB for keyslots and all tokens together.
    pub const MAX_BYTES: usize = 8192;

    /// Whether a token's JSON is a record, well-formed or not.
    pub fn is_type_of(json: &Value) -> bool {
        json.get("type").and_then(Value::as_str) == Some(TYPE)
    }

    /// Whether a token's JSON is a record of a later version, which vmseal must not rewrite.
    pub fn is_newer(json: &Value) -> bool {
        let version = json.get("version").and_then(Value::as_u64);
        Self::is_type_of(json) && version.is_some_and(|version| version > VERSION)
    }

    /// The record among a header's tokens, by token id: the first that can be read, else why the
    /// first cannot.
    pub fn find(tokens: &BTreeMap<u32, Value>) -> Option<(u32, Result<Self, TokenError>)> {
        let mut records = tokens
            .iter()
            .filter(|(_, json)| Self::is_type_of(json))
            .map(|(id, json)| (*id, Self::parse(json)))
            .collect::<Vec<_>>();
        let readable = records.iter().position(|(_, record)| record.is_ok());
        (!records.is_empty()).then(|| records.swap_remove(readable.unwrap_or(0)))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`TokenError`] naming the first field that is wrong; a newer version is one of them.
    pub fn parse(json: &Value) -> Result<Self, TokenError> {
        let fields = Fields::of(json, TYPE)?;
        let json = fields.0;
        if json.get("version").and_then(Value::as_u64) != Some(VERSION) {
            return Err(TokenError::Value {
                field: "version",
                found: format!("only version {VERSION} is known"),
            });
        }
        let entries = fields.required_list("entries")?;
        if entries.len() > Self::MAX_ENTRIES {
            return Err(TokenError::Value {
                field: "entries",
                found: format!("{} where at most 8 may be", entries.len()),
            });
        }
        Ok(Self {
            generation: json
                .get("generation")
                .and_then(Value::as_u64)
                .ok_or(TokenError::Type { field: "generation", expected: "a number" })?,
            entries: entries.iter().map(BootEntry::parse).collect::<Result<_, _>>()?,
            pending: match json.get("pending") {
                None => None,
                Some(value) => Some(Pending {
                    keyslot: keyslot("pending", value.get("keyslot"))?,
                    mac: value.get("mac").and_then(Value::as_str).unwrap_or_default().to_owned(),
                }),
            },
            signatures: {
                let mut signatures = Signatures::default();
                // One that cannot be read approves nothing, and spoils nothing else.
                let _ = json.get("signatures").map(|found| signatures.add(found));
                signatures
            },
            pin: json.get("pin").filter(|pin| is_short(pin)).cloned(),
            // What is no head tells nothing of any journal.
            journal_head: json
                .get("journal_head")
                .and_then(Value::as_str)
                .and_then(|text| text.parse().ok()),
            other: unknown(json, &KNOWN),
        })
    }

    /// The record as it goes into the header. Where it would be too large, entries lose their
    /// events, oldest first, and then those go that share a policy with a later one, and open by their
    /// signatures: both only make a refusal more telling.
    pub fn to_json(&self) -> Value {
        let mut record = self.clone();
        for index in 0..=record.entries.len() {
            let json = record.encode();
            if json.to_string().len() <= Self::MAX_BYTES {
                return json;
            }
            if let Some(entry) = record.entries.get_mut(index) {
                entry.events.clear();
            }
        }
        while record.encode().to_string().len() > Self::MAX_BYTES {
            let shared = record.entries.iter().enumerate().position(|(index, entry)| {
                let mut later = record.entries.iter().skip(index + 1);
                later.any(|other| other.policy_hash == entry.policy_hash)
            });
            let Some(index) = shared else { break };
            record.entries.remove(index);
        }
        record.encode()
    }

    /// The entry whose policy has this digest.
    pub fn entry(&self, policy_hash: &PolicyDigest) -> Option<&BootEntry> {
        self.entries.iter().find(|entry| entry.policy_hash == *policy_hash)
    }

    fn encode(&self) -> Value {
        let mut json = self.other.clone();
        json.insert("type".into(), TYPE.into());
        json.insert("keyslots".into(), json!([]));
        json.insert("version".into(), VERSION.into());
        json.insert("generation".into(), self.generation.into());
        json.insert("entries".into(), self.entries.iter().map(BootEntry::encode).collect());
        if !self.signatures.is_empty() {
            json.insert("signatures".into(), self.signatures.to_json());
        }
        if let Some(pin) = self.pin.as_ref().filter(|pin| is_short(pin)) {
            json.insert("pin".into(), pin.clone());
        }
        if let Some(head) = self.journal_head {
            json.insert("journal_head".into(), head.to_string().into());
        }
        if let Some(Pending { keyslot, mac }) = &self.pending {
            let pending = json!({ "keyslot": keyslot.to_string(), "mac": mac });
            json.insert("pending".into(), pending);
        }
        Value::Object(json)
    }
}

impl BootEntry {
    fn parse(json: &Value) -> Result<Self, TokenError> {
        let json = json
            .as_object()
            .ok_or(TokenError::Type { field: "entries", expected: "an array of objects" })?;
        let fields = Fields(json);
        let bank: PcrBank = fields
            .text("bank")?
            .ok_or(TokenError::Missing { field: "bank" })?
            .parse()
            .map_err(value_error("bank"))?;
        let mut values = PcrValues::new(bank);
        for (pcr, value) in object("pcrs", json.get("pcrs"))? {
            let text = value.as_str().unwrap_or_default();
            let digest = Digest::from_hex(bank, text).map_err(value_error("pcrs"))?;
            values.set(pcr, digest);
        }
        let mut events = BTreeMap::new();
        if let Some(found) = json.get("events") {
            for (pcr, value) in object("events", Some(found))? {
                let bytes = hex::decode(value.as_str().unwrap_or_default())
                    .map_err(value_error("events"))?;
                let (prefixes, _) = bytes.as_chunks::<PREFIX>();
                events.insert(pcr, prefixes.to_vec());
            }
        }
        let hash =
            fields.text("policy_hash")?.ok_or(TokenError::Missing { field: "policy_hash" })?;
        let hash = hex::decode(hash).map_err(value_error("policy_hash"))?;
        Ok(Self {
            policy_hash: PolicyDigest::from_bytes(&hash).map_err(value_error("policy_hash"))?,
            keyslot: keyslot("keyslot", json.get("keyslot"))?,
            values,
            events,
            state: match fields.text("state")? {
                Some("approved") => EntryState::Approved,
                _ => return Err(TokenError::Value { field: "state", found: "not known".into() }),
            },
            other: unknown(json, &["policy_hash", "keyslot", "bank", "pcrs", "events", "state"]),
        })
    }

    fn encode(&self) -> Value {
        let mut json = self.other.clone();
        json.insert("policy_hash".into(), self.policy_hash.to_string().into());
        json.insert("keyslot".into(), self.keyslot.to_string().into());
        json.insert("bank".into(), self.values.bank().name().into());
        let pcrs: Map<_, _> = self
            .values
            .iter()
            .map(|(pcr, value)| (pcr.to_string(), value.to_string().into()))
            .collect();
        json.insert("pcrs".into(), pcrs.into());
        if !self.events.is_empty() {
            let events: Map<_, _> = self
                .events
                .iter()
                .map(|(pcr, prefixes)| (pcr.to_string(), hex::encode(prefixes.concat()).into()))
                .collect();
            json.insert("events".into(), events.into());
        }
        let EntryState::Approved = self.state;
        json.insert("state".into(), "approved".into());
        Value::Object(json)
    }
}

/// What tells an approved boot from others: the first digits of a digest of policy and values, in
/// hexadecimal.
pub fn boot_id(policy: &PolicyDigest, values: &PcrValues) -> String {
    const DIGITS: usize = 16;
    let mut text = format!("{policy}:{}", values.bank());
    values.iter().for_each(|(pcr, value)| text += &format!(":{pcr}={value}"));
    let digest = PcrBank::Sha256.hash(text.as_bytes()).to_string();
    digest.chars().take(DIGITS).collect()
}

fn is_short(pin: &Value) -> bool {
    pin.is_object() && pin.to_string().len() <= Record::MAX_PIN
}

fn value_error<E: std::fmt::Display>(field: &'static str) -> impl Fn(E) -> TokenError {
    move |error| TokenError::Value { field, found: error.to_string() }
}

fn keyslot(field: &'static str, value: Option<&Value>) -> Result<u32, TokenError> {
    let text = value.and_then(Value::as_str).ok_or(TokenError::Missing { field })?;
    text.parse().map_err(|_| TokenError::Value { field, found: "not a keyslot number".into() })
}

/// The members of an object from PCR number to something.
fn object<'a>(
    field: &'static str,
    value: Option<&'a Value>,
) -> Result<Vec<(PcrIndex, &'a Value)>, TokenError> {
    let members = value
        .and_then(Value::as_object)
        .ok_or(TokenError::Type { field, expected: "an object" })?;
    members
        .iter()
        .map(|(name, value)| Ok((name.parse().map_err(value_error(field))?, value)))
        .collect()
}

fn unknown(json: &Map<String, Value>, known: &[&str]) -> Map<String, Value> {
    json.iter()
        .filter(|(name, _)| !known.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_record_is_found_where_no_other_is() {
        let malformed = json!({ "type": TYPE, "keyslots": [], "version": 1 });
        let mut tokens = BTreeMap::from([(1, json!({ "type": "other" })), (2, malformed)]);
        assert!(matches!(Record::find(&tokens), Some((2, Err(TokenError::Missing { .. })))));
        tokens.insert(3, Record::default().to_json());
        assert!(matches!(Record::find(&tokens), Some((3, Ok(_)))));
        tokens.retain(|id, _| *id == 1);
        assert!(Record::find(&tokens).is_none());
    }

    #[test]
    fn the_head_of_the_journal_is_kept_and_nothing_else_in_its_place() {
        let hash = PcrBank::Sha256.hash(b"line");
        let head = Some(JournalHead { seq: 7, hash, begin: [1; 4] });
        let mut json = Record { journal_head: head, ..Record::default() }.to_json();
        let record = Record::parse(&json).expect("a record");
        assert_eq!((record.journal_head, record.to_json()), (head, json.clone()));
        assert!(json["journal_head"].to_string().len() <= 100);
        json["journal_head"] = "7:seven".into();
        let record = Record::parse(&json).expect("a record");
        assert_eq!(record.to_json().get("journal_head"), None);
    }
}
