//! The copy of what is approved that the header carries for the boot: one token, written at once.

use crate::error::Error;
use crate::luks::{Device, Metadata};
use crate::policy::{PolicyDigest, Signatures};
use crate::token::{BootEntry, JournalHead, Record};

use super::keyslots::sealed_keyslots;
use super::record::{current_record, write_record};

/// Which boots open a keyslot that an authority's signatures open.
#[derive(Debug, Clone, PartialEq)]
pub struct Endorsement {
    /// The keyslot.
    pub keyslot: u32,
    /// The policy that it is sealed under.
    pub policy: PolicyDigest,
    /// All approved boots of it, oldest first.
    pub boots: Vec<BootEntry>,
    /// The signatures of these, and of whatever else the header is to open for.
    pub signatures: Signatures,
    /// Where the journal ends that tells of it.
    pub journal_head: Option<JournalHead>,
}

/// Brings the header to say so. Whether anything had to be written.
///
/// # Errors
/// Those of [`check_endorsable`]; the header is then as it was, as after a failed write.
pub fn endorse(device: &mut Device, endorsement: &Endorsement) -> Result<bool, Error> {
    let Some((id, record)) = change(device.metadata(), endorsement)? else { return Ok(false) };
    device.require_space(0, &[record.to_json()], id)?;
    write_record(device, id, &record)?;
    Ok(true)
}

/// Whether the header has the keyslot, and room, without writing.
///
/// # Errors
/// [`Error::KeyslotGone`], [`Error::RecordFull`], [`Error::RecordNewer`], and
/// [`LuksError::JsonAreaFull`](crate::luks::LuksError::JsonAreaFull).
pub fn check_endorsable(device: &Device, endorsement: &Endorsement) -> Result<(), Error> {
    if let Some((id, record)) = change(device.metadata(), endorsement)? {
        device.require_space(0, &[record.to_json()], id)?;
    }
    Ok(())
}

/// The record as it is to be, where it is not so yet, and the token that it takes the place of.
fn change(
    metadata: &Metadata,
    endorsement: &Endorsement,
) -> Result<Option<(Option<u32>, Record)>, Error> {
    let Endorsement { keyslot, policy, boots, signatures, journal_head } = endorsement;
    if !sealed_keyslots(metadata).contains(&(*keyslot, *policy)) {
        return Err(Error::KeyslotGone { keyslot: *keyslot });
    }
    let (id, before) = current_record(metadata)?;
    let mut record = before.clone();
    record.entries.retain(|entry| entry.keyslot != *keyslot);
    for boot in boots {
        // Events only word refusals: those of a boot that stays are as good as they were.
        let known = before.entries.iter().find(|entry| entry.values == boot.values);
        let mut boot = boot.clone();
        if let (true, Some(known)) = (boot.events.is_empty(), known) {
            boot.events.clone_from(&known.events);
        }
        record.entries.push(boot);
    }
    record.signatures = signatures.clone();
    let is_full = record.entries.len() > Record::MAX_ENTRIES
        || record.to_json().to_string().len() > Record::MAX_BYTES;
    if is_full {
        return Err(Error::RecordFull);
    }
    // What does not fit is left out of both.
    if record.to_json() == before.to_json() {
        return Ok(None);
    }
    record.journal_head = journal_head.or(record.journal_head);
    record.generation = before.generation.saturating_add(1);
    Ok(Some((id, record)))
}
