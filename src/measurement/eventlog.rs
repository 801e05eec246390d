//! The firmware event log: parser and writer of the crypto-agile form and the SHA-1-only one.

use std::fmt;

use super::digest::PcrBank;
use super::event::{Event, EventDigest, EventType};
use super::pcr::PcrIndex;
use super::reader::Reader;

/// Signature of the `TCG_EfiSpecIdEvent` that opens a crypto-agile log (PFP 10.4.5.1).
const SPEC_ID_03: &[u8; 16] = b"Spec ID Event03\0";
const SHA1_LEN: usize = 20;
/// Most algorithms that a header may declare; `TPM2_NUM_PCR_BANKS` of the TPM software stack.
const MAX_ALGORITHMS: u32 = 16;

/// An algorithm that the header declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm {
    /// `TPM_ALG_ID`, known to vmseal or not.
    pub id: u16,
    /// Bytes of its digests in this log.
    pub digest_len: u16,
}

/// How the events of a log are laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// `TCG_PCR_EVENT2` after a `TCG_PCR_EVENT` header that declares these algorithms.
    CryptoAgile(Vec<Algorithm>),
    /// `TCG_PCR_EVENT` throughout: one SHA-1 digest an event.
    Sha1Only,
}

/// A firmware event log, such as the kernel's `binary_bios_measurements`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    format: LogFormat,
    events: Vec<Event>,
    // What follows the last event: the unused rest of a firmware's log area, all 0x00 or all 0xff.
    padding: Vec<u8>,
}

/// A log that is not one. Undecodable event *data* is no such error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventLogError {
    /// No bytes at all.
    Empty,
    /// More bytes than a log may have.
    TooLong {
        /// Bytes found; at most [`EventLog::MAX_LEN`] were expected.
        found: usize,
    },
    /// More events than a log may have ([`EventLog::MAX_EVENTS`]).
    TooManyEvents,
    /// The log ends inside an event.
    Truncated {
        /// The event.
        event: usize,
        /// Where the missing field starts, in bytes.
        offset: usize,
        /// The field.
        field: &'static str,
        /// Bytes of it that were expected.
        expected: u64,
        /// Bytes that are left.
        found: usize,
    },
    /// A field holds what it cannot hold.
    Malformed {
        /// The event.
        event: usize,
        /// Where the field starts, in bytes.
        offset: usize,
        /// The field.
        field: &'static str,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
}

impl fmt::Display for EventLogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty"),
            Self::TooLong { found } => {
                write!(f, "{found} bytes or more, at most {} are read", EventLog::MAX_LEN)
            }
            Self::TooManyEvents => {
                write!(f, "more than {} events", EventLog::MAX_EVENTS)
            }
            Self::Truncated { event, offset, field, expected, found } => write!(
                f,
                "truncated in event {event}: {field} at byte {offset} has {expected} bytes, {found} \
                 are left"
            ),
            Self::Malformed { event, offset, field, expected, found } => {
                write!(f, "event {event}: {field} at byte {offset} is {found}, expected {expected}")
            }
        }
    }
}

impl std::error::Error for EventLogError {}

impl EventLog {
    /// Longest log that is read, in bytes.
    pub const MAX_LEN: usize = 16 << 20;
    /// Most events that are read.
    pub const MAX_EVENTS: usize = 100_000;

    /// Parses a log. [`EventLog::to_bytes`] gives the same bytes back.
    ///
    /// # Errors
    /// [`EventLogError`], with the number and offset of the event where the log stops being one.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventLogError> {
        if bytes.is_empty() {
            return Err(EventLogError::Empty);
        }
        if bytes.len() > Self::MAX_LEN {
            return Err(EventLogError::TooLong { found: bytes.len() });
        }
        let mut parser = Parser { reader: Reader::new(bytes), event: 0 };
        let first = parser.sha1_event()?;
        let format = match spec_id_algorithms(&first)? {
            Some(algorithms) => LogFormat::CryptoAgile(algorithms),
            None => LogFormat::Sha1Only,
        };
        let mut log = Self { format, events: vec![first], padding: Vec::new() };
        while !parser.reader.is_empty() {
            if log.is_padding(parser.reader.rest()) {
                log.padding = parser.reader.rest().to_vec();
                break;
            }
            parser.event = log.events.len();
            if parser.event == Self::MAX_EVENTS {
                return Err(EventLogError::TooManyEvents);
            }
            log.events.push(match &log.format {
                LogFormat::CryptoAgile(algorithms) => parser.agile_event(algorithms)?,
                LogFormat::Sha1Only => parser.sha1_event()?,
            });
        }
        Ok(log)
    }

    /// The events at the start of bytes of which nobody knows where the log in them ends. One that
    /// extends its PCR and has no digest is none: zeros would pass for such.
    ///
    /// # Errors
    /// [`EventLogError`], where not even the first event is one.
    pub fn parse_start(bytes: &[u8]) -> Result<Self, EventLogError> {
        let bytes = bytes.get(..Self::MAX_LEN).unwrap_or(bytes);
        let mut parser = Parser { reader: Reader::new(bytes), event: 0 };
        let first = parser.sha1_event()?;
        let format = match spec_id_algorithms(&first)? {
            Some(algorithms) => LogFormat::CryptoAgile(algorithms),
            None => LogFormat::Sha1Only,
        };
        let mut log = Self { format, events: vec![first], padding: Vec::new() };
        while log.events.len() < Self::MAX_EVENTS {
            parser.event = log.events.len();
            let next = match &log.format {
                LogFormat::CryptoAgile(algorithms) => parser.agile_event(algorithms),
                LogFormat::Sha1Only => parser.sha1_event(),
            };
            let is_one = |event: &Event| !event.extends() || !event.digests.is_empty();
            let Some(event) = next.ok().filter(is_one) else { break };
            log.events.push(event);
        }
        Ok(log)
    }

    /// A log of the given events, to be written: what predictions and tests make.
    /// A crypto-agile log needs its header as the first event.
    pub fn from_events(format: LogFormat, events: Vec<Event>) -> Self {
        Self { format, events, padding: Vec::new() }
    }

    /// The log as the firmware writes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, event) in self.events.iter().enumerate() {
            out.extend(event.pcr.to_le_bytes());
            out.extend(event.event_type.code().to_le_bytes());
            if self.is_agile() && index > 0 {
                out.extend(u32::try_from(event.digests.len()).unwrap_or(u32::MAX).to_le_bytes());
                for digest in &event.digests {
                    out.extend(digest.alg_id.to_le_bytes());
                    out.extend(&digest.bytes);
                }
            } else {
                event.digests.iter().take(1).for_each(|digest| out.extend(&digest.bytes));
            }
            out.extend(u32::try_from(event.raw.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend(&event.raw);
        }
        out.extend(&self.padding);
        out
    }

    /// How the log is laid out.
    pub fn format(&self) -> &LogFormat {
        &self.format
    }

    /// The events in order; the header of a crypto-agile log is event 0.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The banks that the log has digests for, of those that vmseal knows.
    pub fn banks(&self) -> Vec<PcrBank> {
        match &self.format {
            LogFormat::CryptoAgile(algorithms) => {
                algorithms.iter().filter_map(|alg| PcrBank::from_alg_id(alg.id)).collect()
            }
            LogFormat::Sha1Only => vec![PcrBank::Sha1],
        }
    }

    fn is_agile(&self) -> bool {
        matches!(self.format, LogFormat::CryptoAgile(_))
    }

    // Firmware presets its log area (EDK II with 0xff, others with zeros) and an ACPI-provided log
    // is the whole area. Less than an event's fixed part is no padding but a cut event.
    fn is_padding(&self, rest: &[u8]) -> bool {
        let fixed_part = if self.is_agile() { 16 } else { 12 + SHA1_LEN };
        rest.len() >= fixed_part
            && (rest.iter().all(|byte| *byte == 0) || rest.iter().all(|byte| *byte == 0xff))
    }
}

/// The algorithms of a `TCG_EfiSpecIdEvent`; `None` when the event is something else.
fn spec_id_algorithms(event: &Event) -> Result<Option<Vec<Algorithm>>, EventLogError> {
    if event.event_type != EventType::NoAction || !event.raw.starts_with(SPEC_ID_03) {
        return Ok(None);
    }
    // The data starts after PCR, type, digest and length of the first event.
    let data_offset = 8 + SHA1_LEN + 4;
    let mut parser = Parser { reader: Reader::new(&event.raw), event: 0 };
    let shift = |error| match error {
        EventLogError::Truncated { event, offset, field, expected, found } => {
            let offset = offset + data_offset;
            EventLogError::Truncated { event, offset, field, expected, found }
        }
        other => other,
    };
    // Signature, platform class, version (minor, major, errata), size of UINTN.
    parser.take("header", 16 + 4 + 4).map_err(shift)?;
    let malformed = |offset, field, expected: String, found: String| {
        Err(EventLogError::Malformed { event: 0, offset, field, expected, found })
    };
    let offset = data_offset + parser.reader.offset();
    let count = parser.u32("number of algorithms").map_err(shift)?;
    if !(1..=MAX_ALGORITHMS).contains(&count) {
        let expected = format!("1 to {MAX_ALGORITHMS}");
        return malformed(offset, "number of algorithms", expected, count.to_string());
    }
    let mut algorithms: Vec<Algorithm> = Vec::new();
    for _ in 0..count {
        let offset = data_offset + parser.reader.offset();
        let id = parser.u16("algorithm identifier").map_err(shift)?;
        let digest_len = parser.u16("digest size").map_err(shift)?;
        if algorithms.iter().any(|known| known.id == id) {
            let found = format!("0x{id:04x} again");
            let expected = "each algorithm once".to_owned();
            return malformed(offset, "algorithm identifier", expected, found);
        }
        let expected = PcrBank::from_alg_id(id).map_or(1..=64, |bank| {
            let len = bank.digest_len();
            len..=len
        });
        if !expected.contains(&usize::from(digest_len)) {
            let expected = format!("{} to {}", expected.start(), expected.end());
            return malformed(offset, "digest size", expected, digest_len.to_string());
        }
        algorithms.push(Algorithm { id, digest_len });
    }
    let vendor_len = parser.take("vendor information size", 1).map_err(shift)?;
    let vendor_len = vendor_len.iter().map(|byte| usize::from(*byte)).sum();
    parser.take("vendor information", vendor_len).map_err(shift)?;
    Ok(Some(algorithms))
}

struct Parser<'a> {
    reader: Reader<'a>,
    event: usize,
}

impl<'a> Parser<'a> {
    fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], EventLogError> {
        let (offset, found) = (self.reader.offset(), self.reader.rest().len());
        self.reader.take(len).ok_or(EventLogError::Truncated {
            event: self.event,
            offset,
            field,
            expected: len as u64,
            found,
        })
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, EventLogError> {
        let bytes = self.take(field, 2)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes)))
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, EventLogError> {
        let bytes = self.take(field, 4)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }

    /// PCR index and event type, which both layouts start with.
    fn pcr_and_type(&mut self) -> Result<(u32, EventType), EventLogError> {
        let offset = self.reader.offset();
        let pcr = self.u32("PCR index")?;
        let event_type = EventType::from_code(self.u32("event type")?);
        // EV_NO_ACTION extends nothing and may carry any index (PFP 10.4.5).
        if event_type != EventType::NoAction && pcr >= u32::from(PcrIndex::COUNT) {
            return Err(EventLogError::Malformed {
                event: self.event,
                offset,
                field: "PCR index",
                expected: "0 to 23".to_owned(),
                found: pcr.to_string(),
            });
        }
        Ok((pcr, event_type))
    }

    fn data(&mut self) -> Result<Vec<u8>, EventLogError> {
        let len = self.u32("event size")?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        Ok(self.take("event data", len)?.to_vec())
    }

    /// `TCG_PCR_EVENT` (PFP 10.2.1).
    fn sha1_event(&mut self) -> Result<Event, EventLogError> {
        let (pcr, event_type) = self.pcr_and_type()?;
        let bytes = self.take("digest", SHA1_LEN)?.to_vec();
        let digests = vec![EventDigest { alg_id: PcrBank::Sha1.alg_id(), bytes }];
        Ok(Event { number: self.event, pcr, event_type, digests, raw: self.data()? })
    }

    /// `TCG_PCR_EVENT2` (PFP 10.2.2).
    fn agile_event(&mut self, algorithms: &[Algorithm]) -> Result<Event, EventLogError> {
        let (pcr, event_type) = self.pcr_and_type()?;
        let malformed = |event, offset, field, expected, found| {
            Err(EventLogError::Malformed { event, offset, field, expected, found })
        };
        let offset = self.reader.offset();
        let count = self.u32("digest count")?;
        if usize::try_from(count).is_ok_and(|count| count > algorithms.len()) {
            let expected = format!("at most {}", algorithms.len());
            return malformed(self.event, offset, "digest count", expected, count.to_string());
        }
        let mut digests: Vec<EventDigest> = Vec::with_capacity(algorithms.len());
        for _ in 0..count {
            let offset = self.reader.offset();
            let alg_id = self.u16("digest algorithm")?;
            let declared = algorithms.iter().find(|alg| alg.id == alg_id);
            let again = digests.iter().any(|digest| digest.alg_id == alg_id);
            let Some(algorithm) = declared.filter(|_| !again) else {
                let expected = "one that the header declares, once".to_owned();
                let found = format!("0x{alg_id:04x}");
                return malformed(self.event, offset, "digest algorithm", expected, found);
            };
            let bytes = self.take("digest", algorithm.digest_len.into())?.to_vec();
            digests.push(EventDigest { alg_id, bytes });
        }
        Ok(Event { number: self.event, pcr, event_type, digests, raw: self.data()? })
    }
}

#[cfg(test)]
mod tests;
