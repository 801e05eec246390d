//! Bytes that must not outlive their use: zeroed on drop, without `Debug`, `Clone` or comparison.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The bytes inside the sealed TPM object: 32 random bytes, one shard of a systemd token.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SealedSecret(Vec<u8>);

impl SealedSecret {
    /// Length of a secret that [`SealedSecret::random`] makes, as in systemd's `tpm2_seal`.
    pub const LEN: usize = 32;

    /// Takes ownership of bytes that the TPM released.
    pub fn from_unsealed(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// 32 bytes of the kernel's random number generator.
    ///
    /// # Errors
    /// The generator's error when it is not available.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut secret = Self(vec![0; Self::LEN]);
        getrandom::fill(&mut secret.0)?;
        Ok(secret)
    }

    /// The secret that several sealed objects share out: their bytes, one after the other.
    pub fn of_shards(shards: &[Self]) -> Self {
        let mut all = Vec::with_capacity(shards.iter().map(|shard| shard.0.len()).sum());
        shards.iter().for_each(|shard| all.extend_from_slice(&shard.0));
        Self(all)
    }

    /// The bytes, for the call that seals them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// What systemd enrols in the keyslot: the padded base64 text of the bytes, no newline.
    pub fn to_keyslot_passphrase(&self) -> KeyslotPassphrase {
        KeyslotPassphrase::new(STANDARD.encode(&self.0).into_bytes())
    }
}

/// What opens a LUKS2 keyslot: a typed passphrase, a key file, or the text of a [`SealedSecret`].
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct KeyslotPassphrase(Vec<u8>);

impl KeyslotPassphrase {
    /// Takes ownership of the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the call that opens or adds a keyslot.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// The key of the volume itself, read from a keyslot.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct VolumeKey(Vec<u8>);

impl VolumeKey {
    /// Takes ownership of the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for activation, the pin's fingerprint and the latch.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// A PIN as it was typed or read from a file. (A *Pin*, in contrast, is a volume's identity.)
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct TypedPin(Vec<u8>);

impl TypedPin {
    /// Takes ownership of the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the derivation.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// What a TPM object's owner must know: 32 bytes at most, derived from a PIN.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct AuthValue(Vec<u8>);

impl AuthValue {
    /// Takes ownership of the bytes. The TPM ignores zeros at the end, so they are cut off here.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Self(bytes)
    }

    /// The bytes, for the call that gives them to the session.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// A buffer for secrets on their way into one of the types above.
pub type SecretBuffer = Zeroizing<Vec<u8>>;

/// Keeps this process's memory out of core dumps.
///
/// # Errors
/// The system's, when it refuses.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
