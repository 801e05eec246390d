//! A data volume that the encrypted root opens: a key file in it, a keyslot for that, a line of
//! crypttab. No TPM has a part in it: whoever can read the root has the key.

mod crypttab;
mod encrypted;
mod key_file;

use serde_json::{Value, json};

use crate::error::Error;
use crate::luks::{Device, LuksError, Metadata};
use crate::secret::{KeyslotPassphrase, VolumeKey};

use super::keyslots::{is_machine_made, names_keyslot};

pub use crypttab::{Crypttab, Entry, is_name};
pub use encrypted::{KEYS_FOLDER, is_encrypted, is_root_encrypted};
pub use key_file::KeyFile;

/// Type of the token that marks the keyslot of a key file.
pub(super) const TOKEN_TYPE: &str = "vmseal-key-file";

/// The keyslot of a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Its number.
    pub keyslot: u32,
    /// The token that marks it.
    pub token: u32,
    /// Whether the keyslot is new.
    pub is_new: bool,
}

fn token(keyslot: u32) -> Value {
    json!({ "type": TOKEN_TYPE, "keyslots": [keyslot.to_string()] })
}

/// The name of a volume's key file: its UUID, which may come from a hostile header.
///
/// # Errors
/// [`Error::KeyFile`] for what is no UUID.
pub fn file_name(metadata: &Metadata) -> Result<String, Error> {
    let uuid = metadata.uuid();
    let is_plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    if uuid.len() == 36 && uuid.bytes().all(is_plain) {
        return Ok(format!("{uuid}.key"));
    }
    Err(Error::KeyFile { path: KEYS_FOLDER.into(), cause: "the volume's UUID is none".into() })
}

/// The keyslot that a key file opens, if there is one. Only keyslots made for random keys are
/// tried: a passphrase's would take long to refuse.
///
/// # Errors
/// The header's.
pub fn keyslot_of(device: &mut Device, key: &KeyslotPassphrase) -> Result<Option<u32>, Error> {
    let slots: Vec<u32> = device.metadata().keyslots().iter().map(|slot| slot.id).collect();
    for slot in slots {
        if !is_machine_made(device.metadata(), slot) {
            continue;
        }
        match device.open_keyslot(Some(slot), key) {
            Ok(_) => return Ok(Some(slot)),
            Err(LuksError::WrongPassphrase { .. } | LuksError::ForeignVolumeKey) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Checks that a keyslot and its token will fit.
///
/// # Errors
/// [`LuksError::NoFreeKeyslot`], [`LuksError::NoFreeToken`], [`LuksError::JsonAreaFull`].
pub fn require_space(device: &Device) -> Result<(), Error> {
    Ok(device.require_space(1, &[token(31)], None)?)
}

/// Gives the key file a keyslot, where it has none, and marks it.
///
/// # Errors
/// The header's. What was added is taken back then.
pub fn attach(
    device: &mut Device,
    volume_key: &VolumeKey,
    key: &KeyslotPassphrase,
) -> Result<Attached, Error> {
    let known = keyslot_of(device, key)?;
    let keyslot = match known {
        Some(keyslot) => keyslot,
        None => {
            require_space(device)?;
            device.add_keyslot(volume_key, key)?
        }
    };
    let tokens = device.metadata().tokens();
    let marks = |json: &Value| is_type_of(json) && names_keyslot(json, keyslot);
    let marked = tokens.iter().find(|(_, json)| marks(json)).map(|(id, _)| *id);
    let token = match marked {
        Some(token) => Ok(token),
        None => device.add_token(&token(keyslot)),
    };
    match token {
        Ok(token) => Ok(Attached { keyslot, token, is_new: known.is_none() }),
        Err(error) => {
            if known.is_none() {
                // Best effort: without its token it is named as one of unknown use.
                let _ = device.remove_keyslot(keyslot);
            }
            Err(error.into())
        }
    }
}

/// Takes back what [`attach`] added.
///
/// # Errors
/// The header's.
pub fn take_back(device: &mut Device, attached: Attached) -> Result<(), Error> {
    if attached.is_new {
        device.remove_keyslot(attached.keyslot)?;
        device.remove_token(attached.token)?;
    }
    Ok(())
}

/// Whether a token marks the keyslot of a key file.
pub(super) fn is_type_of(json: &Value) -> bool {
    json.get("type").and_then(Value::as_str) == Some(TOKEN_TYPE)
}
