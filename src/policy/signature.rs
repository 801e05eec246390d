//! Signature files: `tpm2-pcr-signature.json`, as systemd-measure writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{Authorization, PolicyDigest};
use crate::measurement::{PcrBank, PcrIndex, PcrSelection};

/// Most signatures that are kept. A signed kernel needs one for each bank, key and boot phase.
const MAX_SIGNATURES: usize = 4096;
/// Longest signature, in bytes: that of an RSA key of 4096 bits.
const MAX_SIGNATURE: usize = 512;
/// Longest policyRef, in bytes.
const MAX_REF: usize = 256;

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Signature {
    bank: PcrBank,
    pcrs: BTreeSet<PcrIndex>,
    /// Fingerprint of the key, as [`super::AuthorityKey::fingerprint`].
    key: String,
    policy_ref: String,
    approved: PolicyDigest,
    bytes: Vec<u8>,
}

/// The signatures of all sources together, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signatures(BTreeSet<Signature>);

/// A signature file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureError {
    /// Not a JSON object of arrays.
    Malformed,
    /// More bytes or signatures than any real file has.
    TooLarge,
    /// Not one entry that makes sense.
    Empty,
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it is not a signature file",
            Self::TooLarge => "it is too large for a signature file",
            Self::Empty => "it has no signature that can be read",
        })
    }
}

impl std::error::Error for SignatureError {}

impl Signatures {
    /// Most bytes of a file.
    pub const MAX_LEN: usize = 1 << 20;

    /// Adds what a file says. An entry that makes no sense is left out; the others count.
    ///
    /// # Errors
    /// [`SignatureError`]; nothing is added then.
    pub fn add_json(&mut self, json: &[u8]) -> Result<(), SignatureError> {
        if json.len() > Self::MAX_LEN {
            return Err(SignatureError::TooLarge);
        }
        let json = serde_json::from_slice(json).map_err(|_| SignatureError::Malformed)?;
        self.add(&json)
    }

    /// Adds what a signature file's JSON says, as [`Signatures::add_json`].
    ///
    /// # Errors
    /// [`SignatureError`]; nothing is added then.
    pub fn add(&mut self, json: &Value) -> Result<(), SignatureError> {
        let banks = json.as_object().ok_or(SignatureError::Malformed)?;
        let mut found = BTreeSet::new();
        for (bank, entries) in banks {
            let entries = entries.as_array().ok_or(SignatureError::Malformed)?;
            // A bank that nobody knows yet hides none of the others.
            let Ok(bank) = bank.parse() else { continue };
            found.extend(entries.iter().filter_map(|entry| Signature::parse(bank, entry)));
        }
        if found.is_empty() {
            return Err(SignatureError::Empty);
        }
        if self.0.len() + found.len() > MAX_SIGNATURES {
            return Err(SignatureError::TooLarge);
        }
        self.0.extend(found);
        Ok(())
    }

    /// Adds a signature by `authorization`'s key, for its bank, PCRs and policyRef, of `approved`.
    pub fn insert(
        &mut self,
        authorization: &Authorization,
        approved: PolicyDigest,
        bytes: Vec<u8>,
    ) {
        let PcrSelection { bank, pcrs } = &authorization.pcrs;
        self.0.insert(Signature {
            bank: *bank,
            pcrs: pcrs.clone(),
            key: authorization.key.fingerprint().to_string(),
            policy_ref: authorization.policy_ref.clone(),
            approved,
            bytes,
        });
    }

    /// Keeps those for which `keep` says so, of the key's fingerprint, what is signed, and the
    /// signature.
    pub fn retain(&mut self, keep: impl Fn(&str, &[u8], &[u8]) -> bool) {
        self.0.retain(|one| {
            let nonce = super::policy_ref_nonce(&one.policy_ref);
            keep(&one.key, &[one.approved.as_bytes(), &nonce].concat(), &one.bytes)
        });
    }

    /// Adds another source's.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The signatures by `authorization`'s key, for its bank, PCRs and policyRef, of `approved`.
    pub fn matching(
        &self,
        authorization: &Authorization,
        approved: &PolicyDigest,
    ) -> Vec<(PolicyDigest, Vec<u8>)> {
        let key = authorization.key.fingerprint().to_string();
        let PcrSelection { bank, pcrs } = &authorization.pcrs;
        self.0
            .iter()
            .filter(|signature| {
                signature.key == key
                    && signature.bank == *bank
                    && signature.pcrs == *pcrs
                    && signature.policy_ref == authorization.policy_ref
                    && signature.approved == *approved
            })
            .map(|signature| (signature.approved, signature.bytes.clone()))
            .collect()
    }

    /// Whether there is one by the key of this fingerprint, of `approved`, for these PCRs and without a
    /// policyRef.
    pub fn has(&self, pkfp: &str, pcrs: &PcrSelection, approved: &PolicyDigest) -> bool {
        self.0.iter().any(|one| {
            one.key == pkfp
                && one.approved == *approved
                && one.policy_ref.is_empty()
                && one.bank == pcrs.bank
                && one.pcrs == pcrs.pcrs
        })
    }

    /// What is signed, with the PCRs that it is about.
    pub fn approvals(&self) -> impl Iterator<Item = (PcrSelection, PolicyDigest)> {
        self.0.iter().map(|one| {
            let pcrs = PcrSelection { bank: one.bank, pcrs: one.pcrs.clone() };
            (pcrs, one.approved)
        })
    }

    /// The banks for which `authorization`'s key has signed anything.
    pub fn banks_of(&self, authorization: &Authorization) -> BTreeSet<PcrBank> {
        let key = authorization.key.fingerprint().to_string();
        self.0.iter().filter(|one| one.key == key).map(|one| one.bank).collect()
    }

    /// The signatures as a signature file has them.
    pub fn to_json(&self) -> Value {
        let mut banks = BTreeMap::<&str, Vec<Value>>::new();
        for one in &self.0 {
            let mut entry = Map::new();
            let pcrs: Vec<_> = one.pcrs.iter().map(|pcr| pcr.get()).collect();
            entry.insert("pcrs".into(), pcrs.into());
            entry.insert("pkfp".into(), one.key.as_str().into());
            if !one.policy_ref.is_empty() {
                entry.insert("ref".into(), one.policy_ref.as_str().into());
            }
            entry.insert("pol".into(), one.approved.to_string().into());
            entry.insert("sig".into(), STANDARD.encode(&one.bytes).into());
            banks.entry(one.bank.name()).or_default().push(entry.into());
        }
        json!(banks)
    }
}

impl Signature {
    fn parse(bank: PcrBank, entry: &Value) -> Option<Self> {
        let text = |field: &str| entry.get(field)?.as_str();
        let pcrs = entry.get("pcrs")?.as_array()?;
        let key = text("pkfp")?.to_ascii_lowercase();
        let approved = hex::decode(text("pol")?).ok()?;
        let policy_ref = match entry.get("ref") {
            None => "",
            Some(found) => found.as_str()?,
        };
        let bytes = STANDARD.decode(text("sig")?).ok()?;
        let bounded = pcrs.len() <= usize::from(PcrIndex::COUNT)
            && key.len() == 64
            && policy_ref.len() <= MAX_REF
            && (1..=MAX_SIGNATURE).contains(&bytes.len());
        if !bounded {
            return None;
        }
        Some(Self {
            bank,
            pcrs: pcrs
                .iter()
                .map(|pcr| PcrIndex::new(pcr.as_u64()?).ok())
                .collect::<Option<_>>()?,
            key,
            policy_ref: policy_ref.to_owned(),
            approved: PolicyDigest::from_bytes(&approved).ok()?,
            bytes,
        })
    }
}
