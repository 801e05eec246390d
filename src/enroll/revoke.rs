//! Removing keyslots: the keyslot first, so that what was revoked stops opening at once.

use crate::error::Error;
use crate::luks::Device;
use crate::token::{Record, SystemdTpm2};

use super::keyslots::{names_keyslot, record, without_tpm};

/// What to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One keyslot and its tokens.
    Keyslot(u32),
    /// Every systemd-tpm2 token, its keyslot, and the record.
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

/// Removes keyslots and tokens.
///
/// # Errors
/// [`Error::LastKeyslot`] where no keyslot that opens without a TPM would be left;
/// [`Error::NothingToRevoke`]; the header's own.
pub fn revoke(device: &mut Device, target: Target) -> Result<Revoked, Error> {
    let metadata = device.metadata();
    let present = |number: u32| metadata.keyslots().iter().any(|slot| slot.id == number);
    let tokens = metadata.tokens();
    let keyslots: Vec<u32> = match target {
        Target::Keyslot(keyslot) if present(keyslot) => vec![keyslot],
        Target::Keyslot(keyslot) => {
            return Err(crate::luks::LuksError::NoSuchKeyslot { keyslot }.into());
        }
        Target::Tpm => metadata
            .keyslots()
            .iter()
            .map(|slot| slot.id)
            .filter(|number| {
                tokens
                    .values()
                    .any(|token| SystemdTpm2::is_type_of(token) && names_keyslot(token, *number))
            })
            .collect(),
    };
    let doomed: Vec<u32> = tokens
        .iter()
        .filter(|(_, token)| match target {
            Target::Keyslot(keyslot) => names_keyslot(token, keyslot),
            Target::Tpm => SystemdTpm2::is_type_of(token) || Record::is_type_of(token),
        })
        .map(|(id, _)| *id)
        .collect();
    if keyslots.is_empty() && doomed.is_empty() {
        return Err(Error::NothingToRevoke);
    }
    if without_tpm(metadata).iter().all(|slot| keyslots.contains(slot)) {
        let keyslot = keyslots.first().copied().unwrap_or_default();
        return Err(Error::LastKeyslot { keyslot });
    }
    for keyslot in &keyslots {
        device.remove_keyslot(*keyslot)?;
    }
    for token in &doomed {
        device.remove_token(*token)?;
    }
    forget(device, &keyslots)?;
    Ok(Revoked { keyslots, tokens: doomed })
}

/// Takes the entries of removed keyslots out of the record.
fn forget(device: &mut Device, keyslots: &[u32]) -> Result<(), Error> {
    let Some((id, mut record)) = record(device.metadata()) else { return Ok(()) };
    let before = record.entries.len();
    record.entries.retain(|entry| !keyslots.contains(&entry.keyslot));
    if record.entries.len() != before {
        device.replace_token(id, &record.to_json())?;
    }
    Ok(())
}
