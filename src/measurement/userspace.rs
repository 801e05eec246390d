//! The second log: what systemd measured after the firmware log had ended.
//!
//! `tpm2-measure.log` is a sequence of JSON records in the form of the TCG's canonical event log,
//! each preceded by U+001E and followed by a newline (systemd's `tpm2_userspace_log`).

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::{Value, json};

use super::digest::{Digest, PcrBank};
use super::pcr::PcrIndex;
use super::text::{LogText, printable};

/// systemd's log, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserspaceLog {
    events: Vec<UserspaceEvent>,
}

/// One record of systemd's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserspaceEvent {
    /// The PCR; `None` for a measurement into an NV index.
    pub pcr: Option<PcrIndex>,
    /// The digests of the banks that vmseal knows.
    pub digests: BTreeMap<PcrBank, Digest>,
    /// systemd's name for what was measured: `phase`, `volume-key`, `machine-id`, …
    pub event_type: Option<LogText>,
    /// What was measured, where it is no secret.
    pub word: Option<LogText>,
}

/// A record that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserspaceLogError {
    /// More bytes than a log may have ([`UserspaceLog::MAX_LEN`]).
    TooLong {
        /// Bytes found.
        found: usize,
    },
    /// Not a JSON record with a PCR and digests.
    Record {
        /// The record, counted from 1.
        record: usize,
        /// What is wrong with it.
        cause: String,
    },
}

impl fmt::Display for UserspaceLogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { found } => {
                write!(f, "{found} bytes or more, at most {} are read", UserspaceLog::MAX_LEN)
            }
            Self::Record { record, cause } => {
                write!(f, "record {record}: {cause}")
            }
        }
    }
}

impl std::error::Error for UserspaceLogError {}

#[derive(Deserialize)]
struct Record {
    pcr: Option<u64>,
    digests: Vec<RecordDigest>,
    #[serde(default)]
    content: Content,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordDigest {
    hash_alg: String,
    digest: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Content {
    string: Option<String>,
    event_type: Option<String>,
}

impl UserspaceLog {
    /// Longest log that is read, in bytes.
    pub const MAX_LEN: usize = 4 << 20;

    /// Parses the records. An empty log is a log without events.
    ///
    /// # Errors
    /// [`UserspaceLogError`], with the number of the record.
    pub fn parse(bytes: &[u8]) -> Result<Self, UserspaceLogError> {
        if bytes.len() > Self::MAX_LEN {
            return Err(UserspaceLogError::TooLong { found: bytes.len() });
        }
        let is_separator = |byte: &u8| matches!(byte, 0x1e | b'\n');
        let records = bytes.split(is_separator).filter(|record| !record.trim_ascii().is_empty());
        let event = |(index, record)| {
            UserspaceEvent::parse(record)
                .map_err(|cause| UserspaceLogError::Record { record: index + 1, cause })
        };
        Ok(Self { events: records.enumerate().map(event).collect::<Result<_, _>>()? })
    }

    /// A log of the given events, to be written.
    pub fn from_events(events: Vec<UserspaceEvent>) -> Self {
        Self { events }
    }

    /// The log as systemd writes it.
    pub fn to_text(&self) -> String {
        self.events.iter().map(|event| format!("\u{1e}{}\n", event.to_json())).collect()
    }

    /// The log with only the events that `keep` wants.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&UserspaceEvent) -> bool) -> Self {
        Self { events: self.events.iter().filter(|event| keep(event)).cloned().collect() }
    }

    /// The events in order.
    pub fn events(&self) -> &[UserspaceEvent] {
        &self.events
    }
}

impl UserspaceEvent {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        // serde_json quotes its input, which is hostile.
        let record: Record =
            serde_json::from_slice(bytes).map_err(|error| printable(&error.to_string(), 200))?;
        let pcr = record.pcr.map(PcrIndex::new).transpose().map_err(|error| error.to_string())?;
        let mut digests = BTreeMap::new();
        for found in &record.digests {
            if let Ok(bank) = found.hash_alg.parse() {
                let digest = Digest::from_hex(bank, &found.digest);
                digests.insert(bank, digest.map_err(|error| error.to_string())?);
            }
        }
        let text = |text: Option<String>| text.map(|text| LogText::from(text.as_str()));
        let (event_type, word) = (text(record.content.event_type), text(record.content.string));
        Ok(Self { pcr, digests, event_type, word })
    }

    fn to_json(&self) -> Value {
        let digests = self.digests.iter();
        let digests = digests.map(|(bank, it)| json!({ "hashAlg": bank, "digest": it }));
        let text = |text: &Option<LogText>| text.as_ref().map(|text| text.as_str().to_owned());
        json!({
            "pcr": self.pcr, "digests": digests.collect::<Vec<_>>(), "content_type": "systemd",
            "content": { "string": text(&self.word), "eventType": text(&self.event_type) },
        })
    }
}

impl fmt::Display for UserspaceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &Option<LogText>| text.as_ref().map(|text| text.shown(160));
        let event_type = shown(&self.event_type).unwrap_or_else(|| "measurement".to_owned());
        match shown(&self.word) {
            Some(word) => write!(f, "{event_type} {word}"),
            None => f.write_str(&event_type),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASE: &str = r#"{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"51e6b92f405d1f98d96e3de343d61d420ad6923b25de21d766f9298192f14fed"},{"hashAlg":"sm3","digest":"00"}],"content_type":"systemd","content":{"string":"enter-initrd","eventType":"phase"}}"#;

    #[test]
    fn reads_both_separators() {
        let text = format!("\u{1e}{PHASE}\n\u{1e}{PHASE}\n{PHASE}\n\n");
        let log = UserspaceLog::parse(text.as_bytes()).unwrap();
        assert_eq!(log.events().len(), 3);
        let event = &log.events()[2];
        assert_eq!(event.to_string(), "phase enter-initrd");
        assert_eq!(event.digests[&PcrBank::Sha256], PcrBank::Sha256.hash(b"enter-initrd"));
        assert_eq!(UserspaceLog::parse(log.to_text().as_bytes()), Ok(log));
        assert_eq!(UserspaceLog::parse(b"").unwrap().events(), []);
    }

    #[test]
    fn names_the_record_that_is_wrong() {
        for (broken, cause) in [
            (PHASE.replace("11", "24"), "24 is not a PCR number"),
            (PHASE.replace("51e6", "51"), "a sha256 digest has 32 bytes"),
            (PHASE.replace("51e6", "zzzz"), "hexadecimal"),
            (PHASE[..40].to_owned(), "EOF"),
            ("{}".to_owned(), "missing field"),
        ] {
            let error = UserspaceLog::parse(format!("{PHASE}\n{broken}\n").as_bytes()).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("record 2: "), "{text}");
            assert!(text.contains(cause), "{text}");
        }
    }

    #[test]
    fn a_record_without_a_pcr_extends_none() {
        let nv = PHASE.replace(r#""pcr":11"#, r#""nvIndexName":"hardware""#);
        let log = UserspaceLog::parse(nv.as_bytes()).unwrap();
        assert_eq!(log.events()[0].pcr, None);
    }
}
