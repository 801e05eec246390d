//! Banks and digests: what one PCR bank holds and how it is extended.

use std::fmt;
use std::str::FromStr;

use super::text::printable;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};

/// A PCR bank: the hash algorithm of the registers in it (TPM 2.0 part 2, `TPM_ALG_ID`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PcrBank {
    /// `TPM_ALG_SHA1`, 20 bytes.
    Sha1,
    /// `TPM_ALG_SHA256`, 32 bytes.
    Sha256,
    /// `TPM_ALG_SHA384`, 48 bytes.
    Sha384,
    /// `TPM_ALG_SHA512`, 64 bytes.
    Sha512,
}

/// A bank name or a digest that is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DigestError {
    /// Not the name of a bank.
    UnknownBank {
        /// What was found.
        found: String,
    },
    /// Bytes of the wrong length for the bank.
    Length {
        /// The bank.
        bank: PcrBank,
        /// Bytes found; [`PcrBank::digest_len`] were expected.
        found: usize,
    },
    /// Text that is not hexadecimal.
    NotHex,
}

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownBank { found } => {
                let found = printable(found, 32);
                write!(f, "unknown PCR bank {found}: expected sha1, sha256, sha384 or sha512")
            }
            Self::Length { bank, found } => {
                write!(f, "a {bank} digest has {} bytes, found {found}", bank.digest_len())
            }
            Self::NotHex => f.write_str("a digest is written in hexadecimal"),
        }
    }
}

impl std::error::Error for DigestError {}

impl PcrBank {
    /// Every bank that vmseal knows, in the order of their algorithm identifiers.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The bank of a `TPM_ALG_ID`, if it is one of [`PcrBank::ALL`].
    pub fn from_alg_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|bank| bank.alg_id() == id)
    }

    /// The bank's `TPM_ALG_ID`.
    pub fn alg_id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// Bytes in a digest of this bank.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The name that systemd tokens, event log tools and `--bank` use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The digest of `data` by the bank's algorithm.
    pub fn hash(self, data: &[u8]) -> Digest {
        self.hash_parts(&[data])
    }

    /// The digest of the concatenation of `parts`.
    pub fn hash_parts(self, parts: &[&[u8]]) -> Digest {
        fn run<H: sha2::Digest>(parts: &[&[u8]], out: &mut [u8]) {
            let mut hasher = H::new();
            for part in parts {
                hasher.update(part);
            }
            let digest = hasher.finalize();
            if let Some(out) = out.get_mut(..digest.len()) {
                out.copy_from_slice(&digest);
            }
        }
        let mut digest = Digest::zero(self);
        let out = &mut digest.bytes;
        match self {
            Self::Sha1 => run::<Sha1>(parts, out),
            Self::Sha256 => run::<Sha256>(parts, out),
            Self::Sha384 => run::<Sha384>(parts, out),
            Self::Sha512 => run::<Sha512>(parts, out),
        }
        digest
    }

    /// HMAC of `data` under `key` by the bank's algorithm (RFC 2104).
    pub fn hmac(self, key: &[u8], data: &[u8]) -> Digest {
        macro_rules! run {
            ($hash:ty, $out:expr) => {
                // HMAC takes a key of any length, so the error arm is never taken.
                if let Ok(mut mac) = <Hmac<$hash> as Mac>::new_from_slice(key) {
                    mac.update(data);
                    for (to, from) in $out.iter_mut().zip(mac.finalize().into_bytes()) {
                        *to = from;
                    }
                }
            };
        }
        let mut digest = Digest::zero(self);
        let out = &mut digest.bytes;
        match self {
            Self::Sha1 => run!(Sha1, out),
            Self::Sha256 => run!(Sha256, out),
            Self::Sha384 => run!(Sha384, out),
            Self::Sha512 => run!(Sha512, out),
        }
        digest
    }
}

impl fmt::Display for PcrBank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PcrBank {
    type Err = DigestError;

    fn from_str(name: &str) -> Result<Self, DigestError> {
        Self::ALL
            .into_iter()
            .find(|bank| bank.name() == name)
            .ok_or_else(|| DigestError::UnknownBank { found: name.to_owned() })
    }
}

/// A digest of one bank, or the value of one PCR in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    bank: PcrBank,
    // Bytes past the bank's length stay zero, so that derived comparison is right.
    bytes: [u8; 64],
}

impl Digest {
    /// All bytes zero: the value after reset of PCRs 0 to 16 and 23.
    pub fn zero(bank: PcrBank) -> Self {
        Self { bank, bytes: [0; 64] }
    }

    /// All bytes 0xff: the value after reset of PCRs 17 to 22.
    pub fn ones(bank: PcrBank) -> Self {
        let mut digest = Self::zero(bank);
        digest.bytes.iter_mut().take(bank.digest_len()).for_each(|byte| *byte = 0xff);
        digest
    }

    /// A digest from its bytes.
    ///
    /// # Errors
    /// [`DigestError::Length`] when the length is not the bank's.
    pub fn from_bytes(bank: PcrBank, bytes: &[u8]) -> Result<Self, DigestError> {
        if bytes.len() != bank.digest_len() {
            return Err(DigestError::Length { bank, found: bytes.len() });
        }
        let mut digest = Self::zero(bank);
        if let Some(own) = digest.bytes.get_mut(..bytes.len()) {
            own.copy_from_slice(bytes);
        }
        Ok(digest)
    }

    /// A digest from hexadecimal text.
    ///
    /// # Errors
    /// [`DigestError::NotHex`] or [`DigestError::Length`].
    pub fn from_hex(bank: PcrBank, text: &str) -> Result<Self, DigestError> {
        Self::from_bytes(bank, &hex::decode(text).map_err(|_| DigestError::NotHex)?)
    }

    /// The bank the digest belongs to.
    pub fn bank(&self) -> PcrBank {
        self.bank
    }

    /// The bytes, as many as the bank's digests have.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.bank.digest_len()).unwrap_or(&self.bytes)
    }

    /// Whether every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.bytes == [0; 64]
    }

    /// The PCR value after extending `self` with `digest`: H(self ‖ digest) (TPM 2.0 part 1, 17.3).
    #[must_use]
    pub fn extended_with(&self, digest: &[u8]) -> Self {
        self.bank.hash_parts(&[self.as_bytes(), digest])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.bank)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
