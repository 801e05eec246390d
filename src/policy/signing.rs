//! The private half of the key that approves PCR values: made, read, and signing as
//! `systemd-measure sign` does. The only file that names openssl; never in `vmseal-boot`.

use std::fmt;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private, Public};
use openssl::rsa::Rsa;
use openssl::sign::{Signer, Verifier};

use super::{AuthorityKey, AuthorityKeyError, Authorization, PolicyDigest, Signatures};
use crate::secret::SecretBuffer;

/// Bits of a key: systemd verifies no other length everywhere.
const BITS: u32 = 2048;

/// A key pair. Its private numbers are cleared when they are freed, by OpenSSL.
pub struct SigningKey {
    private: PKey<Private>,
    public: AuthorityKey,
    verifying: VerifyingKeys,
}

/// A private key that cannot be made, read or used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningError {
    /// Not an RSA key of 2048 bits whose numbers fit together.
    NotRsa,
    /// OpenSSL failed.
    Library {
        /// What it was asked for.
        during: &'static str,
        /// What it said.
        cause: String,
    },
    /// A signature that was just made does not verify: it would have told of the key.
    Faulty,
}

impl fmt::Display for SigningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRsa => write!(f, "not an RSA key of {BITS} bits"),
            Self::Library { during, cause } => write!(f, "OpenSSL did not {during}: {cause}"),
            Self::Faulty => f.write_str("the signature that was made does not verify"),
        }
    }
}

impl std::error::Error for SigningError {}

impl SigningKey {
    /// A new key, from OpenSSL's random number generator.
    ///
    /// # Errors
    /// [`SigningError::Library`].
    pub fn generate() -> Result<Self, SigningError> {
        let make = during("make a key");
        Self::of(Rsa::generate(BITS).and_then(PKey::from_rsa).map_err(make)?)
    }

    /// Reads a `PRIVATE KEY` (PKCS#8, not encrypted) in PEM.
    ///
    /// # Errors
    /// [`SigningError::NotRsa`], also for what is no key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SigningError> {
        // Any other label could have OpenSSL ask for a passphrase.
        if !pem.starts_with(b"-----BEGIN PRIVATE KEY-----\n") {
            return Err(SigningError::NotRsa);
        }
        Self::of(PKey::private_key_from_pem(pem).map_err(|_| SigningError::NotRsa)?)
    }

    fn of(private: PKey<Private>) -> Result<Self, SigningError> {
        let rsa = private.rsa().map_err(|_| SigningError::NotRsa)?;
        if private.bits() != BITS || !rsa.check_key().unwrap_or(false) {
            return Err(SigningError::NotRsa);
        }
        let pem = private.public_key_to_pem().map_err(during("tell the public half"))?;
        let public =
            AuthorityKey::from_pem(&pem).map_err(|_: AuthorityKeyError| SigningError::NotRsa)?;
        let verifying = VerifyingKeys::of(&[&public]);
        Ok(Self { private, public, verifying })
    }

    /// The key as a `PRIVATE KEY` in PEM.
    ///
    /// # Errors
    /// [`SigningError::Library`].
    pub fn to_pem(&self) -> Result<SecretBuffer, SigningError> {
        let write = during("write the key");
        self.private.private_key_to_pem_pkcs8().map(SecretBuffer::new).map_err(write)
    }

    /// The public half.
    pub fn public(&self) -> &AuthorityKey {
        &self.public
    }

    /// Signs what a session must reach for `authorization`'s PCRs: its bank, PCRs and policyRef are
    /// noted beside. A signature that does not verify is never given away.
    ///
    /// # Errors
    /// [`SigningError::Library`], [`SigningError::Faulty`].
    pub fn sign(
        &self,
        authorization: &Authorization,
        approved: PolicyDigest,
    ) -> Result<Signatures, SigningError> {
        let message = [approved.as_bytes(), &authorization.policy_ref_nonce()].concat();
        let bytes = self.sign_bytes(&message)?;
        let own = Authorization { key: self.public.clone(), ..authorization.clone() };
        let mut signatures = Signatures::default();
        signatures.insert(&own, approved, bytes);
        match self.verifying.verified(&signatures) == signatures {
            true => Ok(signatures),
            false => Err(SigningError::Faulty),
        }
    }

    /// Signs what is no approval: `message` must be longer than a policy digest, and begin with what
    /// names its use.
    ///
    /// # Errors
    /// [`SigningError::Library`], [`SigningError::Faulty`].
    pub fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, SigningError> {
        let bytes = self.sign_bytes(message)?;
        match is_signed_by(&self.public, message, &bytes) {
            true => Ok(bytes),
            false => Err(SigningError::Faulty),
        }
    }

    fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, SigningError> {
        let sign = during("sign");
        // An RSA key signs by PKCS#1 v1.5 unless told otherwise.
        let mut signer = Signer::new(MessageDigest::sha256(), &self.private).map_err(&sign)?;
        signer.sign_oneshot_to_vec(message).map_err(&sign)
    }
}

/// Whether `signature` of `message` is `key`'s.
#[must_use]
pub fn is_signed_by(key: &AuthorityKey, message: &[u8], signature: &[u8]) -> bool {
    PKey::public_key_from_pem(key.pem().as_bytes())
        .is_ok_and(|public| verifies(&public, message, signature))
}

fn verifies(public: &PKey<Public>, message: &[u8], signature: &[u8]) -> bool {
    Verifier::new(MessageDigest::sha256(), public)
        .and_then(|mut verifier| verifier.verify_oneshot(signature, message))
        // What is malformed is as good as wrong.
        .unwrap_or(false)
}

/// Keys that are ready to verify: to read one takes the library longer than to use it.
pub struct VerifyingKeys(Vec<(String, PKey<Public>)>);

impl VerifyingKeys {
    /// The keys; one that the library does not read verifies nothing.
    #[must_use]
    pub fn of(keys: &[&AuthorityKey]) -> Self {
        let read = |key: &&AuthorityKey| {
            let public = PKey::public_key_from_pem(key.pem().as_bytes()).ok()?;
            Some((key.fingerprint().to_string(), public))
        };
        Self(keys.iter().filter_map(read).collect())
    }

    /// Those of `signatures` that one of the keys made, and that verify.
    #[must_use]
    pub fn verified(&self, signatures: &Signatures) -> Signatures {
        let mut kept = signatures.clone();
        kept.retain(|key, message, signature| {
            let mut of_key = self.0.iter().filter(|(fingerprint, _)| fingerprint == key);
            of_key.any(|(_, public)| verifies(public, message, signature))
        });
        kept
    }
}

/// Those of `signatures` that one of `keys` made, and that verify.
#[must_use]
pub fn verified(signatures: &Signatures, keys: &[&AuthorityKey]) -> Signatures {
    VerifyingKeys::of(keys).verified(signatures)
}

fn during(during: &'static str) -> impl Fn(ErrorStack) -> SigningError {
    move |error| SigningError::Library { during, cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::{PcrBank, PcrIndex, PcrSelection};

    fn authorization(key: &SigningKey, policy_ref: &str) -> Authorization {
        let pcrs = [4, 7].map(|pcr| PcrIndex::new(pcr).unwrap());
        Authorization {
            pcrs: PcrSelection::new(PcrBank::Sha256, pcrs),
            key: key.public().clone(),
            policy_ref: policy_ref.to_owned(),
            signatures: vec![],
        }
    }

    #[test]
    fn a_key_is_what_it_was_after_pem() {
        let key = SigningKey::generate().unwrap();
        let pem = key.to_pem().unwrap();
        let again = SigningKey::from_pem(&pem).unwrap();
        assert_eq!(again.public(), key.public());
        for end in 0..pem.len() - 1 {
            assert!(SigningKey::from_pem(&pem[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn keys_that_systemd_does_not_verify_are_refused() {
        let short = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
        let pem = short.private_key_to_pem_pkcs8().unwrap();
        assert_eq!(SigningKey::from_pem(&pem).err(), Some(SigningError::NotRsa));
        let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1);
        let curve = openssl::ec::EcKey::generate(&group.unwrap()).unwrap();
        let pem = PKey::from_ec_key(curve).unwrap().private_key_to_pem_pkcs8().unwrap();
        assert_eq!(SigningKey::from_pem(&pem).err(), Some(SigningError::NotRsa));
    }

    #[test]
    fn only_what_a_key_signed_verifies() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let digest = PolicyDigest::default().policy_auth_value();
        for policy_ref in ["", "reference"] {
            let signed = key.sign(&authorization(&key, policy_ref), digest).unwrap();
            assert_eq!(verified(&signed, &[other.public(), key.public()]), signed);
            assert!(verified(&signed, &[other.public()]).is_empty());
            let mut text = signed.to_json();
            text["sha256"][0]["pol"] = PolicyDigest::default().to_string().into();
            let mut forged = Signatures::default();
            forged.add(&text).unwrap();
            assert!(verified(&forged, &[key.public()]).is_empty(), "of another digest");
        }
    }
}
