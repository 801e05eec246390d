//! Naming what differs between the boot that was sealed to and this one.

use std::fmt;

use super::seal_point::BootLogs;
use crate::measurement::{Digest, PcrBank, PcrIndex};
use crate::token::BootEntry;

/// Why a token does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The bank of the PCRs.
    pub bank: PcrBank,
    /// Whether the record told the expected values. Without it `differences` holds every PCR of
    /// the token, for any of them may be the one.
    pub recorded: bool,
    /// The PCRs that differ.
    pub differences: Vec<PcrDifference>,
}

/// One PCR that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrDifference {
    /// The PCR.
    pub pcr: PcrIndex,
    /// The recorded value, unless there is no record.
    pub expected: Option<Digest>,
    /// The present value, unless the TPM does not keep the bank.
    pub found: Option<Digest>,
    /// The first event that differs, in words, where the log tells.
    pub event: Option<String>,
}

impl Mismatch {
    /// Whether this boot is the sealed one, but already latched.
    pub fn is_only_latched(&self) -> bool {
        self.recorded && matches!(self.differences.as_slice(), [one] if one.pcr == PcrIndex::LATCH)
    }

    /// Names, for each PCR, the first event of `logs` that is not the one `entry` was sealed with.
    pub(super) fn name_events(&mut self, entry: &BootEntry, logs: &BootLogs) {
        let events = logs.events_to_seal_point(self.bank);
        for difference in &mut self.differences {
            let expected = entry.events.get(&difference.pcr).map_or(&[][..], Vec::as_slice);
            if expected.is_empty() {
                continue;
            }
            let mut wanted = expected.iter();
            let mut seen = events.iter().filter(|(pcr, ..)| *pcr == difference.pcr);
            difference.event = loop {
                match (seen.next(), wanted.next()) {
                    (Some((_, digest, _)), Some(wanted))
                        if BootEntry::event_prefix(digest.as_bytes()).as_ref() == Some(wanted) => {}
                    (Some((.., words)), Some(_)) => {
                        break Some(format!("{words} is not what was sealed to"));
                    }
                    (Some((.., words)), None) => {
                        break Some(format!("{words} was not there before"));
                    }
                    (None, Some(_)) => break Some("an event is missing".to_owned()),
                    (None, None) => break None,
                }
            };
        }
    }

    /// The PCRs that differ, or may.
    pub fn pcrs(&self) -> Vec<PcrIndex> {
        self.differences.iter().map(|difference| difference.pcr).collect()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pcrs = crate::measurement::pcr::join_pcrs(&self.pcrs());
        if self.differences.iter().any(|difference| difference.found.is_none()) {
            return write!(f, "the TPM does not keep the {} bank that was sealed to", self.bank);
        }
        if self.is_only_latched() {
            return f.write_str(
                "PCR 15 is not zero: this boot is latched, nothing is released before the next one",
            );
        }
        if !self.recorded {
            return write!(f, "this boot is not the sealed one: PCR {pcrs} or one of them differs");
        }
        write!(f, "this boot is not the sealed one: PCR {pcrs} differs")?;
        for difference in &self.differences {
            if let Some(event) = &difference.event {
                write!(f, "; PCR {}: {event}", difference.pcr)?;
            }
        }
        Ok(())
    }
}
