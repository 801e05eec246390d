//! One measurement that a boot to come will make.

use crate::measurement::{Digest, PcrBank, PcrIndex};

/// What will be extended into a PCR, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The PCR.
    pub pcr: PcrIndex,
    /// The digests that are known, at most one a bank.
    pub digests: Vec<Digest>,
    /// What is measured, in words, as [`crate::measurement::EventData`] would say it of the event.
    pub words: String,
}

impl Measured {
    /// The measurement of bytes that are at hand.
    pub fn of_bytes(pcr: PcrIndex, banks: &[PcrBank], bytes: &[u8], words: String) -> Self {
        Self { pcr, digests: banks.iter().map(|bank| bank.hash(bytes)).collect(), words }
    }

    /// The digest for a bank, where it is known.
    pub fn digest(&self, bank: PcrBank) -> Option<&Digest> {
        self.digests.iter().find(|digest| digest.bank() == bank)
    }
}
