//! Taking over a volume that systemd enrolled: its pin, and a record of the boot that its tokens are
//! for. Tokens and keyslots stay as they are.

use std::collections::BTreeSet;
use std::path::Path;

use crate::boot::{BootLogs, Candidate, Judgement, Verdict};
use crate::coverage::{Coverage, Uncovered};
use crate::error::Error;
use crate::luks::{Device, Metadata, Pin, Pins};
use crate::measurement::{Digest, PcrBank, PcrIndex, PcrValues};
use crate::secret::VolumeKey;
use crate::token::{BootEntry, JournalHead, Record};
use crate::tpm::TpmError;

use super::apply::{check_pinned, pin_entry};
use super::record::{current_record, write_record};

/// A volume's TPM tokens, and the record that tells of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Adoption {
    /// The tokens, in order of their ids.
    pub tokens: Vec<Adopted>,
    record: Record,
    record_id: Option<u32>,
    /// Whether the record says more than the header's does.
    pub changes_record: bool,
}

/// One token, and what a person who relies on it should know.
#[derive(Debug, Clone, PartialEq)]
pub struct Adopted {
    /// The token, and whether it opens in this boot.
    pub judgement: Judgement,
    /// Whether the record tells of the boot that it is for, so that a refusal can name what differs.
    pub recorded: bool,
    /// The boot that it is for, where that is this one.
    pub entry: Option<BootEntry>,
    /// What it lets be changed; `None` where no event log tells what its PCRs stand for, or where it
    /// is not known which PCRs it looks at.
    pub uncovered: Option<Vec<Uncovered>>,
    /// Whether the latch bars it.
    pub latchable: bool,
}

impl Adoption {
    /// Looks at the tokens of `metadata`, which `judgements` are about; `pcr` and `logs` tell of this
    /// boot at the seal point.
    ///
    /// # Errors
    /// [`Error::NoToken`], [`Error::BadToken`] or [`TpmError::Foreign`] where no token is one that
    /// this machine could ever use; [`Error::RecordFull`], [`Error::RecordNewer`].
    pub fn plan(
        metadata: &Metadata,
        judgements: Vec<Judgement>,
        logs: Option<&BootLogs>,
        pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
    ) -> Result<Self, Error> {
        require_useful(&judgements)?;
        let coverage = logs.map(|logs| Coverage::of(&logs.firmware));
        let (record_id, before) = current_record(metadata)?;
        let mut record = before.clone();
        let mut tokens = vec![];
        for judgement in judgements {
            let fits = match &judgement.verdict {
                Verdict::Fits(candidate) => Some(&**candidate),
                _ => None,
            };
            let entry = fits.and_then(|candidate| entry(candidate, logs, &pcr));
            if let Some(entry) = &entry
                && record.entry(&entry.policy_hash).is_none()
            {
                record.entries.push(entry.clone());
            }
            let token = judgement.verdict.token();
            let recorded = token
                .and_then(|token| token.policy_hashes.first())
                .is_some_and(|hash| record.entry(hash).is_some());
            let bound = fits.map(|candidate| selected(candidate).1);
            tokens.push(Adopted {
                recorded,
                entry,
                uncovered: bound.zip(coverage.as_ref()).map(|(pcrs, all)| all.uncovered(&pcrs)),
                latchable: token.is_some_and(|token| token.pcrs.pcrs.contains(&PcrIndex::LATCH)),
                judgement,
            });
        }
        if record.entries.len() > Record::MAX_ENTRIES {
            return Err(Error::RecordFull);
        }
        let changes_record = record.entries != before.entries;
        record.generation = before.generation.saturating_add(u64::from(changes_record));
        Ok(Self { tokens, record, record_id, changes_record })
    }
}

/// Pins the volume and writes the record, in this order: the pin is true in any case. `journal_head`
/// is where the journal ends that tells of it, for the record.
///
/// # Errors
/// [`Error::NotPinned`] where another pin is known; a header without room for the record is refused
/// before anything is written.
pub fn adopt(
    device: &mut Device,
    key: &VolumeKey,
    pins: &Path,
    adoption: &Adoption,
    journal_head: Option<JournalHead>,
) -> Result<(), Error> {
    let pin = Pin::of(device.metadata(), key)?;
    check_pinned(pins, device.metadata(), Some(key))?;
    let pinned = Some(pin_entry(pins, &pin)?);
    let changes = adoption.changes_record || adoption.record.pin != pinned;
    let mut record = adoption.record.clone();
    record.pin = pinned;
    if changes {
        record.journal_head = journal_head.or(record.journal_head);
        device.require_space(0, &[record.to_json()], adoption.record_id)?;
    }
    Pins::update(pins, |pins| pins.set(&pin))?;
    if changes {
        write_record(device, adoption.record_id, &record)?;
    }
    Ok(())
}

/// Refuses where all tokens are useless, for the reason of the first.
fn require_useful(judgements: &[Judgement]) -> Result<(), Error> {
    let useless = |judgement: &&Judgement| {
        matches!(judgement.verdict, Verdict::Malformed(_) | Verdict::Foreign(_))
    };
    if judgements.iter().any(|judgement| !useless(&judgement)) {
        return Ok(());
    }
    Err(match judgements.first() {
        None => Error::NoToken,
        Some(Judgement { token, verdict: Verdict::Malformed(error) }) => {
            Error::BadToken { token: *token, error: error.clone() }
        }
        Some(_) => TpmError::Foreign.into(),
    })
}

/// The PCRs that a token looks at: those of one bank, for a record's entry has one.
fn selected(candidate: &Candidate) -> (PcrBank, BTreeSet<PcrIndex>) {
    let selections = candidate.policies.iter().flat_map(|policy| policy.selections());
    let mut selections = selections.filter(|selection| !selection.pcrs.is_empty());
    let Some(first) = selections.next() else { return (PcrBank::Sha256, BTreeSet::new()) };
    let same_bank = selections.filter(|selection| selection.bank == first.bank);
    (first.bank, same_bank.fold(first.pcrs, |all, more| &all | &more.pcrs))
}

/// What the record says of this boot for a token; nothing where the token looks at no PCR.
fn entry(
    candidate: &Candidate,
    logs: Option<&BootLogs>,
    pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
) -> Option<BootEntry> {
    let (bank, pcrs) = selected(candidate);
    let mut values = PcrValues::new(bank);
    for index in &pcrs {
        values.set(*index, pcr(bank, *index)?);
    }
    let point = logs.and_then(|logs| logs.seal_point(bank).ok());
    let mut events = point.map(|point| point.events).unwrap_or_default();
    events.retain(|index, _| pcrs.contains(index));
    let token = &candidate.token;
    let hash = *token.policy_hashes.first()?;
    (!pcrs.is_empty()).then(|| BootEntry::new(token.keyslot, hash, values, events))
}
