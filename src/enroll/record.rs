//! The record in the header: what of it is believed, and how a keyslot is announced in it before it
//! is made, so that the next enrolment can tell an orphan from a key that somebody has.

use serde_json::Value;

use crate::error::Error;
use crate::luks::{Device, Metadata};
use crate::measurement::PcrBank;
use crate::secret::VolumeKey;
use crate::token::{BootEntry, Pending, Record, SystemdTpm2};

use super::keyslots::{is_machine_made, named_keyslots, names_keyslot, sealed_keyslots};
use super::recovery::UNSEEN;

/// The record to go on with, and its token: the header's without entries that no sealed keyslot
/// bears out, or a new one. One that cannot be read is replaced where it is.
///
/// # Errors
/// [`Error::RecordNewer`].
pub(super) fn current_record(metadata: &Metadata) -> Result<(Option<u32>, Record), Error> {
    let tokens = metadata.tokens();
    let (id, mut record) = match Record::find(&tokens) {
        None => return Ok((None, Record::default())),
        Some((id, Ok(record))) => (id, record),
        Some((token, Err(_))) if tokens.get(&token).is_some_and(Record::is_newer) => {
            return Err(Error::RecordNewer { token });
        }
        Some((id, Err(_))) => return Ok((Some(id), Record::default())),
    };
    let sealed = sealed_keyslots(metadata);
    let mut kept: Vec<BootEntry> = vec![];
    for entry in record.entries {
        let same = |k: &BootEntry| k.policy_hash == entry.policy_hash && k.values == entry.values;
        let twice = kept.iter().any(same);
        if !twice && sealed.contains(&(entry.keyslot, entry.policy_hash)) {
            kept.push(entry);
        }
    }
    record.entries = kept;
    Ok((Some(id), record))
}

/// Writes the record over token `id`, or as a new token.
pub(super) fn write_record(
    device: &mut Device,
    id: Option<u32>,
    record: &Record,
) -> Result<u32, Error> {
    match id {
        Some(id) => device.replace_token(id, &record.to_json()).map(|()| id),
        None => device.add_token(&record.to_json()),
    }
    .map_err(Error::from)
}

/// The announcement of a keyslot that is about to be made. Its MAC needs the volume key and covers
/// the keyslots beside it: it says that one of us wrote it, for this number, while this was free.
pub(super) fn announce(metadata: &Metadata, key: &VolumeKey, keyslot: u32) -> Pending {
    let mut beside = metadata.json().get("keyslots").cloned().unwrap_or_default();
    if let Some(beside) = beside.as_object_mut() {
        beside.remove(&keyslot.to_string());
    }
    let text = format!("vmseal-pending:{}:{keyslot}:{beside}", metadata.uuid());
    let mac = PcrBank::Sha256.hmac(key.expose(), text.as_bytes()).to_string();
    Pending { keyslot, mac }
}

/// Removes what an enrolment that was cut short left behind: the keyslot that it announced, where
/// no token names it and nothing says that it could be anybody's, and TPM tokens without a keyslot.
/// Never `opened`. In doubt the keyslot stays, for `vmseal revoke --keyslot`.
pub(super) fn sweep(device: &mut Device, key: &VolumeKey, opened: u32) -> Result<(), Error> {
    remove_dangling(device)?;
    let metadata = device.metadata();
    let Some((id, Ok(mut record))) = Record::find(&metadata.tokens()) else { return Ok(()) };
    let Some(pending) = record.pending.take() else { return Ok(()) };
    let keyslot = pending.keyslot;
    let named = metadata.tokens().values().any(|token| names_keyslot(token, keyslot));
    if !named
        && keyslot != opened
        && is_machine_made(metadata, keyslot)
        && pending == announce(metadata, key, keyslot)
    {
        device.remove_keyslot(keyslot)?;
    }
    Ok(device.replace_token(id, &record.to_json())?)
}

/// Removes `keyslot`, which this enrolment made, with its tokens, and puts the record back.
pub(super) fn take_back(
    device: &mut Device,
    keyslot: u32,
    (id, before): (u32, &Record),
) -> Result<(), Error> {
    // libcryptsetup may hold what a failed write kept from the disk: a write brings both together,
    // and this one says what is going on.
    let announced = device.metadata().tokens().get(&id).cloned();
    if let Some(announced) = announced {
        device.replace_token(id, &announced)?;
    }
    if device.metadata().keyslots().iter().any(|slot| slot.id == keyslot) {
        device.remove_keyslot(keyslot)?;
    }
    remove_dangling(device)?;
    // A record that says nothing was not there before.
    if *before == Record::default() {
        return Ok(device.remove_token(id)?);
    }
    Ok(device.replace_token(id, &before.to_json())?)
}

/// Removes tokens of keyslots made by enrolments, that name no keyslot.
fn remove_dangling(device: &mut Device) -> Result<(), Error> {
    let tokens = device.metadata().tokens();
    for (id, token) in tokens {
        let unseen = token.get("type").and_then(Value::as_str) == Some(UNSEEN);
        if (unseen || SystemdTpm2::is_type_of(&token)) && named_keyslots(&token).is_empty() {
            device.remove_token(id)?;
        }
    }
    Ok(())
}
