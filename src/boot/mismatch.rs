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
        for difference in &mut self.differences {
            let expected = entry.events.get(&difference.pcr).map_or(&[][..], Vec::as_slice);
            let mut seen =
                logs.firmware.events().iter().filter(|event| {
                    event.extends() && event.pcr == u32::from(difference.pcr.get())
                });
            let mut wanted = expected.iter();
            difference.event = loop {
                match (seen.next(), wanted.next()) {
                    (Some(event), wanted) => {
                        let digest = event.digest(self.bank);
                        let prefix = digest.and_then(|d| BootEntry::event_prefix(d.as_bytes()));
                        match wanted {
                            _ if expected.is_empty() => break None,
                            Some(wanted) if prefix.as_ref() == Some(wanted) => {}
                            Some(_) => {
                                break Some(format!("{} is not what was sealed to", event.data()));
                            }
                            None => break Some(format!("{} was not there before", event.data())),
                        }
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
