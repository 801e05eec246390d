//! systemd's token (`tpm2_parse_luks2_json`, `tpm2_make_luks2_json`), versions 248 to 262.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::SealedObject;
use super::blob::take_sized;
use super::field::{Fields, TokenError, base64, strings};
use crate::measurement::{PcrBank, PcrIndex, PcrSelection};
use crate::policy::{Policy, PolicyDigest};
use crate::tpm::{PrimaryAlgorithm, SrkPublic, StorageKey};

/// Type word of systemd's token.
const TYPE: &str = "systemd-tpm2";
/// `IESYSC_KEY_RSRC`: the resource in `tpm2_srk` is a key.
const ESYS_RESOURCE_KEY: u32 = 1;

/// What a token's policy is made of, apart from a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Literal PCR values; with no PCR at all, anybody may unseal.
    Literal,
    /// Signed PCR values (`tpm2_pubkey`), and literal ones.
    Signed,
    /// systemd-pcrlock's policy in an NV index.
    Pcrlock,
    /// Two shards: one signed, one pcrlock.
    SignedAndPcrlock,
}

/// A `systemd-tpm2` token. The JSON is the truth, the fields are what it says.
#[derive(Debug, Clone, PartialEq)]
pub struct SystemdTpm2 {
    json: Map<String, Value>,
    /// The keyslot that the token opens.
    pub keyslot: u32,
    /// The sealed objects: one, or two shards.
    pub objects: Vec<SealedObject>,
    /// The policy digest of each object.
    pub policy_hashes: Vec<PolicyDigest>,
    /// PCRs bound by literal value.
    pub pcrs: PcrSelection,
    /// The key that the objects hang under.
    pub parent: StorageKey,
    /// What the policy is made of.
    pub kind: Kind,
    /// Whether a PIN is needed too.
    pub pin: bool,
}

impl SystemdTpm2 {
    /// Whether a token's JSON is one of systemd's, well-formed or not.
    pub fn is_type_of(json: &Value) -> bool {
        json.get("type").and_then(Value::as_str) == Some(TYPE)
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`TokenError`] naming the first field that is missing, mistyped or senseless.
    pub fn parse(json: &Value) -> Result<Self, TokenError> {
        let fields = Fields::of(json, TYPE)?;
        let json = fields.0;
        let objects = strings("tpm2-blob", json.get("tpm2-blob"))?
            .into_iter()
            .map(|text| SealedObject::parse(&base64("tpm2-blob", text)?))
            .collect::<Result<Vec<_>, _>>()?;
        let policy_hashes = strings("tpm2-policy-hash", json.get("tpm2-policy-hash"))?
            .into_iter()
            .map(policy_hash)
            .collect::<Result<Vec<_>, _>>()?;
        if objects.len() != policy_hashes.len() {
            return Err(TokenError::Value {
                field: "tpm2-policy-hash",
                found: format!("{} for {} objects", policy_hashes.len(), objects.len()),
            });
        }
        // An object under another policy cannot open; asking the TPM would cost an attempt.
        if objects.iter().zip(&policy_hashes).any(|(o, hash)| o.auth_policy() != hash.as_bytes()) {
            return Err(TokenError::Value {
                field: "tpm2-policy-hash",
                found: "not the sealed object's policy".into(),
            });
        }
        let bank = match fields.text("tpm2-pcr-bank")? {
            Some(name) => name.parse().map_err(|_| TokenError::Value {
                field: "tpm2-pcr-bank",
                found: "not the name of a bank".into(),
            })?,
            None => PcrBank::Sha256,
        };
        let pcrs = pcr_set("tpm2-pcrs", fields.required_list("tpm2-pcrs")?)?;
        let signed = match fields.list("tpm2_pubkey_pcrs")? {
            Some(list) => !pcr_set("tpm2_pubkey_pcrs", list)?.is_empty(),
            None => false,
        };
        if signed && fields.text("tpm2_pubkey")?.is_none() {
            return Err(TokenError::Missing { field: "tpm2_pubkey" });
        }
        let kind = match (signed, fields.flag("tpm2_pcrlock")?) {
            (false, false) => Kind::Literal,
            (true, false) => Kind::Signed,
            (false, true) => Kind::Pcrlock,
            (true, true) => Kind::SignedAndPcrlock,
        };
        if objects.len() != if kind == Kind::SignedAndPcrlock { 2 } else { 1 } {
            return Err(TokenError::Value {
                field: "tpm2-blob",
                found: format!("{} sealed objects", objects.len()),
            });
        }
        Ok(Self {
            keyslot: fields.keyslot()?,
            objects,
            policy_hashes,
            pcrs: PcrSelection { bank, pcrs },
            parent: parent(&fields)?,
            kind,
            pin: fields.flag("tpm2-pin")?,
            json: json.clone(),
        })
    }

    /// A new literal-PCR token in the form of systemd 254 and later.
    ///
    /// # Errors
    /// [`TokenError`] when the parts do not fit together.
    pub fn literal(
        keyslot: u32,
        object: &SealedObject,
        pcrs: &PcrSelection,
        srk: &SrkPublic,
    ) -> Result<Self, TokenError> {
        Self::parse(&json!({
            "type": TYPE,
            "keyslots": [keyslot.to_string()],
            "tpm2-blob": STANDARD.encode(object.to_blob()),
            "tpm2-pcrs": pcrs.pcrs.iter().map(|pcr| pcr.get()).collect::<Vec<_>>(),
            "tpm2-pcr-bank": pcrs.bank.name(),
            "tpm2-primary-alg": if srk.is_rsa() { "rsa" } else { "ecc" },
            "tpm2-policy-hash": hex::encode(object.auth_policy()),
            "tpm2_srk": STANDARD.encode(srk.to_esys()),
        }))
    }

    /// The token as it goes back into the header.
    pub fn to_json(&self) -> Value {
        Value::Object(self.json.clone())
    }

    /// The policy that a session must satisfy, where vmseal can: literal PCRs, no PIN, an object
    /// that needs no import.
    pub fn literal_policy(&self) -> Option<(&SealedObject, Policy)> {
        match self.objects.as_slice() {
            [object] if self.kind == Kind::Literal && !self.pin && !object.needs_import() => {
                Some((object, Policy::literal(self.pcrs.clone())))
            }
            _ => None,
        }
    }
}

fn policy_hash(text: &str) -> Result<PolicyDigest, TokenError> {
    let field = "tpm2-policy-hash";
    let bytes =
        hex::decode(text).map_err(|_| TokenError::Value { field, found: "not hex".into() })?;
    PolicyDigest::from_bytes(&bytes)
        .map_err(|error| TokenError::Value { field, found: error.to_string() })
}

fn pcr_set(field: &'static str, items: &[Value]) -> Result<BTreeSet<PcrIndex>, TokenError> {
    let pcr = |item: &Value| {
        let number =
            item.as_u64().ok_or(TokenError::Type { field, expected: "an array of PCRs" })?;
        PcrIndex::new(number).map_err(|error| TokenError::Value { field, found: error.to_string() })
    };
    if items.len() > PcrIndex::COUNT.into() {
        return Err(TokenError::Value { field, found: format!("{} PCRs", items.len()) });
    }
    items.iter().map(pcr).collect()
}

fn parent(fields: &Fields<'_>) -> Result<StorageKey, TokenError> {
    if let Some(text) = fields.text("tpm2_srk")? {
        let (handle, name) = parse_esys(&base64("tpm2_srk", text)?).ok_or_else(|| {
            TokenError::Value { field: "tpm2_srk", found: "not a serialized key".into() }
        })?;
        return Ok(StorageKey::Persistent { handle, name: Some(name) });
    }
    match fields.text("tpm2-primary-alg")? {
        None | Some("ecc") => Ok(StorageKey::Legacy(PrimaryAlgorithm::Ecc)),
        Some("rsa") => Ok(StorageKey::Legacy(PrimaryAlgorithm::Rsa)),
        Some(_) => Err(TokenError::Value {
            field: "tpm2-primary-alg",
            found: "neither ecc nor rsa".into(),
        }),
    }
}

/// Handle and Name of a serialized `ESYS_TR` (`iesys_MU_IESYS_RESOURCE_Unmarshal`): handle,
/// `TPM2B_NAME`, resource type, `TPM2B_PUBLIC`.
fn parse_esys(bytes: &[u8]) -> Option<(u32, Vec<u8>)> {
    let (handle, mut rest) = bytes.split_first_chunk::<4>()?;
    let handle = u32::from_be_bytes(*handle);
    let name = take_sized(&mut rest)?;
    let (kind, mut rest) = rest.split_first_chunk::<4>()?;
    let _public = take_sized(&mut rest)?;
    let persistent = handle >> 24 == 0x81;
    (persistent && u32::from_be_bytes(*kind) == ESYS_RESOURCE_KEY && rest.is_empty())
        .then_some((handle, name))
}

impl SrkPublic {
    /// The serialized `ESYS_TR` that systemd keeps in `tpm2_srk` (`tpm2_serialize`).
    fn to_esys(&self) -> Vec<u8> {
        let mut out = self.handle.to_be_bytes().to_vec();
        let sized = |out: &mut Vec<u8>, part: &[u8]| {
            out.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend(part);
        };
        sized(&mut out, &self.name);
        out.extend(ESYS_RESOURCE_KEY.to_be_bytes());
        sized(&mut out, &self.public);
        out
    }

    fn is_rsa(&self) -> bool {
        self.public.starts_with(&[0x00, 0x01])
    }
}
