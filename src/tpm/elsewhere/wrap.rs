//! Sealing to a TPM that is elsewhere: the object is made here, and wrapped for the TPM's storage
//! root key alone (part 1, 23.3: outer duplication wrapper; systemd's `tpm2_calculate_seal`).

use openssl::bn::{BigNum, BigNumContext};
use openssl::derive::Deriver;
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::encrypt::Encrypter;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::md::Md;
use openssl::md_ctx::MdCtx;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::{Padding, Rsa};
use openssl::sign::Signer;
use openssl::symm::{Cipher, encrypt};
use zeroize::Zeroizing;

use super::{Numbers, SrkElsewhere, SrkFileError};
use crate::measurement::PcrBank;
use crate::policy::PolicyDigest;
use crate::secret::{AuthValue, SealedSecret, SecretBuffer};
use crate::token::SealedObject;
use crate::tpm::TpmError;

/// `TPM_ALG_KEYEDHASH`, `TPM_ALG_SHA256`, `TPM_ALG_NULL`.
const KEYED_HASH: u16 = 0x0008;
const SHA256: u16 = 0x000b;
const NULL: u16 = 0x0010;
/// `TPMA_OBJECT_NODA`. Neither fixedTPM nor fixedParent: it is imported.
const NO_DA: u32 = 1 << 10;
/// The use that the seed is derived for, with its end (part 1, C.6.3 and B.4).
const DUPLICATE: &[u8] = b"DUPLICATE\0";
/// Bytes of seeds, authorization values and digests.
const LEN: usize = 32;
const AES_KEY: usize = 16;

impl SrkElsewhere {
    /// Seals a new random secret to the TPM that has the key, to be released there where `policy` is
    /// satisfied, and where `auth` is known if one is given. As [`crate::tpm::Tpm::seal`], without
    /// that TPM.
    ///
    /// # Errors
    /// [`TpmError::Response`] where the library fails.
    pub fn seal(
        &self,
        policy: PolicyDigest,
        auth: Option<&AuthValue>,
    ) -> Result<(SealedSecret, SealedObject), TpmError> {
        let secret = SealedSecret::random().map_err(|error| failed(&error.to_string()))?;
        let obfuscation = random()?;
        let object = self.wrap(policy, auth, &obfuscation, &secret);
        let object = object.map_err(|error| failed(&error.to_string()))?;
        Ok((secret, object))
    }

    fn wrap(
        &self,
        policy: PolicyDigest,
        auth: Option<&AuthValue>,
        obfuscation: &[u8],
        secret: &SealedSecret,
    ) -> Result<SealedObject, ErrorStack> {
        let public = public_area(policy, auth.is_none(), obfuscation, secret)?;
        let name = [&SHA256.to_be_bytes()[..], PcrBank::Sha256.hash(&public).as_bytes()].concat();
        let (seed, encrypted_seed) = match &self.numbers {
            Numbers::Ecc(x, y) => ecc_seed(x, y),
            Numbers::Rsa(modulus) => rsa_seed(modulus),
        }?;
        let sensitive = sensitive_area(auth, obfuscation, secret);
        let key = kdfa(&seed, b"STORAGE", &name, AES_KEY)?;
        let iv = [0; AES_KEY];
        let hidden = encrypt(Cipher::aes_128_cfb128(), &key, Some(&iv), &sensitive)?;
        let integrity = kdfa(&seed, b"INTEGRITY", &[], LEN)?;
        let mac = hmac(&integrity, &[&hidden[..], &name].concat())?;
        let private = [sized(&mac), hidden].concat();
        Ok(SealedObject::duplicate(private, public, encrypted_seed))
    }
}

/// Refuses numbers that are no key: a point that is not on the curve would give the secret away.
pub(super) fn check(numbers: &Numbers) -> Result<(), SrkFileError> {
    let Numbers::Ecc(x, y) = numbers else { return Ok(()) };
    let found = u32::from(x.first().copied().unwrap_or_default());
    let unfit = |_| SrkFileError::Unfit { part: "point", expected: "one of the curve", found };
    EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)
        .and_then(|group| point(&group, x, y))
        .map(drop)
        .map_err(unfit)
}

/// Fails for what is not on the curve.
fn point(group: &EcGroup, x: &[u8; 32], y: &[u8; 32]) -> Result<EcPoint, ErrorStack> {
    let mut point = EcPoint::new(group)?;
    let (x, y) = (BigNum::from_slice(x)?, BigNum::from_slice(y)?);
    point.set_affine_coordinates_gfp(group, &x, &y, &mut *BigNumContext::new()?)?;
    Ok(point)
}

fn failed(message: &str) -> TpmError {
    TpmError::Response { during: "seal to a TPM elsewhere", message: message.to_owned() }
}

fn random() -> Result<SecretBuffer, TpmError> {
    let mut bytes = Zeroizing::new(vec![0; LEN]);
    getrandom::fill(&mut bytes).map_err(|error| failed(&error.to_string()))?;
    Ok(bytes)
}

/// A TPM2B: 16 bits of size, then as many bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    // TPM structures are far below 64 KiB.
    let size = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&size.to_be_bytes()[..], bytes].concat()
}

/// A `TPMT_PUBLIC` of a sealed object (part 2, 12.2.4); `unique` ties it to its sensitive area.
fn public_area(
    policy: PolicyDigest,
    no_da: bool,
    obfuscation: &[u8],
    secret: &SealedSecret,
) -> Result<Vec<u8>, ErrorStack> {
    let attributes = if no_da { NO_DA } else { 0 };
    let unique = hash(&[obfuscation, secret.expose()])?;
    Ok([
        &KEYED_HASH.to_be_bytes()[..],
        &SHA256.to_be_bytes(),
        &attributes.to_be_bytes(),
        &sized(policy.as_bytes()),
        &NULL.to_be_bytes(),
        &sized(&unique),
    ]
    .concat())
}

/// A `TPM2B_SENSITIVE` (12.3.2.4).
fn sensitive_area(
    auth: Option<&AuthValue>,
    obfuscation: &[u8],
    secret: &SealedSecret,
) -> SecretBuffer {
    let auth = Zeroizing::new(sized(auth.map_or(&[], AuthValue::expose)));
    let (obfuscation, secret) =
        (Zeroizing::new(sized(obfuscation)), Zeroizing::new(sized(secret.expose())));
    let area = [&KEYED_HASH.to_be_bytes()[..], &auth, &obfuscation, &secret].concat();
    let area = Zeroizing::new(area);
    Zeroizing::new(sized(&area))
}

/// A seed that an ephemeral key shares with the storage key, and the ephemeral point (C.6.3).
fn ecc_seed(x: &[u8; 32], y: &[u8; 32]) -> Result<(SecretBuffer, Vec<u8>), ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let mut context = BigNumContext::new()?;
    let peer = PKey::from_ec_key(EcKey::from_public_key(&group, &*point(&group, x, y)?)?)?;
    loop {
        let ephemeral = EcKey::generate(&group)?;
        let (mut own_x, mut own_y) = (BigNum::new()?, BigNum::new()?);
        let own = ephemeral.public_key();
        own.affine_coordinates(&group, &mut own_x, &mut own_y, &mut context)?;
        let (own_x, own_y) = (own_x.to_vec_padded(32)?, own_y.to_vec_padded(32)?);
        let private = PKey::from_ec_key(ephemeral)?;
        let mut deriver = Deriver::new(&private)?;
        deriver.set_peer(&peer)?;
        let shared = Zeroizing::new(deriver.derive_to_vec()?);
        // Whether leading zeros count, TPMs do not agree on.
        if own_x.first() == Some(&0) || shared.first() == Some(&0) {
            continue;
        }
        let seed = kdfe(&shared, &own_x, x)?;
        return Ok((seed, [sized(&own_x), sized(&own_y)].concat()));
    }
}

/// A seed that only the storage key decrypts (B.4).
fn rsa_seed(modulus: &[u8]) -> Result<(SecretBuffer, Vec<u8>), ErrorStack> {
    let mut seed = Zeroizing::new(vec![0; LEN]);
    openssl::rand::rand_bytes(&mut seed)?;
    let exponent = BigNum::from_u32(65537)?;
    let key = Rsa::from_public_components(BigNum::from_slice(modulus)?, exponent)?;
    let key = PKey::from_rsa(key)?;
    let mut encrypter = Encrypter::new(&key)?;
    encrypter.set_rsa_padding(Padding::PKCS1_OAEP)?;
    encrypter.set_rsa_oaep_md(MessageDigest::sha256())?;
    encrypter.set_rsa_mgf1_md(MessageDigest::sha256())?;
    encrypter.set_rsa_oaep_label(DUPLICATE)?;
    let mut encrypted = vec![0; encrypter.encrypt_len(&seed)?];
    let length = encrypter.encrypt(&seed, &mut encrypted)?;
    encrypted.truncate(length);
    Ok((seed, encrypted))
}

/// `KDFa` with SHA-256 (part 1, 11.4.10.2), for at most one digest.
fn kdfa(
    key: &[u8],
    label: &[u8],
    context: &[u8],
    length: usize,
) -> Result<SecretBuffer, ErrorStack> {
    let bits = (length as u32) * 8;
    let message = [&1_u32.to_be_bytes()[..], label, &[0], context, &bits.to_be_bytes()].concat();
    let mut derived = hmac(key, &message)?;
    // Within its own memory, which is wiped whole.
    derived.truncate(length);
    Ok(derived)
}

/// `KDFe` with SHA-256 (11.4.10.3), for one digest.
fn kdfe(shared: &[u8], own_x: &[u8], peer_x: &[u8]) -> Result<SecretBuffer, ErrorStack> {
    hash(&[&1_u32.to_be_bytes(), shared, DUPLICATE, own_x, peer_x])
}

/// SHA-256 of what is secret: OpenSSL wipes its state, and a plain digest would stay behind.
fn hash(parts: &[&[u8]]) -> Result<SecretBuffer, ErrorStack> {
    let mut digest = Zeroizing::new(vec![0; LEN]);
    let mut context = MdCtx::new()?;
    context.digest_init(Md::sha256())?;
    parts.iter().try_for_each(|part| context.digest_update(part))?;
    context.digest_final(&mut digest)?;
    Ok(digest)
}

/// HMAC with SHA-256 under a key that is secret, as [`hash`].
fn hmac(key: &[u8], message: &[u8]) -> Result<SecretBuffer, ErrorStack> {
    let mut mac = Zeroizing::new(vec![0; LEN]);
    let key = PKey::hmac(key)?;
    Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot(&mut mac, message)?;
    Ok(mac)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_wiped_is_what_the_plain_digests_are() {
        let parts = [&b"seed"[..], b"", b"point"];
        assert_eq!(*hash(&parts).unwrap(), PcrBank::Sha256.hash(&parts.concat()).as_bytes());
        // A short key, and one longer than a block.
        for (key, message) in
            [(&b"Jefe"[..], &b"what do ya want for nothing?"[..]), (&[0xaa; 131], b"x")]
        {
            let expected = PcrBank::Sha256.hmac(key, message);
            assert_eq!(*hmac(key, message).unwrap(), expected.as_bytes());
        }
        assert_eq!(kdfa(b"key", b"STORAGE", b"name", AES_KEY).unwrap().len(), AES_KEY);
    }
}
