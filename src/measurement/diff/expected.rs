//! The expected events of an approved boot, as they are kept in a file for explanations. The file
//! is unauthenticated: it words a refusal, and decides nothing.

use std::fmt;

use serde_json::{Map, Value, json};

use super::note::{Note, Role};
use super::{Finding, explain};
use crate::measurement::{PcrBank, PcrIndex};

const VERSION: u64 = 1;
/// Bytes of each digest that are kept.
const DIGEST_LEN: usize = 8;

/// The events of one approved boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The bank of the digests.
    pub bank: PcrBank,
    /// The policy that the boot was approved under, in hexadecimal: the tie to its record.
    pub policy_hash: String,
    /// The events, in order.
    pub notes: Vec<Note>,
    /// Characters of GRUB's commands that were kept, where they were too long.
    cut: Option<usize>,
}

/// A file that holds no expected events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedError {
    /// More bytes than are read ([`Expected::MAX_LEN`]).
    TooLong,
    /// Not such JSON.
    Field {
        /// The field that is wrong.
        field: &'static str,
    },
}

impl fmt::Display for ExpectedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "more than {} bytes", Expected::MAX_LEN),
            Self::Field { field } => write!(f, "{field} is missing or wrong"),
        }
    }
}

impl std::error::Error for ExpectedError {}

impl Expected {
    /// Longest file, in bytes.
    pub const MAX_LEN: usize = 64 << 10;
    /// Most events that are read.
    const MAX_EVENTS: usize = 2048;

    /// The expected events of a boot.
    pub fn new(bank: PcrBank, policy_hash: String, notes: Vec<Note>) -> Self {
        let notes = notes.into_iter().map(|mut note| {
            note.digest.truncate(DIGEST_LEN);
            note
        });
        Self { bank, policy_hash, notes: notes.collect(), cut: None }
    }

    /// The file, at most [`Expected::MAX_LEN`] bytes: where it would be longer, GRUB's commands are
    /// cut. `None` where even that does not do.
    pub fn to_json(&self) -> Option<String> {
        [None, Some(512), Some(128), Some(40)].into_iter().find_map(|cut| {
            let mut shorter = Self { cut, ..self.clone() };
            shorter.notes.iter_mut().for_each(|note| cut_command(note, cut));
            let text = shorter.encode().to_string();
            (text.len() <= Self::MAX_LEN).then_some(text)
        })
    }

    fn encode(&self) -> Value {
        let event = |note: &Note| {
            let mut event = Map::new();
            event.insert("pcr".into(), note.pcr.get().into());
            event.insert("digest".into(), hex::encode(&note.digest).into());
            event.insert("role".into(), note.role.name().into());
            if !note.text.is_empty() {
                event.insert("text".into(), note.text.as_str().into());
            }
            if let Some(size) = note.size {
                event.insert("size".into(), size.into());
            }
            Value::Object(event)
        };
        json!({
            "version": VERSION,
            "bank": self.bank.name(),
            "policy_hash": self.policy_hash,
            "cut": self.cut,
            "events": self.notes.iter().map(event).collect::<Vec<_>>(),
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ExpectedError`] with the first field that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ExpectedError> {
        if bytes.len() > Self::MAX_LEN {
            return Err(ExpectedError::TooLong);
        }
        let wrong = |field| ExpectedError::Field { field };
        let json: Value = serde_json::from_slice(bytes).map_err(|_| wrong("JSON"))?;
        let text = |value: &Value, field| value.get(field)?.as_str().map(ToOwned::to_owned);
        if json.get("version").and_then(Value::as_u64) != Some(VERSION) {
            return Err(wrong("version"));
        }
        let bank: PcrBank =
            text(&json, "bank").and_then(|bank| bank.parse().ok()).ok_or_else(|| wrong("bank"))?;
        let policy_hash = text(&json, "policy_hash").ok_or_else(|| wrong("policy_hash"))?;
        let cut = json.get("cut").and_then(Value::as_u64);
        let events = json.get("events").and_then(Value::as_array);
        let events = events
            .filter(|events| events.len() <= Self::MAX_EVENTS)
            .ok_or_else(|| wrong("events"))?;
        let note = |event: &Value| {
            let digest = hex::decode(text(event, "digest")?).ok()?;
            Some(Note {
                pcr: PcrIndex::new(event.get("pcr")?.as_u64()?).ok()?,
                // Fewer bytes would make strangers equal.
                digest: Some(digest).filter(|digest| digest.len() == DIGEST_LEN)?,
                role: text(event, "role").map_or(Role::Unknown, |role| Role::from_name(&role)),
                text: text(event, "text").unwrap_or_default(),
                size: event.get("size").and_then(Value::as_u64),
            })
        };
        let notes: Option<Vec<_>> = events.iter().map(note).collect();
        let notes = notes.ok_or_else(|| wrong("events"))?;
        let cut = cut.and_then(|cut| usize::try_from(cut).ok());
        Ok(Self { bank, policy_hash, notes, cut })
    }

    /// What changed since, in words.
    pub fn explain(&self, seen: &[Note]) -> Vec<Finding> {
        let mut seen = seen.to_vec();
        seen.iter_mut().for_each(|note| cut_command(note, self.cut));
        explain(&self.notes, &seen)
    }
}

/// Shortens what GRUB ran, but for the line that starts the kernel.
fn cut_command(note: &mut Note, cut: Option<usize>) {
    let Some(cut) = cut.filter(|_| note.role == Role::GrubCommand) else { return };
    if !matches!(note.key(), "linux" | "linuxefi") {
        note.text = note.text.chars().take(cut).collect();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(text: String) -> Note {
        let pcr = PcrIndex::new(8).unwrap();
        Note { pcr, digest: vec![3; 32], role: Role::GrubCommand, text, size: None }
    }

    #[test]
    fn a_file_is_read_back() {
        let mut image = command("\\EFI\\BOOT\\BOOTX64.EFI".into());
        (image.role, image.size) = (Role::Loader, Some(7));
        let notes = vec![image, command("menuentry \u{1b}".into())];
        let expected = Expected::new(PcrBank::Sha384, "ab".into(), notes);
        let text = expected.to_json().unwrap();
        assert_eq!(Expected::parse(text.as_bytes()).unwrap(), expected);
        assert_eq!(expected.notes[0].digest, [3; DIGEST_LEN]);
    }

    #[test]
    fn long_commands_are_cut_and_compared_as_cut() {
        let menu: Vec<Note> = (0..200).map(|_| command("x".repeat(3000))).collect();
        let text = Expected::new(PcrBank::Sha256, "ab".into(), menu.clone()).to_json().unwrap();
        let read = Expected::parse(text.as_bytes()).unwrap();
        assert_eq!(read.cut, Some(128));
        assert_eq!(read.explain(&menu), []);
        let many = vec![command(String::new()); 5000];
        assert_eq!(Expected::new(PcrBank::Sha256, "ab".into(), many).to_json(), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = Expected::new(PcrBank::Sha256, "ab".into(), vec![command("x".into())]);
        let good = good.to_json().unwrap();
        for (from, to, field) in [
            ("{", "[", "JSON"),
            ("\"version\":1", "\"version\":2", "version"),
            ("sha256", "md5", "bank"),
            ("\"pcr\":8", "\"pcr\":24", "events"),
            ("\"digest\":\"03", "\"digest\":\"", "events"),
            ("\"policy_hash\":\"ab\"", "\"policy_hash\":1", "policy_hash"),
        ] {
            let broken = good.replacen(from, to, 1);
            assert_ne!(broken, good, "{from}");
            let error = Expected::parse(broken.as_bytes()).unwrap_err();
            assert_eq!(error, ExpectedError::Field { field }, "{broken}");
        }
        let long = vec![b' '; Expected::MAX_LEN + 1];
        assert_eq!(Expected::parse(&long), Err(ExpectedError::TooLong));
    }

    proptest! {
        #[test]
        fn hostile_files_are_explained_in_printable_ascii(text in ".{0,40}", role in 0usize..34,
                                                          pcr in 0u64..24) {
            let note = |digest, text: &str| Note {
                pcr: PcrIndex::new(pcr).unwrap(),
                digest: vec![digest; 8],
                role: Role::ALL[role],
                text: text.to_owned(),
                size: None,
            };
            for (old, new) in [(vec![note(1, &text)], vec![note(2, "b")]), (vec![], vec![note(2, &text)]),
                               (vec![note(1, "a")], vec![note(2, &text)]), (vec![note(1, &text)], vec![])] {
                let findings = explain(&old, &new);
                prop_assert!(matches!(findings.len(), 1 | 2));
                for finding in findings {
                    let said = finding.to_string();
                    prop_assert!(said.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", said);
                    prop_assert!(said.len() < 1000);
                }
            }
        }
    }
}
