//! Adding a recovery key.

use serde_json::{Value, json};

use crate::error::Error;
use crate::luks::Device;
use crate::recovery::{RecoveryKey, TOKEN_TYPE};
use crate::secret::VolumeKey;

use super::apply::{current_record, first_free_keyslot, sweep, write_record};

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
/// The header's. Before `show` has been called the keyslot is taken back.
pub fn add_recovery_key(
    device: &mut Device,
    key: &VolumeKey,
    show: impl FnOnce(&RecoveryKey, u32),
) -> Result<(), Error> {
    let recovery =
        RecoveryKey::random().map_err(|error| Error::NoRandomness { cause: error.to_string() })?;
    let keyslot = first_free_keyslot(device);
    let (id, mut record) = current_record(device);
    record.pending = Some(keyslot);
    let id = write_record(device, id, &record)?;
    if let Err(error) = device.add_keyslot(key, &recovery.to_keyslot_passphrase()) {
        let _ = sweep(device);
        return Err(error.into());
    }
    let marker = json!({ "type": UNSEEN, "keyslots": [keyslot.to_string()] });
    let marker = device.add_token(&marker)?;
    record.pending = None;
    write_record(device, Some(id), &record)?;
    show(&recovery, keyslot);
    Ok(device.replace_token(marker, &recovery_token(keyslot))?)
}
