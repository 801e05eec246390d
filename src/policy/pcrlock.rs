//! systemd-pcrlock's policy: the PCR values it allows (`pcrlock.json`), approved by an NV index.

use std::collections::BTreeMap;
use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{PolicyDigest, literal_digest};
use crate::measurement::{Digest, PcrBank, PcrIndex, PcrSelection, PcrValues};

/// Branches that `TPM2_PolicyOR` takes (part 2, `TPML_DIGEST`).
const MAX_BRANCHES: usize = 8;
const TPM_ALG_SHA256: u16 = 0x000b;
const TPMA_NV_WRITTEN: u32 = 1 << 29;
/// First octet of an NV index's handle (`TPM_HT_NV_INDEX`).
const NV_INDEX: u32 = 0x01;

/// What a `pcrlock.json` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pcrlock {
    /// The bank.
    pub bank: PcrBank,
    /// The values that each PCR may have: 1 to 8 each.
    pub values: BTreeMap<PcrIndex, Vec<Digest>>,
    /// The NV index, a TPM handle `0x01…`.
    pub index: u32,
    /// The index's Name, from its public area.
    pub name: Vec<u8>,
}

/// A `pcrlock.json` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PcrlockError {
    /// Not JSON, or more than any real one has.
    Malformed,
    /// A field that is missing or senseless.
    Field {
        /// Its name.
        field: &'static str,
    },
}

impl fmt::Display for PcrlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("it is not a pcrlock policy"),
            Self::Field { field } => write!(f, "field {field} of the pcrlock policy"),
        }
    }
}

impl std::error::Error for PcrlockError {}

/// A policy that an NV index approves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPolicy {
    /// The NV index, a TPM handle `0x01…`.
    pub index: u32,
    /// The index's Name.
    pub name: Vec<u8>,
    /// What the session asserts before `TPM2_PolicyAuthorizeNV`. Empty where no `pcrlock.json` of
    /// this index was found.
    pub steps: Vec<Step>,
}

/// One assertion on the way to a stored policy (`tpm2_policy_super_pcr`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `TPM2_PolicyPCR` of the PCRs as they are.
    Pcr(PcrSelection),
    /// `TPM2_PolicyOR` of these digests, the present one among them.
    Or(Vec<PolicyDigest>),
}

impl StoredPolicy {
    /// The PCRs that it looks at.
    pub fn selection(&self) -> PcrSelection {
        let mut selection = PcrSelection::new(PcrBank::Sha256, []);
        for step in &self.steps {
            if let Step::Pcr(more) = step {
                selection.bank = more.bank;
                selection.pcrs.extend(&more.pcrs);
            }
        }
        selection
    }
}

impl Pcrlock {
    /// Most bytes of a `pcrlock.json`.
    pub const MAX_LEN: usize = 1 << 20;

    /// Reads a `pcrlock.json` (`tpm2_pcrlock_policy_from_json`).
    ///
    /// # Errors
    /// [`PcrlockError`].
    pub fn parse(json: &[u8]) -> Result<Self, PcrlockError> {
        if json.len() > Self::MAX_LEN {
            return Err(PcrlockError::Malformed);
        }
        let json: Value = serde_json::from_slice(json).map_err(|_| PcrlockError::Malformed)?;
        let wrong = |field| move || PcrlockError::Field { field };
        let bank = json.get("pcrBank").and_then(Value::as_str).and_then(|name| name.parse().ok());
        let bank = bank.ok_or_else(wrong("pcrBank"))?;
        let values = json.get("pcrValues").and_then(Value::as_array);
        let values = values.and_then(|items| all_values(bank, items));
        let index = json.get("nvIndex").and_then(Value::as_u64);
        let index = index.and_then(|index| u32::try_from(index).ok());
        let public = json.get("nvPublic").and_then(Value::as_str);
        let (public_index, name) = public
            .and_then(|text| STANDARD.decode(text).ok())
            .and_then(|bytes| index_and_name(&bytes))
            .ok_or_else(wrong("nvPublic"))?;
        Ok(Self {
            bank,
            values: values.filter(|values| !values.is_empty()).ok_or_else(wrong("pcrValues"))?,
            index: index
                .filter(|index| index >> 24 == NV_INDEX && *index == public_index)
                .ok_or_else(wrong("nvIndex"))?,
            name,
        })
    }

    /// Reads the copy for the initrd, a credential that everybody can open.
    ///
    /// # Errors
    /// [`PcrlockError`].
    pub fn from_credential(credential: &[u8]) -> Result<Self, PcrlockError> {
        if credential.len() > Self::MAX_LEN {
            return Err(PcrlockError::Malformed);
        }
        Self::parse(&super::credential::open(credential).ok_or(PcrlockError::Malformed)?)
    }

    /// The policy of a session: all PCRs of one value in one step; then, ascending, each other PCR
    /// and the choice among its values (`tpm2_calculate_policy_super_pcr`).
    pub fn policy(&self) -> StoredPolicy {
        let mut steps = vec![];
        let mut single = PcrValues::new(self.bank);
        for (index, values) in &self.values {
            if let [value] = values.as_slice() {
                single.set(*index, *value);
            }
        }
        let mut digest = PolicyDigest::default();
        if !single.selection().pcrs.is_empty() {
            steps.push(Step::Pcr(single.selection()));
            digest = literal_digest(&single);
        }
        for (index, values) in self.values.iter().filter(|(_, values)| values.len() > 1) {
            let branch = |value: &Digest| {
                let mut one = PcrValues::new(self.bank);
                one.set(*index, *value);
                digest.policy_pcr(&one)
            };
            let branches: Vec<_> = values.iter().map(branch).collect();
            digest = PolicyDigest::any_of(&branches);
            steps.push(Step::Pcr(PcrSelection::new(self.bank, [*index])));
            steps.push(Step::Or(branches));
        }
        StoredPolicy { index: self.index, name: self.name.clone(), steps }
    }

    /// The PCRs that do not have a value it allows.
    pub fn differing(&self, pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>) -> Vec<PcrIndex> {
        let allowed = |index: PcrIndex, values: &[Digest]| {
            pcr(self.bank, index).is_some_and(|value| values.contains(&value))
        };
        let differing = self.values.iter().filter(|(index, values)| !allowed(**index, values));
        differing.map(|(index, _)| *index).collect()
    }
}

/// Handle and Name of an NV index, from its `TPM2B_NV_PUBLIC`: handle, Name algorithm (SHA-256, as
/// systemd makes it), attributes, policy and size. The file has the attributes of before the first
/// write, the Name those of after it.
fn index_and_name(sized: &[u8]) -> Option<(u32, Vec<u8>)> {
    let (size, public) = sized.split_first_chunk::<2>()?;
    if usize::from(u16::from_be_bytes(*size)) != public.len() {
        return None;
    }
    let (index, rest) = public.split_first_chunk::<4>()?;
    let (algorithm, rest) = rest.split_first_chunk::<2>()?;
    let (attributes, rest) = rest.split_first_chunk::<4>()?;
    if u16::from_be_bytes(*algorithm) != TPM_ALG_SHA256 {
        return None;
    }
    let written = u32::from_be_bytes(*attributes) | TPMA_NV_WRITTEN;
    let digest =
        PcrBank::Sha256.hash_parts(&[index, algorithm, written.to_be_bytes().as_slice(), rest]);
    let name = [&TPM_ALG_SHA256.to_be_bytes(), digest.as_bytes()].concat();
    Some((u32::from_be_bytes(*index), name))
}

fn all_values(bank: PcrBank, items: &[Value]) -> Option<BTreeMap<PcrIndex, Vec<Digest>>> {
    let mut all = BTreeMap::new();
    for item in items {
        let index = PcrIndex::new(item.get("pcr")?.as_u64()?).ok()?;
        let texts = item.get("values")?.as_array()?;
        if !(1..=MAX_BRANCHES).contains(&texts.len()) {
            return None;
        }
        let values: Option<Vec<_>> =
            texts.iter().map(|text| Digest::from_hex(bank, text.as_str()?).ok()).collect();
        all.insert(index, values?).is_none().then_some(())?;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_systemd_257_names_the_index_of_its_token() {
        let json = include_bytes!("../../tests/fixtures/tokens/pcrlock.json");
        let policy = Pcrlock::parse(json).unwrap();
        assert_eq!(policy.index, 0x01a2_884a);
        let token = include_str!("../../tests/fixtures/tokens/s257-pcrlock.json");
        let token: Value = serde_json::from_str(token).unwrap();
        assert_eq!(token["tpm2-policy-hash"], PolicyDigest::stored(&policy.name).to_string());
        let json: Value = serde_json::from_slice(json).unwrap();
        let public = STANDARD.decode(json["pinPublic"].as_str().unwrap()).unwrap();
        let steps = policy.policy().steps;
        assert!(matches!(steps.as_slice(), [Step::Pcr(_), ..]), "{steps:?}");
        // The PIN of the index is itself sealed under the policy that the index approves.
        let hash = PolicyDigest::stored(&policy.name);
        assert!(public.windows(32).any(|bytes| bytes == hash.as_bytes()));
    }

    #[test]
    fn a_damaged_policy_is_refused_by_the_name_of_its_field() {
        let json = include_str!("../../tests/fixtures/tokens/pcrlock.json");
        let good: Value = serde_json::from_str(json).unwrap();
        for (field, value) in [
            ("pcrBank", Value::from("md5")),
            ("pcrValues", serde_json::json!([])),
            ("pcrValues", serde_json::json!([{ "pcr": 24, "values": ["00"] }])),
            ("pcrValues", serde_json::json!([{ "pcr": 4, "values": [] }])),
            ("nvIndex", Value::from(0x8100_0001_u32)),
            ("nvPublic", Value::from("AAAA")),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let refused = Pcrlock::parse(bad.to_string().as_bytes());
            assert_eq!(refused, Err(PcrlockError::Field { field }));
        }
        assert_eq!(Pcrlock::parse(b"[]").err(), Some(PcrlockError::Field { field: "pcrBank" }));
        assert_eq!(Pcrlock::parse(b"{").err(), Some(PcrlockError::Malformed));
    }
}
