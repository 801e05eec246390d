//! Which keyslots open without a TPM: the ones that must never all go.

use serde_json::Value;

use crate::luks::Metadata;
use crate::recovery;
use crate::token::{Record, SystemdTpm2};

/// What opens a keyslot, as far as the tokens tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyslotUse {
    /// A passphrase or key file.
    Passphrase,
    /// A recovery key.
    RecoveryKey,
    /// A secret that a TPM holds.
    Tpm,
    /// Another token: FIDO2, PKCS#11, and the like.
    OtherToken,
    /// Left behind by an enrolment that did not end.
    Unfinished,
    /// Not a key to the volume's data.
    Unbound,
}

impl KeyslotUse {
    /// What opens `keyslot`.
    pub fn of(metadata: &Metadata, keyslot: u32) -> Self {
        if !metadata.keyslots().iter().any(|slot| slot.id == keyslot && slot.bound) {
            return Self::Unbound;
        }
        let tokens = metadata.tokens();
        let mut found = Self::Passphrase;
        for token in tokens.values().filter(|token| names_keyslot(token, keyslot)) {
            match token.get("type").and_then(Value::as_str) {
                // clevis may need no TPM, but its token does not say so outside its JWE.
                Some("clevis") => return Self::Tpm,
                _ if SystemdTpm2::is_type_of(token) => return Self::Tpm,
                Some(super::recovery::UNSEEN) => return Self::Unfinished,
                Some(recovery::TOKEN_TYPE) => found = Self::RecoveryKey,
                _ => found = Self::OtherToken,
            }
        }
        if found == Self::Passphrase
            && record(metadata).is_some_and(|(_, record)| record.pending == Some(keyslot))
        {
            return Self::Unfinished;
        }
        found
    }

    /// Whether the keyslot opens when the TPM is gone.
    pub fn opens_without_tpm(self) -> bool {
        matches!(self, Self::Passphrase | Self::RecoveryKey | Self::OtherToken)
    }
}

/// The keyslots that open without a TPM.
pub(super) fn without_tpm(metadata: &Metadata) -> Vec<u32> {
    metadata
        .keyslots()
        .iter()
        .map(|slot| slot.id)
        .filter(|number| KeyslotUse::of(metadata, *number).opens_without_tpm())
        .collect()
}

/// The record and its token's id. One that cannot be read counts as none.
pub(super) fn record(metadata: &Metadata) -> Option<(u32, Record)> {
    metadata
        .tokens()
        .iter()
        .filter(|(_, json)| Record::is_type_of(json))
        .find_map(|(id, json)| Some((*id, Record::parse(json).ok()?)))
}

/// Whether a token of any type names the keyslot.
pub(super) fn names_keyslot(token: &Value, keyslot: u32) -> bool {
    let number = keyslot.to_string();
    token
        .get("keyslots")
        .and_then(Value::as_array)
        .is_some_and(|slots| slots.iter().any(|slot| slot.as_str() == Some(&number)))
}
