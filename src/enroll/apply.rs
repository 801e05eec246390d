//! Sealing a keyslot, step by step. Killed after any step, the volume opens as before or as
//! intended: the pin is true whether or not anything is sealed; a keyslot is announced in the record
//! before it is made, so that the next enrolment can tell an orphan from a passphrase; the old
//! keyslot goes only when the new one has been seen to open.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::boot::{self, Approvals, Choice, Judgement, Verdict};
use crate::error::Error;
use crate::luks::{Device, Metadata, Pin, Pins};
use crate::policy::{AuthorityKey, Signatures};
use crate::secret::{KeyslotPassphrase, TypedPin, VolumeKey};
use crate::token::{BootEntry, JournalHead, PinDerivation, Record, Sealed, SystemdTpm2};
use crate::tpm::TpmError;

use super::keyslots::{first_free_keyslot, keyslots_of, sealed_keyslots};
use super::plan::Plan;
use super::record::{announce, current_record, sweep, take_back, write_record};
use super::to::To;

/// What an enrolment made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The new keyslot.
    pub keyslot: u32,
    /// The new token.
    pub token: u32,
    /// Keyslots that were sealed to the same boot, and are gone.
    pub superseded: Vec<u32>,
    /// Keyslots that were sealed before and stay: to other boots, or to this one where the new
    /// keyslot is not proven or they could not be removed.
    pub kept: Vec<u32>,
    /// Whether the TPM was seen to release the secret. It cannot where this boot is latched.
    pub proven: bool,
}

/// Refuses a volume that is pinned already and is not, or is no longer, the pinned one. A volume
/// without a pin passes: enrolling pins it.
///
/// # Errors
/// [`Error::NotPinned`], and those of the pins file.
pub fn check_pinned(
    pins: &Path,
    metadata: &Metadata,
    key: Option<&VolumeKey>,
) -> Result<(), Error> {
    let Some(pin) = Pins::read(pins)?.get(metadata.uuid())? else { return Ok(()) };
    pin.check_header(metadata)?;
    Ok(key.map_or(Ok(()), |key| pin.check_key(key))?)
}

/// The entry that the pins file will have once `pin` is set in it, for the record.
///
/// # Errors
/// Those of the pins file.
pub(super) fn pin_entry(pins: &Path, pin: &Pin) -> Result<Value, Error> {
    let mut pins = Pins::read(pins)?;
    pins.set(pin);
    Ok(pins.get(pin.uuid())?.map(|pin| pin.entry()).unwrap_or_default())
}

/// Pins the volume that `key` belongs to, ahead of anything else: true whatever follows. Returns
/// whether the file of pins has changed.
///
/// # Errors
/// [`Error::Unpinnable`], [`Error::NotPinned`], and those of the pins file.
pub fn pin_volume(pins: &Path, metadata: &Metadata, key: &VolumeKey) -> Result<bool, Error> {
    let pin = Pin::of(metadata, key)?;
    check_pinned(pins, metadata, Some(key))?;
    let before = Pins::read(pins)?;
    Pins::update(pins, |pins| pins.set(&pin))?;
    Ok(Pins::read(pins)? != before)
}

/// What an enrolment needs besides its plan.
pub struct With<'a> {
    /// The file of pins.
    pub pins: &'a Path,
    /// JSON that the caller will add afterwards: it must fit too, or nothing is written.
    pub extra: &'a [Value],
    /// The PIN, where the plan wants one.
    pub pin: Option<&'a TypedPin>,
    /// Where the journal ends that tells of this, for the record.
    pub journal_head: Option<JournalHead>,
    /// Approvals, to prove a keyslot that an authority's signature opens.
    pub approvals: &'a Approvals,
    /// The signatures that the record is to carry, where they are this machine's own.
    pub signatures: Option<&'a Signatures>,
    /// The key whose place the plan's has taken: what its signatures open is superseded.
    pub replaced: Option<&'a AuthorityKey>,
}

/// Seals a new keyslot as `plan` says and pins the volume, whose key came out of keyslot `opened`:
/// that one is never removed.
///
/// # Errors
/// Refusals come before the first write. Where a later step fails, what was added is taken back, or,
/// where the disk does not let that be written either, by the next enrolment.
pub fn apply(
    device: &mut Device,
    (opened, key): (u32, &VolumeKey),
    to: To<'_>,
    plan: &Plan,
    with: &With<'_>,
) -> Result<Enrolled, Error> {
    let With { pins: pins_file, extra, .. } = *with;
    /// Two digits, the longest number that a keyslot can have.
    const LONGEST: u32 = 31;
    let pin = Pin::of(device.metadata(), key)?;
    check_pinned(pins_file, device.metadata(), Some(key))?;
    let pin_entry = pin_entry(pins_file, &pin)?;
    let (record_id, before) = current_record(device.metadata())?;
    let policy = plan.policy_digest();
    let approve = |keyslot| {
        let mut record = before.clone();
        // The same policy over the same values is the same boot. What else an authority has approved
        // opens the new keyslot too.
        record.entries.retain(|e| e.policy_hash != policy || e.values != plan.values);
        let others = record.entries.iter_mut().filter(|entry| entry.policy_hash == policy);
        others.for_each(|entry| entry.keyslot = keyslot);
        let (values, events) = (plan.values.clone(), plan.events.clone());
        record.entries.push(BootEntry::new(keyslot, policy, values, events));
        record.generation = record.generation.saturating_add(1);
        record.pending = None;
        record.pin = Some(pin_entry.clone());
        if let Some(signatures) = with.signatures {
            record.signatures = signatures.clone();
        }
        // One of another system's journal stays where this one has none.
        record.journal_head = with.journal_head.or(record.journal_head);
        record
    };
    let longest = approve(LONGEST);
    if longest.entries.len() > Record::MAX_ENTRIES || has_many_signatures(&longest, with) {
        return Err(Error::RecordFull);
    }
    let srk = to.srk()?;
    let derivation = match with.pin {
        Some(_) if to.is_locked()? => return Err(TpmError::Lockout.into()),
        Some(_) => Some(PinDerivation::new_pbkdf2().map_err(no_randomness)?),
        None => None,
    };
    let typed = derivation.as_ref().zip(with.pin);
    let keys = typed.and_then(|(derivation, pin)| derivation.derive(pin));
    let (secret, object) = to.seal(&srk, policy, keys.map(|keys| keys.auth))?;
    let passphrase = secret.to_keyslot_passphrase();
    drop(secret);
    let (literal, authorization) = (plan.literal(), plan.authorization());
    let token = |keyslot| {
        let sealed = Sealed {
            keyslot,
            object: &object,
            pcrs: &literal,
            srk: &srk,
            pin: derivation.as_ref(),
            authorization: authorization.as_ref(),
        };
        SystemdTpm2::sealed(&sealed).map_err(|error| Error::BadToken { token: 0, error })
    };
    let mut announced = longest;
    announced.pending = Some(announce(device.metadata(), key, LONGEST));
    let mut added = vec![token(LONGEST)?.to_json(), announced.to_json()];
    added.extend_from_slice(extra);
    device.require_space(1 + u32::from(!extra.is_empty()), &added, record_id)?;

    Pins::update(pins_file, |pins| pins.set(&pin))?;
    sweep(device, key, opened)?;
    let keyslot = first_free_keyslot(device.metadata());
    let (token, approved) = (token(keyslot)?, approve(keyslot));
    let others = sealed_keyslots(device.metadata()).into_iter().filter(|(id, _)| *id != opened);
    let replaced = with.replaced.map(|key| keyslots_of(device.metadata(), key)).unwrap_or_default();
    let (same, other): (Vec<_>, Vec<_>) =
        others.partition(|(id, sealed)| *sealed == policy || replaced.contains(id));
    let (record_id, mut before) = current_record(device.metadata())?;
    before.pending = Some(announce(device.metadata(), key, keyslot));
    let record_id = write_record(device, record_id, &before)?;
    before.pending = None;

    let made = make_keyslot(device, key, &passphrase, &token).and_then(|token_id| {
        let proven = prove(device, to, plan, &token, typed, with.approvals)?;
        device.replace_token(record_id, &approved.to_json())?;
        Ok((token_id, proven))
    });
    let (token_id, proven) = made.inspect_err(|_| {
        // Best effort: what cannot be taken back now is pending, and swept next time.
        let _ = take_back(device, keyslot, (record_id, &before));
    })?;
    let mut enrolled =
        Enrolled { keyslot, token: token_id, superseded: vec![], kept: vec![], proven };
    enrolled.kept = other.into_iter().map(|(id, _)| id).collect();
    for (id, _) in same {
        // What has not been seen to open replaces nothing.
        let gone =
            proven && super::revoke(device, super::Target::Keyslot(id), with.journal_head).is_ok();
        let list = if gone { &mut enrolled.superseded } else { &mut enrolled.kept };
        list.push(id);
    }
    Ok(enrolled)
}

/// Each approved boot has a signature of its own, and they share the record's room.
fn has_many_signatures(record: &Record, with: &With<'_>) -> bool {
    with.signatures.is_some_and(|signatures| signatures.len() > Record::MAX_ENTRIES)
        || with.signatures.is_some() && record.to_json().to_string().len() > Record::MAX_BYTES
}

fn make_keyslot(
    device: &mut Device,
    key: &VolumeKey,
    passphrase: &KeyslotPassphrase,
    token: &SystemdTpm2,
) -> Result<u32, Error> {
    let added = device.add_keyslot(key, passphrase)?;
    if added != token.keyslot {
        device.remove_keyslot(added)?;
        return Err(Error::KeyslotRefused { token: 0, keyslot: added });
    }
    Ok(device.add_token(&token.to_json())?)
}

/// Has the TPM release the secret and opens the keyslot with it, where this boot still can.
fn prove(
    device: &mut Device,
    to: To<'_>,
    plan: &Plan,
    token: &SystemdTpm2,
    typed: Option<(&PinDerivation, &TypedPin)>,
    approvals: &Approvals,
) -> Result<bool, Error> {
    let Some(tpm) = to.tpm() else { return Ok(false) };
    if tpm.read_pcrs(&[plan.selection()])?.first() != Some(&plan.values) {
        return Ok(false);
    }
    let tokens = BTreeMap::from([(0, token.to_json())]);
    let choice = Choice::among(&tokens, || approvals.clone());
    let judgement = choice.judge(|_, pcr| plan.values.get(pcr).copied()).pop();
    let Some(Judgement { verdict: Verdict::Fits(candidate), .. }) = judgement else {
        return Ok(false);
    };
    let passphrase = boot::passphrase(tpm, &candidate, typed)?;
    device.open_keyslot(Some(token.keyslot), &passphrase)?;
    Ok(true)
}

fn no_randomness(error: getrandom::Error) -> Error {
    Error::NoRandomness { cause: error.to_string() }
}
