//! systemd's token (`tpm2_parse_luks2_json`, `tpm2_make_luks2_json`), versions 248 to 262.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::esys;
use super::field::{Fields, TokenError, base64, strings};
use super::pin::PinDerivation;
use super::{SealedObject, Summary};
use crate::measurement::{PcrBank, PcrIndex, PcrSelection};
use crate::policy::{
    Assertion, AuthorityKey, Authorization, Exponent, Pcrlock, Policy, PolicyDigest, StoredPolicy,
};
use crate::tpm::{PrimaryAlgorithm, SrkPublic, StorageKey};

/// Type word of systemd's token.
const TYPE: &str = "systemd-tpm2";
/// Longest policyRef, in bytes.
const MAX_REF: usize = 256;

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
    /// PCRs bound by literal value. Where the token names no bank, this says SHA-256, and
    /// [`SystemdTpm2::policies`] tells of both that it may be.
    pub pcrs: PcrSelection,
    /// Who approves PCR values, where the token has a key for that.
    pub authorization: Option<Authorization>,
    /// The key that the objects hang under.
    pub parent: StorageKey,
    /// What the policy is made of.
    pub kind: Kind,
    /// How the PIN is used, where one is needed.
    pub pin: Option<PinDerivation>,
    /// Handle and Name of pcrlock's NV index (`tpm2_pcrlock_nv`, systemd 256 and later).
    pub pcrlock_index: Option<(u32, Vec<u8>)>,
}

/// Who wrote a token, as far as its fields tell: from the version that first wrote one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    /// The first version of systemd that writes such a token.
    pub since: u32,
}

/// What a new token is made of.
pub struct Sealed<'a> {
    /// The keyslot that it opens.
    pub keyslot: u32,
    /// The sealed object, whose policy the other parts describe.
    pub object: &'a SealedObject,
    /// PCRs bound by literal value.
    pub pcrs: &'a PcrSelection,
    /// The key that the object hangs under.
    pub srk: &'a SrkPublic,
    /// How the PIN was used, where one is needed.
    pub pin: Option<&'a PinDerivation>,
    /// Who approves PCR values, where somebody does.
    pub authorization: Option<&'a Authorization>,
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
        let authorization = authorization(&fields, bank)?;
        // Release candidates of systemd 255 wrote the second name.
        let pcrlock = fields.flag("tpm2_pcrlock")? || fields.flag("tpm2-pcrlock")?;
        let pcrlock_index = match fields.text("tpm2_pcrlock_nv")? {
            Some(text) => {
                let field = "tpm2_pcrlock_nv";
                let index = esys::parse_index(&base64(field, text)?);
                let found = || "not a serialized NV index".to_owned();
                Some(index.ok_or_else(|| TokenError::Value { field, found: found() })?)
            }
            None => None,
        };
        let kind = match (authorization.is_some(), pcrlock) {
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
            pin: match fields.flag("tpm2-pin")? {
                true => Some(PinDerivation::parse(&fields)?),
                false => None,
            },
            authorization,
            pcrlock_index,
            json: json.clone(),
        })
    }

    /// A new token in the form of systemd 254 and later.
    ///
    /// # Errors
    /// [`TokenError`] when the parts do not fit together.
    pub fn sealed(sealed: &Sealed<'_>) -> Result<Self, TokenError> {
        let Sealed { keyslot, object, pcrs, srk, pin, authorization } = sealed;
        let numbers =
            |pcrs: &PcrSelection| pcrs.pcrs.iter().map(|pcr| pcr.get()).collect::<Vec<_>>();
        let mut json = Map::new();
        let mut set = |field: &str, value: Value| json.insert(field.to_owned(), value);
        set("type", TYPE.into());
        set("keyslots", vec![keyslot.to_string()].into());
        set("tpm2-blob", STANDARD.encode(object.to_blob()).into());
        set("tpm2-pcrs", numbers(pcrs).into());
        set("tpm2-pcr-bank", pcrs.bank.name().into());
        set("tpm2-primary-alg", if srk.is_rsa() { "rsa" } else { "ecc" }.into());
        set("tpm2-policy-hash", hex::encode(object.auth_policy()).into());
        set("tpm2_srk", STANDARD.encode(srk.to_esys()).into());
        match pin {
            None => {}
            Some(PinDerivation::Pbkdf2 { salt }) => {
                set("tpm2-pin", true.into());
                set("tpm2_salt", STANDARD.encode(salt).into());
            }
            Some(_) => {
                let found = "only PBKDF2 is written".to_owned();
                return Err(TokenError::Value { field: "tpm2-pin", found });
            }
        }
        if let Some(authorization) = authorization {
            set("tpm2_pubkey_pcrs", numbers(&authorization.pcrs).into());
            set("tpm2_pubkey", STANDARD.encode(authorization.key.pem()).into());
        }
        Self::parse(&json.into())
    }

    /// The token as it goes back into the header.
    pub fn to_json(&self) -> Value {
        Value::Object(self.json.clone())
    }

    /// What the sessions must satisfy, one policy for each sealed object: the outer list has one item
    /// for each way in which a writer may have meant the token (a PCR bank that it did not name, the
    /// authority key's exponent, a pcrlock policy among several). The way whose digests are
    /// [`SystemdTpm2::policy_hashes`] is the one. `pcrlock` are the `pcrlock.json` files at hand;
    /// where none is of the token's index, the steps of that policy are empty, and where the token
    /// does not even name its index, there is no way at all.
    pub fn policies(&self, pcrlock: &[Pcrlock]) -> Vec<Vec<Policy>> {
        let mut ways = vec![];
        for bank in self.banks() {
            let pcrs = PcrSelection { bank: *bank, ..self.pcrs.clone() };
            let end = |start: Option<Assertion>| {
                let literal = Policy::literal(pcrs.clone()).assertions;
                let pin = self.pin.is_some().then_some(Assertion::AuthValue);
                Policy { assertions: start.into_iter().chain(literal).chain(pin).collect() }
            };
            let signed = self.authorizations(*bank).map(|one| end(Some(Assertion::Authorize(one))));
            let stored = self.stored(pcrlock);
            let stored = stored.into_iter().map(|one| end(Some(Assertion::Stored(one))));
            match self.kind {
                Kind::Literal => ways.push(vec![end(None)]),
                Kind::Signed => ways.extend(signed.map(|policy| vec![policy])),
                Kind::Pcrlock => ways.extend(stored.map(|policy| vec![policy])),
                Kind::SignedAndPcrlock => {
                    let stored: Vec<_> = stored.collect();
                    ways.extend(signed.flat_map(|first| {
                        stored.iter().map(move |second| vec![first.clone(), second.clone()])
                    }));
                }
            }
        }
        ways
    }

    /// systemd before 250 names no bank; it wrote SHA-256, or SHA-1 where the TPM had nothing else
    /// (`tpm2_get_best_pcr_bank`).
    fn banks(&self) -> &'static [PcrBank] {
        match self.pcrs.bank {
            _ if !self.json.contains_key("tpm2-pcr-bank") && !self.pcrs.pcrs.is_empty() => {
                &[PcrBank::Sha256, PcrBank::Sha1]
            }
            PcrBank::Sha1 => &[PcrBank::Sha1],
            PcrBank::Sha256 => &[PcrBank::Sha256],
            PcrBank::Sha384 => &[PcrBank::Sha384],
            PcrBank::Sha512 => &[PcrBank::Sha512],
        }
    }

    fn authorizations(&self, bank: PcrBank) -> impl Iterator<Item = Authorization> {
        let of = move |one: &Authorization, written| Authorization {
            pcrs: PcrSelection { bank, ..one.pcrs.clone() },
            key: one.key.with(written),
            ..one.clone()
        };
        self.authorization.iter().flat_map(move |one| {
            [Exponent::Explicit, Exponent::Default].map(|written| of(one, written))
        })
    }

    fn stored(&self, pcrlock: &[Pcrlock]) -> Vec<StoredPolicy> {
        let is_ours = |policy: &&Pcrlock| {
            self.pcrlock_index
                .as_ref()
                .is_none_or(|(index, name)| policy.index == *index && policy.name == *name)
        };
        let known: Vec<_> = pcrlock.iter().filter(is_ours).map(Pcrlock::policy).collect();
        match &self.pcrlock_index {
            Some((index, name)) if known.is_empty() => {
                vec![StoredPolicy { index: *index, name: name.clone(), steps: vec![] }]
            }
            _ => known,
        }
    }

    /// Who wrote the token, from the version that first wrote each of its fields.
    pub fn writer(&self) -> Writer {
        let has = |field: &str| self.json.contains_key(field);
        let since = match () {
            () if has("tpm2_argon2id_memcost") || has("tpm2_pubkey_ref") => 262,
            () if self.objects.len() > 1 => 257,
            () if has("tpm2_pcrlock_nv") => 256,
            () if self.kind == Kind::Pcrlock => 255,
            () if self.objects.iter().any(|object| object.seed().is_some()) => 255,
            () if has("tpm2_srk") => 254,
            () if has("tpm2_salt") => 253,
            () if has("tpm2_pubkey") => 252,
            () if has("tpm2-pin") => 251,
            () if has("tpm2-pcr-bank") || has("tpm2-primary-alg") => 250,
            () => 248,
        };
        Writer { since }
    }

    /// The token in words.
    pub fn summary(&self) -> Summary<'_> {
        Summary(self)
    }
}

/// The key that approves PCR values, where the token names PCRs for it (`tpm2_pubkey_pcrs`).
fn authorization(fields: &Fields<'_>, bank: PcrBank) -> Result<Option<Authorization>, TokenError> {
    let pcrs = match fields.list("tpm2_pubkey_pcrs")? {
        Some(list) => pcr_set("tpm2_pubkey_pcrs", list)?,
        None => BTreeSet::new(),
    };
    if pcrs.is_empty() {
        return Ok(None);
    }
    let field = "tpm2_pubkey";
    let text = fields.text(field)?.ok_or(TokenError::Missing { field })?;
    let key = AuthorityKey::from_pem(&base64(field, text)?)
        .map_err(|error| TokenError::Value { field, found: error.to_string() })?;
    let policy_ref = fields.text("tpm2_pubkey_ref")?.unwrap_or_default().to_owned();
    if policy_ref.len() > MAX_REF {
        let found = "longer than 256 bytes".to_owned();
        return Err(TokenError::Value { field: "tpm2_pubkey_ref", found });
    }
    let pcrs = PcrSelection { bank, pcrs };
    Ok(Some(Authorization { pcrs, key, policy_ref, signatures: vec![] }))
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
    if items.len() > usize::from(PcrIndex::COUNT) {
        return Err(TokenError::Value { field, found: format!("{} PCRs", items.len()) });
    }
    items.iter().map(pcr).collect()
}

fn parent(fields: &Fields<'_>) -> Result<StorageKey, TokenError> {
    if let Some(text) = fields.text("tpm2_srk")? {
        let (handle, name) = esys::parse_key(&base64("tpm2_srk", text)?).ok_or_else(|| {
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
