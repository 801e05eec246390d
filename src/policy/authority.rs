//! The public half of the key that approves PCR values.

use std::fmt;

use pkcs1::RsaPublicKey;
use spki::der::Decode;
use spki::der::asn1::UintRef;
use spki::der::pem::LineEnding;
use spki::{Document, SubjectPublicKeyInfoRef};

use crate::measurement::{Digest, PcrBank};

const PUBLIC_KEY: &str = "PUBLIC KEY";
/// Lengths of the modulus, in bytes, that TPMs know.
const MODULUS_LENGTHS: [usize; 3] = [256, 384, 512];
/// What an exponent of 0 stands for in a TPM (part 2, `TPMS_RSA_PARMS`).
const DEFAULT_EXPONENT: u32 = 65537;
/// `decrypt`, `sign` and `userWithAuth`, as systemd writes them.
const ATTRIBUTES: u32 = 1 << 17 | 1 << 18 | 1 << 6;
const TPM_ALG_RSA: u16 = 0x0001;
const TPM_ALG_SHA256: u16 = 0x000b;
const TPM_ALG_NULL: u16 = 0x0010;

/// How a key's exponent enters its Name: systemd wrote 0, which stands for 65537, or the number
/// itself, by version (systemd issue 30546).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exponent {
    /// 0 where the exponent is 65537.
    Default,
    /// The number itself.
    Explicit,
}

/// The public half of an RSA key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityKey {
    modulus: Vec<u8>,
    exponent: u32,
    pem: String,
    fingerprint: Digest,
    /// How the exponent enters the Name.
    pub written: Exponent,
}

/// A public key that cannot approve anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorityKeyError {
    /// Not a `PUBLIC KEY` in PEM.
    Malformed,
    /// A private key, which must not lie where only the public half is needed.
    Private,
    /// Not RSA of 2048, 3072 or 4096 bits: systemd and TPMs verify nothing else.
    NotRsa,
}

impl fmt::Display for AuthorityKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "not a public key in PEM",
            Self::Private => "a private key, where the public half is wanted",
            Self::NotRsa => "not an RSA key of 2048, 3072 or 4096 bits",
        })
    }
}

impl std::error::Error for AuthorityKeyError {}

impl AuthorityKey {
    /// Longest PEM text that is read: a key of 4096 bits has about 800 bytes.
    pub const MAX_PEM: usize = 8192;

    /// Reads a `PUBLIC KEY` (`SubjectPublicKeyInfo`) in PEM.
    ///
    /// # Errors
    /// [`AuthorityKeyError`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, AuthorityKeyError> {
        let malformed = AuthorityKeyError::Malformed;
        let text = std::str::from_utf8(pem).map_err(|_| malformed.clone())?;
        if text.contains("PRIVATE KEY") {
            return Err(AuthorityKeyError::Private);
        }
        if text.len() > Self::MAX_PEM {
            return Err(malformed);
        }
        let (label, document) = Document::from_pem(text.trim()).map_err(|_| malformed.clone())?;
        if label != PUBLIC_KEY {
            return Err(malformed);
        }
        let info = SubjectPublicKeyInfoRef::from_der(document.as_bytes()).map_err(|_| malformed)?;
        let not_rsa = |_| AuthorityKeyError::NotRsa;
        info.algorithm.assert_algorithm_oid(pkcs1::ALGORITHM_OID).map_err(not_rsa)?;
        let bits = info.subject_public_key.as_bytes().ok_or(AuthorityKeyError::NotRsa)?;
        let key =
            RsaPublicKey::<UintRef<'_>>::from_der(bits).map_err(|_| AuthorityKeyError::NotRsa)?;
        let exponent = key
            .public_exponent
            .as_bytes()
            .iter()
            .try_fold(0u32, |sum, byte| Some(sum.checked_mul(256)? | u32::from(*byte)));
        match exponent {
            Some(exponent) if MODULUS_LENGTHS.contains(&key.modulus.as_bytes().len()) => Ok(Self {
                modulus: key.modulus.as_bytes().to_vec(),
                exponent,
                pem: document
                    .to_pem(PUBLIC_KEY, LineEnding::LF)
                    .map_err(|_| AuthorityKeyError::Malformed)?,
                fingerprint: PcrBank::Sha256.hash(bits),
                written: Exponent::Explicit,
            }),
            _ => Err(AuthorityKeyError::NotRsa),
        }
    }

    /// The key as a `PUBLIC KEY` in PEM, a newline at its end.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// `pkfp` of signature files: SHA-256 of the PKCS#1 `RSAPublicKey` in DER.
    pub fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }

    /// The same key, with the exponent written that way.
    #[must_use]
    pub fn with(&self, written: Exponent) -> Self {
        Self { written, ..self.clone() }
    }

    /// The `TPMT_PUBLIC` that systemd loads into the TPM (`tpm2_tpm2b_public_from_openssl_pkey`).
    pub fn public(&self) -> Vec<u8> {
        let exponent = match self.written {
            Exponent::Default if self.exponent == DEFAULT_EXPONENT => 0,
            _ => self.exponent,
        };
        let mut out = Vec::new();
        out.extend(TPM_ALG_RSA.to_be_bytes());
        out.extend(TPM_ALG_SHA256.to_be_bytes());
        out.extend(ATTRIBUTES.to_be_bytes());
        let no_policy = 0u16;
        out.extend(no_policy.to_be_bytes());
        let (symmetric, scheme) = (TPM_ALG_NULL, TPM_ALG_NULL);
        out.extend(symmetric.to_be_bytes());
        out.extend(scheme.to_be_bytes());
        // At most 512 bytes: checked when the key was read.
        let length = u16::try_from(self.modulus.len()).unwrap_or(u16::MAX);
        out.extend(length.saturating_mul(8).to_be_bytes());
        out.extend(exponent.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend(&self.modulus);
        out
    }

    /// The Name of [`AuthorityKey::public`]: algorithm identifier and digest.
    pub fn name(&self) -> Vec<u8> {
        let digest = PcrBank::Sha256.hash(&self.public());
        [&TPM_ALG_SHA256.to_be_bytes(), digest.as_bytes()].concat()
    }
}
