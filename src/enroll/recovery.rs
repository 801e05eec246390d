//! Adding a recovery key.

use serde_json::{Value, json};

use crate::error::Error;
use crate::luks::Device;
use crate::recovery::{RecoveryKey, TOKEN_TYPE};
use crate::secret::VolumeKey;

use super::keyslots::first_free_keyslot;
use super::record::{announce, current_record, take_back, write_record};

/// The token that marks a recovery keyslot.
pub fn recovery_token(keyslot: u32) -> Value {
    json!({ "type": TOKEN_TYPE, "keyslots": [keyslot.to_string()] })
}

/// Token type of a recovery keyslot whose key may or may not have been seen: it is neither counted
/// as a way in nor removed.
pub(super) const UNSEEN: &str = "vmseal-recovery-unseen";

/// Adds a keyslot for a new recovery key, hands the key to `show`, and marks the keyslot as a
/// recovery key's only then.
///
/// # Errors
/// The header's, and those of `show`. A key that was not shown is taken back with its keyslot.
pub fn add_recovery_key(
    device: &mut Device,
    key: &VolumeKey,
    show: impl FnOnce(&RecoveryKey, u32) -> Result<(), Error>,
) -> Result<(), Error> {
    let recovery =
        RecoveryKey::random().map_err(|error| Error::NoRandomness { cause: error.to_string() })?;
    let keyslot = first_free_keyslot(device.metadata());
    let (id, mut record) = current_record(device.metadata())?;
    record.pending = Some(announce(device.metadata(), key, keyslot));
    let id = write_record(device, id, &record)?;
    record.pending = None;
    let shown = make_unseen(device, key, &recovery, keyslot).and_then(|marker| {
        // From here on the marker tells of the keyslot.
        device.replace_token(id, &record.to_json())?;
        show(&recovery, keyslot)?;
        Ok(marker)
    });
    let marker = shown.inspect_err(|_| {
        // Best effort: what stays is not counted as a way in.
        let _ = take_back(device, keyslot, (id, &record));
    })?;
    Ok(device.replace_token(marker, &recovery_token(keyslot))?)
}

/// Adds the keyslot and the token that says that nobody has seen its key.
fn make_unseen(
    device: &mut Device,
    key: &VolumeKey,
    recovery: &RecoveryKey,
    keyslot: u32,
) -> Result<u32, Error> {
    device.add_keyslot(key, &recovery.to_keyslot_passphrase())?;
    Ok(device.add_token(&json!({ "type": UNSEEN, "keyslots": [keyslot.to_string()] }))?)
}
