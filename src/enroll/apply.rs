//! Sealing a keyslot, step by step. Killed after any step, the volume opens as before or as
//! intended: the pin is true whether or not anything is sealed; a keyslot is announced in the record
//! before it is made, so that the next enrolment can tell an orphan from a passphrase; the old
//! keyslot goes only when the new one has been seen to open.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::Error;
use crate::luks::{Device, Keyslot, Pin, Pins};
use crate::policy::PolicyDigest;
use crate::secret::VolumeKey;
use crate::token::{BootEntry, Record, SystemdTpm2};
use crate::tpm::{StorageKey, Tpm, TpmError};

use super::keyslots::{KeyslotUse, record};
use super::plan::Plan;

/// What an enrolment made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The new keyslot.
    pub keyslot: u32,
    /// The new token.
    pub token: u32,
    /// Keyslots that were sealed to the same boot, and are gone.
    pub superseded: Vec<u32>,
    /// Keyslots of vmseal's that are sealed to other boots, and stay.
    pub kept: Vec<u32>,
    /// Whether the TPM was seen to release the secret. It cannot where this boot is latched.
    pub proven: bool,
}

/// Seals a new keyslot as `plan` says and pins the volume, whose key came out of keyslot `opened`:
/// that one is never removed. `extra` is JSON that the caller will add
/// afterwards: it must fit too, or nothing is written.
///
/// # Errors
/// Refusals come before the first write. Where a later step fails, what was added is taken back.
pub fn apply(
    device: &mut Device,
    (opened, key): (u32, &VolumeKey),
    tpm: &Tpm,
    plan: &Plan,
    pins_file: &Path,
    extra: &[Value],
) -> Result<Enrolled, Error> {
    let pin = Pin::of(device.metadata(), key)?;
    let mut pins = Pins::read(pins_file)?;
    let srk = tpm.srk(true)?.ok_or(TpmError::NoSrk)?;
    let parent = StorageKey::Persistent { handle: srk.handle, name: Some(srk.name.clone()) };
    let (secret, object) = tpm.seal(&parent, plan.policy_digest())?;
    let passphrase = secret.to_keyslot_passphrase();
    drop(secret);

    sweep(device)?;
    let keyslot = first_free_keyslot(device);
    let token = SystemdTpm2::literal(keyslot, &object, &plan.selection(), &srk)
        .map_err(|error| Error::BadToken { token: 0, error })?;
    let entry =
        BootEntry::new(keyslot, plan.policy_digest(), plan.values.clone(), plan.events.clone());
    let (record_id, mut record) = current_record(device);
    let old = superseded(device, &plan.policy_digest(), opened);
    if record.entries.len() >= Record::MAX_ENTRIES {
        return Err(Error::RecordFull);
    }
    let mut final_record = record.clone();
    final_record.entries.push(entry);
    final_record.generation = final_record.generation.saturating_add(1);
    record.pending = Some(keyslot);

    let mut added = vec![token.to_json(), final_record.to_json(), json!({ "pending": "31" })];
    added.extend_from_slice(extra);
    let keyslots = 1 + u32::from(!extra.is_empty());
    device.require_space(keyslots, &added)?;

    pins.set(&pin);
    pins.write(pins_file)?;
    let record_id = write_record(device, record_id, &record)?;
    let made = make_keyslot(device, key, &passphrase, &token).and_then(|token_id| {
        let proven = prove(device, tpm, plan, &token)?;
        device.replace_token(record_id, &final_record.to_json())?;
        Ok((token_id, proven))
    });
    let (token_id, proven) = match made {
        Ok(made) => made,
        Err(error) => {
            // Best effort: what cannot be taken back now is pending, and swept next time.
            let _ = sweep(device);
            return Err(error);
        }
    };
    // What has not been seen to open replaces nothing.
    let superseded = if proven { old } else { vec![] };
    for keyslot in &superseded {
        super::revoke(device, super::Target::Keyslot(*keyslot))?;
    }
    let others = final_record.entries.iter().map(|entry| entry.keyslot);
    let kept = others.filter(|other| *other != keyslot && !superseded.contains(other)).collect();
    Ok(Enrolled { keyslot, token: token_id, superseded, kept, proven })
}

fn make_keyslot(
    device: &mut Device,
    key: &VolumeKey,
    passphrase: &crate::secret::KeyslotPassphrase,
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
fn prove(device: &mut Device, tpm: &Tpm, plan: &Plan, token: &SystemdTpm2) -> Result<bool, Error> {
    if tpm.read_pcrs(&[plan.selection()])?.first() != Some(&plan.values) {
        return Ok(false);
    }
    let Some((object, policy)) = token.literal_policy() else { return Ok(false) };
    let secret = tpm.unseal(&token.parent, object, &policy)?;
    device.open_keyslot(Some(token.keyslot), &secret.to_keyslot_passphrase())?;
    Ok(true)
}

/// Removes what an enrolment that was cut short left behind: the keyslot that the record announced,
/// if no token opens it, and TPM tokens without a keyslot. The record is not trusted alone: only a
/// keyslot as vmseal makes them goes, and never the last that opens without a TPM.
pub(super) fn sweep(device: &mut Device) -> Result<(), Error> {
    let dangling: Vec<u32> = device
        .metadata()
        .tokens()
        .into_iter()
        .filter(|(_, token)| {
            SystemdTpm2::is_type_of(token)
                && token.get("keyslots").and_then(Value::as_array).is_some_and(Vec::is_empty)
        })
        .map(|(id, _)| id)
        .collect();
    for id in dangling {
        device.remove_token(id)?;
    }
    let Some((id, mut record)) = record(device.metadata()) else { return Ok(()) };
    let Some(pending) = record.pending.take() else { return Ok(()) };
    let keyslots = device.metadata().keyslots();
    let machine_made = keyslots.iter().any(|slot| slot.id == pending && is_machine_made(slot));
    let orphan = KeyslotUse::of(device.metadata(), pending) == KeyslotUse::Unfinished;
    if machine_made && orphan && !super::keyslots::without_tpm(device.metadata()).is_empty() {
        device.remove_keyslot(pending)?;
    }
    Ok(device.replace_token(id, &record.to_json())?)
}

pub(super) fn first_free_keyslot(device: &Device) -> u32 {
    let taken: Vec<u32> = device.metadata().keyslots().iter().map(|slot| slot.id).collect();
    (0..).find(|id| !taken.contains(id)).unwrap_or(u32::MAX)
}

/// The record in the header, without entries whose keyslot is gone, or a new one.
pub(super) fn current_record(device: &Device) -> (Option<u32>, Record) {
    let Some((id, mut record)) = record(device.metadata()) else {
        return (None, Record::default());
    };
    let keyslots = device.metadata().keyslots();
    record.entries.retain(|entry| keyslots.iter().any(|slot| slot.id == entry.keyslot));
    (Some(id), record)
}

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

/// Keyslots that were sealed to the very boot that is enrolled. Header and tokens are hostile, so
/// a keyslot counts only where its own token and its own shape say that vmseal or systemd sealed it.
fn superseded(device: &Device, policy: &PolicyDigest, opened: u32) -> Vec<u32> {
    let tokens = device.metadata().tokens();
    let sealed: Vec<u32> = tokens
        .values()
        .filter_map(|json| SystemdTpm2::parse(json).ok())
        .filter(|token| token.policy_hashes.first() == Some(policy))
        .map(|token| token.keyslot)
        .collect();
    let machine_made = device.metadata().keyslots().into_iter().filter(is_machine_made);
    machine_made.map(|slot| slot.id).filter(|id| sealed.contains(id) && *id != opened).collect()
}

/// Whether a keyslot's passphrase is random: only such ones get so few iterations
/// (`cryptsetup_set_minimal_pbkdf`).
fn is_machine_made(slot: &Keyslot) -> bool {
    slot.pbkdf.as_ref().is_some_and(|pbkdf| pbkdf.kind == "pbkdf2" && pbkdf.iterations == 1000)
}
