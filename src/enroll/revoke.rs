//! Removing keyslots: the keyslot first, so that what was revoked stops opening at once.

use serde_json::Value;

use crate::error::Error;
use crate::luks::{Device, LuksError, Metadata};
use crate::policy::{PolicyDigest, Signatures};
use crate::token::{JournalHead, Record, SystemdTpm2};

use super::keyslots::{is_sealed, named_keyslots, without_tpm};

/// What to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One keyslot, and the tokens that serve it alone.
    Keyslot(u32),
    /// Every systemd-tpm2 token, the keyslot sealed with it, and the record but for the pin.
    Tpm,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Revoked {
    /// Numbers of keyslots.
    pub keyslots: Vec<u32>,
    /// Ids of tokens.
    pub tokens: Vec<u32>,
}

/// Removes keyslots and tokens. `journal_head` is where the journal ends that tells of it, for the
/// record.
///
/// # Errors
/// [`Error::LastKeyslot`] where no keyslot that opens without a TPM would be left;
/// [`Error::NotSealed`] where a token names a keyslot that may open without the TPM after all;
/// [`Error::NothingToRevoke`]; the header's own.
pub fn revoke(
    device: &mut Device,
    target: Target,
    journal_head: Option<JournalHead>,
) -> Result<Revoked, Error> {
    let (keyslots, tokens) = doomed(device.metadata(), target)?;
    for keyslot in &keyslots {
        device.remove_keyslot(*keyslot)?;
    }
    for token in &tokens {
        device.remove_token(*token)?;
    }
    forget(device, target, &keyslots, journal_head)?;
    Ok(Revoked { keyslots, tokens })
}

/// Removes the keyslot of an approved boot of literal values, whose approval is withdrawn. `None` where
/// it is gone already: another keyslot may have its number by now, so that its policy is compared.
///
/// # Errors
/// Those of [`revoke`].
pub fn retire(
    device: &mut Device,
    keyslot: u32,
    policy: &PolicyDigest,
    journal_head: Option<JournalHead>,
) -> Result<Option<Revoked>, Error> {
    let tokens = device.metadata().tokens();
    let is_its = |json: &Value| {
        named_keyslots(json) == [keyslot]
            && SystemdTpm2::parse(json).is_ok_and(|token| token.policy_hashes == [*policy])
    };
    match tokens.values().any(is_its) {
        true => revoke(device, Target::Keyslot(keyslot), journal_head).map(Some),
        false => Ok(None),
    }
}

/// Whether a target can be removed, without removing it.
///
/// # Errors
/// Those of [`revoke`] that come before anything is changed.
pub fn check_revocable(metadata: &Metadata, target: Target) -> Result<(), Error> {
    doomed(metadata, target).map(|_| ())
}

/// The keyslots and tokens that are to go.
fn doomed(metadata: &Metadata, target: Target) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let keyslots = match target {
        Target::Keyslot(keyslot) if metadata.keyslots().iter().any(|slot| slot.id == keyslot) => {
            vec![keyslot]
        }
        Target::Keyslot(keyslot) => return Err(LuksError::NoSuchKeyslot { keyslot }.into()),
        Target::Tpm => sealed_by_tpm(metadata)?,
    };
    // A boot that knows the pin's digest alone finds the pin in the record, however it opens the volume.
    let is_pinning = |token: &Value| Record::parse(token).is_ok_and(|record| record.pin.is_some());
    let is_doomed = |token: &Value| match target {
        // A token that serves other keyslots too stays; libcryptsetup takes this one out of it.
        Target::Keyslot(keyslot) => named_keyslots(token) == [keyslot],
        Target::Tpm => {
            SystemdTpm2::is_type_of(token) || (Record::is_type_of(token) && !is_pinning(token))
        }
    };
    let tokens = metadata.tokens().into_iter().filter(|(_, token)| is_doomed(token));
    let tokens: Vec<u32> = tokens.map(|(id, _)| id).collect();
    let is_telling = |(_, record): (u32, Result<Record, _>)| {
        record.is_ok_and(|record| !record.entries.is_empty() || !record.signatures.is_empty())
    };
    let tells = target == Target::Tpm && Record::find(&metadata.tokens()).is_some_and(is_telling);
    if keyslots.is_empty() && tokens.is_empty() && !tells {
        return Err(Error::NothingToRevoke);
    }
    let ways_in = without_tpm(metadata);
    if !keyslots.is_empty() && ways_in.iter().all(|slot| keyslots.contains(slot)) {
        return Err(Error::LastKeyslot { keyslot: ways_in.first().copied() });
    }
    Ok((keyslots, tokens))
}

/// The keyslots that the TPM tokens name, if each is a sealed one.
fn sealed_by_tpm(metadata: &Metadata) -> Result<Vec<u32>, Error> {
    let mut keyslots = vec![];
    for (token, json) in metadata.tokens() {
        if !SystemdTpm2::is_type_of(&json) {
            continue;
        }
        for keyslot in named_keyslots(&json) {
            if !is_sealed(metadata, keyslot) {
                return Err(Error::NotSealed { token, keyslot });
            }
            if !keyslots.contains(&keyslot) {
                keyslots.push(keyslot);
            }
        }
    }
    keyslots.sort_unstable();
    Ok(keyslots)
}

/// Takes the entries of removed keyslots out of the record, and signatures that open nothing more;
/// with all that needs the TPM, all but the pin.
fn forget(
    device: &mut Device,
    target: Target,
    keyslots: &[u32],
    journal_head: Option<JournalHead>,
) -> Result<(), Error> {
    let Some((id, Ok(mut record))) = Record::find(&device.metadata().tokens()) else {
        return Ok(());
    };
    let before = record.clone();
    record.entries.retain(|entry| !keyslots.contains(&entry.keyslot));
    if target == Target::Tpm {
        record.entries.clear();
        record.signatures = Signatures::default();
    } else if !keyslots.is_empty() {
        let tokens = device.metadata().tokens();
        let tokens = tokens.values().filter_map(|json| SystemdTpm2::parse(json).ok());
        let keys: Vec<_> = tokens
            .filter_map(|token| Some(token.authorization?.key.fingerprint().to_string()))
            .collect();
        record.signatures.retain(|key, _, _| keys.iter().any(|known| known == key));
    }
    if record != before {
        record.journal_head = journal_head.or(record.journal_head);
        device.replace_token(id, &record.to_json())?;
    }
    Ok(())
}
