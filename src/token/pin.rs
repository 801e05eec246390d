//! From a typed PIN to the TPM object's authorization value and to the keyslot, in systemd's three
//! derivations.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::{Engine, engine::general_purpose::STANDARD};
use hkdf::Hkdf;
use pbkdf2::pbkdf2_hmac;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::field::{Fields, TokenError, base64};
use crate::secret::{AuthValue, KeyslotPassphrase, SealedSecret, TypedPin};

/// systemd's `util_pbkdf2_hmac_sha256` has as many.
const PBKDF2_ITERATIONS: u32 = 10_000;
/// Bytes of a salt that `vmseal` makes, as systemd's.
const SALT: usize = 32;
/// Longest salt that is read, in bytes.
const MAX_SALT: usize = 64;
/// What HKDF binds the outcome to (`tpm2_argon2id_finalize` of systemd 262).
const LOCK_INFO: &[u8] = b"systemd-tpm2-argon2id-lock";
/// Most memory that a token may ask for, in KiB. systemd finds out what the machine does in about
/// two seconds, and no more than libcryptsetup's 4 GiB.
const MAX_MEMORY: u32 = 4 << 20;
/// Most passes over that memory, and lanes.
const MAX_ITERATIONS: u32 = 64;
const MAX_LANES: u32 = 64;
/// Most KiB that are passed over in all: less than half a minute of work.
const MAX_WORK: u64 = 16 << 20;

/// How a token's writer derived secrets from the PIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinDerivation {
    /// systemd 251 and 252: the PIN as typed.
    Plain,
    /// systemd 253 to 261: base64 of PBKDF2-HMAC-SHA256, 10000 iterations.
    Pbkdf2 {
        /// `tpm2_salt`.
        salt: Vec<u8>,
    },
    /// systemd 262: Argon2id, whose outcome is needed for the keyslot as well.
    Argon2id {
        /// `tpm2_salt`.
        salt: Vec<u8>,
        /// Memory in KiB.
        memory: u32,
        /// Passes.
        iterations: u32,
        /// Lanes.
        lanes: u32,
    },
}

/// What a PIN gives.
pub struct PinKeys {
    /// What the TPM wants to know.
    pub auth: Arc<AuthValue>,
    /// Argon2id's first half, without which the secret of the TPM opens nothing.
    lock: Option<Zeroizing<[u8; 32]>>,
}

impl PinDerivation {
    /// A derivation for a new PIN, in the form that systemd 253 to 261 write and all later ones
    /// read.
    ///
    /// # Errors
    /// The random number generator's.
    pub fn new_pbkdf2() -> Result<Self, getrandom::Error> {
        let mut salt = vec![0; SALT];
        getrandom::fill(&mut salt)?;
        Ok(Self::Pbkdf2 { salt })
    }

    /// What a token's fields say.
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, TokenError> {
        let salt = fields.text("tpm2_salt")?.map(|text| base64("tpm2_salt", text)).transpose()?;
        if salt.as_ref().is_some_and(|salt| !(8..=MAX_SALT).contains(&salt.len())) {
            let found = "not 8 to 64 bytes".to_owned();
            return Err(TokenError::Value { field: "tpm2_salt", found });
        }
        let [memory, iterations, lanes] =
            ["tpm2_argon2id_memcost", "tpm2_argon2id_iterations", "tpm2_argon2id_lanes"]
                .map(|field| fields.number(field).map(|value| (field, value)));
        match (memory?, iterations?, lanes?, salt) {
            ((_, None), (_, None), (_, None), None) => Ok(Self::Plain),
            ((_, None), (_, None), (_, None), Some(salt)) => Ok(Self::Pbkdf2 { salt }),
            ((m, Some(memory)), (i, Some(iterations)), (l, Some(lanes)), Some(salt)) => {
                let bounded = |field, value: u64, max: u32| {
                    let value = u32::try_from(value).ok().filter(|v| (1..=max).contains(v));
                    value.ok_or(TokenError::Value { field, found: "out of bounds".to_owned() })
                };
                // The field has bytes, Argon2 counts in KiB.
                let memory = bounded(m, memory / 1024, MAX_MEMORY)?;
                let iterations = bounded(i, iterations, MAX_ITERATIONS)?;
                if u64::from(memory) * u64::from(iterations) > MAX_WORK {
                    let found = "more work than a boot can do".to_owned();
                    return Err(TokenError::Value { field: i, found });
                }
                let lanes = bounded(l, lanes, MAX_LANES)?;
                Params::new(memory, iterations, lanes, Some(64)).map_err(|_| {
                    TokenError::Value { field: m, found: "too little for its lanes".to_owned() }
                })?;
                Ok(Self::Argon2id { salt, memory, iterations, lanes })
            }
            ((_, Some(_)), (_, Some(_)), (_, Some(_)), None) => {
                Err(TokenError::Missing { field: "tpm2_salt" })
            }
            ((field, None), ..) | (_, (field, None), ..) | (_, _, (field, _), _) => {
                Err(TokenError::Missing { field })
            }
        }
    }

    /// Bytes of memory that deriving takes.
    pub fn memory(&self) -> u64 {
        match self {
            Self::Argon2id { memory, .. } => u64::from(*memory) * 1024,
            Self::Plain | Self::Pbkdf2 { .. } => 0,
        }
    }

    /// Derives (`tpm2_auth_value_from_pin`). Argon2id takes the time and memory that its parameters
    /// ask for ([`PinDerivation::memory`]); `None` where that memory is not to be had.
    pub fn derive(&self, pin: &TypedPin) -> Option<PinKeys> {
        let (text, lock) = match self {
            Self::Plain => return Some(PinKeys { auth: auth_value(pin.expose()), lock: None }),
            Self::Pbkdf2 { salt } => {
                let mut key = Zeroizing::new([0; 32]);
                pbkdf2_hmac::<Sha256>(pin.expose(), salt, PBKDF2_ITERATIONS, key.as_mut());
                (base64_text(&key), None)
            }
            Self::Argon2id { salt, memory, iterations, lanes } => {
                let params = Params::new(*memory, *iterations, *lanes, Some(64)).ok()?;
                let mut key = Zeroizing::new([0; 64]);
                let mut memory = Vec::new();
                memory.try_reserve_exact(params.block_count()).ok()?;
                memory.resize(params.block_count(), Block::default());
                let hashed = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into_with_memory(pin.expose(), salt, key.as_mut(), &mut memory);
                memory.zeroize();
                hashed.ok()?;
                let (lock, text) = key.split_first_chunk::<32>()?;
                (base64_text(text.first_chunk()?), Some(Zeroizing::new(*lock)))
            }
        };
        Some(PinKeys { auth: auth_value(text.as_bytes()), lock })
    }
}

impl PinKeys {
    /// What opens the keyslot, from what the TPM released.
    pub fn keyslot_passphrase(&self, secret: &SealedSecret) -> KeyslotPassphrase {
        let Some(lock) = &self.lock else { return secret.to_keyslot_passphrase() };
        let mut key = Zeroizing::new([0; 32]);
        // 32 bytes are far below HKDF's limit of 255 times the hash.
        let _ = Hkdf::<Sha256>::new(Some(secret.expose()), lock.as_ref())
            .expand(LOCK_INFO, key.as_mut());
        KeyslotPassphrase::new(STANDARD.encode(key.as_ref()).into_bytes())
    }
}

fn base64_text(key: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(key))
}

fn auth_value(text: &[u8]) -> Arc<AuthValue> {
    Arc::new(AuthValue::new(Sha256::digest(text).to_vec()))
}
