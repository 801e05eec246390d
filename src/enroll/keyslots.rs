//! What opens each keyslot, as far as hostile tokens tell, and which must never all go.

use serde_json::Value;

use crate::luks::Metadata;
use crate::policy::{AuthorityKey, PolicyDigest};
use crate::recovery;
use crate::token::{Record, SystemdTpm2};

use super::attach;

/// What opens a keyslot, as far as the tokens tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyslotUse {
    /// A passphrase or key file.
    Passphrase,
    /// A recovery key.
    RecoveryKey,
    /// A secret that a TPM holds.
    Tpm,
    /// A key file in the encrypted root.
    KeyFile,
    /// Another token: FIDO2, PKCS#11, and the like.
    OtherToken,
    /// Left behind by an enrolment that did not end.
    Unfinished,
    /// Made for a random passphrase, and no token names it: perhaps nobody knows its key.
    Unknown,
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
        let mut found = None;
        for token in tokens.values().filter(|token| names_keyslot(token, keyslot)) {
            match token.get("type").and_then(Value::as_str) {
                // clevis may need no TPM, but its token does not say so outside its JWE.
                Some("clevis") => return Self::Tpm,
                _ if SystemdTpm2::is_type_of(token) => return Self::Tpm,
                Some(super::recovery::UNSEEN) => return Self::Unfinished,
                // On a passphrase's keyslot it is a lie.
                Some(attach::TOKEN_TYPE) if is_machine_made(metadata, keyslot) => {
                    return Self::KeyFile;
                }
                Some(attach::TOKEN_TYPE) => {}
                Some(recovery::TOKEN_TYPE) => found = Some(Self::RecoveryKey),
                _ => found = Some(Self::OtherToken),
            }
        }
        let pending = || Record::find(&tokens)?.1.ok()?.pending;
        match found {
            Some(found) => found,
            None if !is_machine_made(metadata, keyslot) => Self::Passphrase,
            None if pending().is_some_and(|p| p.keyslot == keyslot) => Self::Unfinished,
            None => Self::Unknown,
        }
    }

    /// Whether the keyslot opens when the TPM is gone. A key file does not count: where the root is
    /// lost, so is the file.
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

/// Whether a keyslot was made for a random passphrase. Only such ones get PBKDF2 with SHA-512 and
/// 1000 iterations (systemd's `cryptsetup_set_minimal_pbkdf`); cryptsetup's own PBKDF2 keyslots take
/// SHA-256 unless told otherwise.
pub(super) fn is_machine_made(metadata: &Metadata, keyslot: u32) -> bool {
    let keyslots = metadata.keyslots();
    let pbkdf =
        keyslots.iter().find(|slot| slot.id == keyslot).and_then(|slot| slot.pbkdf.as_ref());
    pbkdf.is_some_and(|pbkdf| {
        pbkdf.kind == "pbkdf2" && pbkdf.hash == "sha512" && pbkdf.iterations == 1000
    })
}

/// Whether a keyslot is one that vmseal or systemd sealed to a TPM, and nothing else: a token alone
/// proves nothing, for whoever has the disk can write one that names a passphrase's keyslot.
pub(super) fn is_sealed(metadata: &Metadata, keyslot: u32) -> bool {
    let tokens = metadata.tokens();
    let mut naming = tokens.values().filter(|token| names_keyslot(token, keyslot)).peekable();
    naming.peek().is_some()
        && naming.all(|token| SystemdTpm2::is_type_of(token) && named_keyslots(token) == [keyslot])
        && is_machine_made(metadata, keyslot)
}

/// The sealed keyslots whose token can be read, with the policy that each is sealed under.
pub(super) fn sealed_keyslots(metadata: &Metadata) -> Vec<(u32, PolicyDigest)> {
    let tokens = metadata.tokens();
    let tokens = tokens.values().filter_map(|json| SystemdTpm2::parse(json).ok());
    tokens
        .filter(|token| is_sealed(metadata, token.keyslot))
        .filter_map(|token| Some((token.keyslot, *token.policy_hashes.first()?)))
        .collect()
}

/// The sealed keyslots that open for what `key` has signed.
pub fn keyslots_of(metadata: &Metadata, key: &AuthorityKey) -> Vec<u32> {
    let tokens = metadata.tokens();
    let tokens = tokens.values().filter_map(|json| SystemdTpm2::parse(json).ok());
    let is_by_key = |token: &SystemdTpm2| {
        let by = token.authorization.as_ref().map(|authorization| authorization.key.fingerprint());
        by == Some(key.fingerprint())
    };
    let tokens = tokens.filter(|token| is_by_key(token) && is_sealed(metadata, token.keyslot));
    tokens.map(|token| token.keyslot).collect()
}

/// The lowest keyslot number that is not taken.
pub(super) fn first_free_keyslot(metadata: &Metadata) -> u32 {
    let taken: Vec<u32> = metadata.keyslots().iter().map(|slot| slot.id).collect();
    (0..).find(|id| !taken.contains(id)).unwrap_or(u32::MAX)
}

/// Whether a token of any type names the keyslot.
pub(super) fn names_keyslot(token: &Value, keyslot: u32) -> bool {
    named_keyslots(token).contains(&keyslot)
}

/// The keyslots that a token of any type names.
pub(super) fn named_keyslots(token: &Value) -> Vec<u32> {
    let names = token.get("keyslots").and_then(Value::as_array).into_iter().flatten();
    names.filter_map(|name| name.as_str()?.parse().ok()).collect()
}
