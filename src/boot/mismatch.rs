//! Naming what differs between the boot that was sealed to, or approved, and this one.

use std::collections::BTreeSet;
use std::fmt;

use super::seal_point::BootLogs;
use crate::measurement::diff::{Expected, Finding};
use crate::measurement::pcr::join_pcrs;
use crate::measurement::text::printable;
use crate::measurement::{Digest, PcrBank, PcrIndex, PcrSelection};
use crate::policy::{Authorization, Pcrlock, Signatures};
use crate::token::{BootEntry, Kind, Record, SystemdTpm2};

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
    /// Why they do, in words, where the expected events are at hand.
    pub causes: Vec<String>,
}

/// Why nobody has approved the present PCR values for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unapproved {
    /// What there is not.
    pub lacking: Lacking,
    /// What differs from the recorded boot, where the token has one.
    pub mismatch: Option<Mismatch>,
}

/// An approval that there is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lacking {
    /// A signature of these PCRs, as they are now.
    Signature {
        /// The bank that must be signed.
        bank: PcrBank,
        /// The PCRs that must be signed.
        pcrs: Vec<PcrIndex>,
        /// The banks for which the key has signed anything, be it another state or other PCRs.
        signed_banks: BTreeSet<PcrBank>,
    },
    /// The `pcrlock.json` of the token's NV index.
    PcrlockPolicy,
}

/// The recorded boots of `token` that tell of all PCRs in `selection`.
fn entries<'a>(
    record: Option<&'a Record>,
    token: &SystemdTpm2,
    selection: &PcrSelection,
) -> impl Iterator<Item = &'a BootEntry> {
    record.into_iter().flat_map(|record| &record.entries).filter(|entry| {
        token.policy_hashes.first() == Some(&entry.policy_hash)
            && entry.values.bank() == selection.bank
            && selection.pcrs.iter().all(|pcr| entry.values.get(*pcr).is_some())
    })
}

impl Unapproved {
    /// That no signature fits.
    pub(super) fn unsigned(
        token: &SystemdTpm2,
        authorization: &Authorization,
        signatures: &Signatures,
        record: Option<&Record>,
        pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
    ) -> Self {
        let selection = &authorization.pcrs;
        let mismatch = Mismatch::of(selection, token, record, pcr);
        let telling = mismatch.recorded && !mismatch.differences.is_empty();
        Self {
            lacking: Lacking::Signature {
                bank: selection.bank,
                pcrs: selection.pcrs.iter().copied().collect(),
                signed_banks: signatures.banks_of(authorization),
            },
            mismatch: telling.then_some(mismatch),
        }
    }

    /// That the `pcrlock.json` is not there.
    pub(super) fn no_pcrlock() -> Self {
        Self { lacking: Lacking::PcrlockPolicy, mismatch: None }
    }

    /// Why a token has no policy at all.
    pub(super) fn without_policy(token: &SystemdTpm2) -> Option<Self> {
        matches!(token.kind, Kind::Pcrlock | Kind::SignedAndPcrlock).then(Self::no_pcrlock)
    }
}

impl fmt::Display for Unapproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.lacking {
            Lacking::Signature { bank, pcrs, signed_banks } => {
                write!(f, "no signature covers {bank} PCR {} as they are now", join_pcrs(pcrs))?;
                if signed_banks.is_empty() {
                    f.write_str(": there is none by the token's key")?;
                } else if !signed_banks.contains(bank) {
                    f.write_str(": the key has signed for other banks only")?;
                }
            }
            Lacking::PcrlockPolicy => {
                f.write_str("there is no pcrlock.json of the token's NV index")?;
            }
        }
        self.mismatch.as_ref().map_or(Ok(()), |mismatch| write!(f, ": {mismatch}"))
    }
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
    /// What differs in the literal PCRs of a token.
    pub(super) fn literal(
        token: &SystemdTpm2,
        record: Option<&Record>,
        pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
    ) -> Self {
        Self::of(&token.pcrs, token, record, pcr)
    }

    /// What differs in the PCRs of `selection`, where `token` is for it: from the recorded boot that
    /// comes nearest, or, without one, all of them.
    fn of(
        selection: &PcrSelection,
        token: &SystemdTpm2,
        record: Option<&Record>,
        pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
    ) -> Self {
        let differences = |entry: Option<&BootEntry>| -> Vec<_> {
            let difference = |index: &PcrIndex| PcrDifference {
                pcr: *index,
                expected: entry.and_then(|entry| entry.values.get(*index)).copied(),
                found: pcr(selection.bank, *index),
                event: None,
            };
            let all = selection.pcrs.iter().map(difference);
            all.filter(|one| entry.is_none() || one.expected != one.found).collect()
        };
        let recorded = entries(record, token, selection).map(|entry| differences(Some(entry)));
        let nearest = recorded.min_by_key(Vec::len);
        Self {
            bank: selection.bank,
            recorded: nearest.is_some(),
            differences: nearest.unwrap_or_else(|| differences(None)),
            causes: vec![],
        }
    }

    /// What differs from all that a pcrlock policy allows; `None` where nothing does.
    pub(super) fn stored(
        policy: &Pcrlock,
        pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
    ) -> Option<Self> {
        let differences: Vec<_> = policy
            .differing(&pcr)
            .into_iter()
            .map(|index| PcrDifference {
                pcr: index,
                expected: policy.values.get(&index).and_then(|values| values.first()).copied(),
                found: pcr(policy.bank, index),
                event: None,
            })
            .collect();
        let mismatch = Self { bank: policy.bank, recorded: true, differences, causes: vec![] };
        (!mismatch.differences.is_empty()).then_some(mismatch)
    }

    /// The recorded boot of `token` that these differences are from.
    pub fn entry<'a>(
        &self,
        record: Option<&'a Record>,
        token: &SystemdTpm2,
    ) -> Option<&'a BootEntry> {
        let differing = PcrSelection::new(self.bank, self.pcrs());
        entries(record, token, &differing).find(|entry| {
            self.differences.iter().all(|one| entry.values.get(one.pcr) == one.expected.as_ref())
        })
    }

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

    /// Names the causes of the differences, from the events that were expected and those of `logs`.
    /// What moved none of the differing PCRs is left out.
    pub fn name_causes(&mut self, expected: &Expected, logs: &BootLogs, cmdline: Option<&str>) {
        /// Most causes that one line holds; `vmseal explain` tells all.
        const MAX: usize = 2;
        let pcrs = self.pcrs();
        let findings = expected.explain(&logs.notes(self.bank, cmdline));
        let moved = |finding: &&Finding| finding.pcrs.iter().any(|pcr| pcrs.contains(pcr));
        let told = findings.iter().filter(moved);
        self.causes = told.take(MAX).map(|finding| printable(&finding.text, 120)).collect();
    }

    /// The PCRs that differ, or may.
    pub fn pcrs(&self) -> Vec<PcrIndex> {
        self.differences.iter().map(|difference| difference.pcr).collect()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pcrs = join_pcrs(&self.pcrs());
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
        if !self.causes.is_empty() {
            return write!(f, ": {}", self.causes.join("; "));
        }
        for difference in &self.differences {
            if let Some(event) = &difference.event {
                write!(f, "; PCR {}: {event}", difference.pcr)?;
            }
        }
        Ok(())
    }
}
