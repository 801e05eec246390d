//! Policy digests, computed without a TPM (TPM 2.0 part 3, clause 23).

use std::fmt;

use crate::measurement::{Digest, PcrBank, PcrSelection, PcrValues};

const TPM_CC_POLICY_AUTHORIZE: u32 = 0x0000_016a;
const TPM_CC_POLICY_AUTH_VALUE: u32 = 0x0000_016b;
const TPM_CC_POLICY_OR: u32 = 0x0000_0171;
const TPM_CC_POLICY_PCR: u32 = 0x0000_017f;
const TPM_CC_POLICY_AUTHORIZE_NV: u32 = 0x0000_0192;

/// The SHA-256 digest of a policy session. systemd uses SHA-256 sessions for every bank.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyDigest(Digest);

impl Default for PolicyDigest {
    /// The digest of a session that has heard nothing yet.
    fn default() -> Self {
        Self(Digest::zero(PcrBank::Sha256))
    }
}

impl PolicyDigest {
    /// A digest from its 32 bytes.
    ///
    /// # Errors
    /// [`crate::measurement::DigestError::Length`] for any other number of bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, crate::measurement::DigestError> {
        Digest::from_bytes(PcrBank::Sha256, bytes).map(Self)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The digest after `TPM2_PolicyPCR`: H(old ‖ TPM_CC_PolicyPCR ‖ pcrs ‖ H(values)).
    #[must_use]
    pub fn policy_pcr(self, values: &PcrValues) -> Self {
        let digest_of_values = {
            let parts: Vec<&[u8]> = values.iter().map(|(_, value)| value.as_bytes()).collect();
            PcrBank::Sha256.hash_parts(&parts)
        };
        Self(PcrBank::Sha256.hash_parts(&[
            self.as_bytes(),
            &TPM_CC_POLICY_PCR.to_be_bytes(),
            &marshal_selection(&values.selection()),
            digest_of_values.as_bytes(),
        ]))
    }

    /// The digest after `TPM2_PolicyAuthorize`, whatever came before it:
    /// H(H(0 ‖ TPM_CC_PolicyAuthorize ‖ key's Name) ‖ policyRef).
    pub fn authorized(key_name: &[u8], policy_ref: &[u8]) -> Self {
        let inner = Self::afresh(TPM_CC_POLICY_AUTHORIZE, &[key_name]);
        Self(PcrBank::Sha256.hash_parts(&[inner.as_bytes(), policy_ref]))
    }

    /// The digest after `TPM2_PolicyAuthorizeNV`, whatever came before it:
    /// H(0 ‖ TPM_CC_PolicyAuthorizeNV ‖ index's Name).
    pub fn stored(index_name: &[u8]) -> Self {
        Self::afresh(TPM_CC_POLICY_AUTHORIZE_NV, &[index_name])
    }

    /// The digest after `TPM2_PolicyOR` of these: H(0 ‖ TPM_CC_PolicyOR ‖ digests).
    pub fn any_of(branches: &[Self]) -> Self {
        Self::afresh(TPM_CC_POLICY_OR, &branches.iter().map(Self::as_bytes).collect::<Vec<_>>())
    }

    /// The digest after `TPM2_PolicyAuthValue`: H(old ‖ TPM_CC_PolicyAuthValue).
    #[must_use]
    pub fn policy_auth_value(self) -> Self {
        Self(
            PcrBank::Sha256.hash_parts(&[self.as_bytes(), &TPM_CC_POLICY_AUTH_VALUE.to_be_bytes()]),
        )
    }

    fn afresh(command: u32, parts: &[&[u8]]) -> Self {
        let start = Self::default();
        let command = command.to_be_bytes();
        let all: Vec<&[u8]> =
            [start.as_bytes(), &command].into_iter().chain(parts.iter().copied()).collect();
        Self(PcrBank::Sha256.hash_parts(&all))
    }
}

impl fmt::Display for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy:{self}")
    }
}

/// `TPML_PCR_SELECTION` with one entry of three octets (TPM 2.0 part 2, 10.9.7).
fn marshal_selection(selection: &PcrSelection) -> Vec<u8> {
    let mask = selection.pcrs.iter().fold(0u32, |mask, pcr| mask | 1 << pcr.get());
    let mut out = 1u32.to_be_bytes().to_vec();
    out.extend(selection.bank.alg_id().to_be_bytes());
    out.push(3);
    out.extend(mask.to_le_bytes().into_iter().take(3));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::PcrIndex;

    #[test]
    fn selection_is_marshalled_as_the_tpm_does() {
        let pcrs = [0, 4, 7, 11, 15].map(|n| PcrIndex::new(n).unwrap());
        let bytes = marshal_selection(&PcrSelection::new(PcrBank::Sha256, pcrs));
        assert_eq!(hex::encode(bytes), "00000001000b03918800");
    }

    /// systemd 252's token in `tests/fixtures/tokens/s252-pcr7-zero.json`: PCR 7 was all zeros.
    #[test]
    fn digest_of_zero_pcr_7_is_what_systemd_sealed_to() {
        let mut values = PcrValues::new(PcrBank::Sha256);
        values.set(PcrIndex::new(7).unwrap(), Digest::zero(PcrBank::Sha256));
        let token = include_str!("../../tests/fixtures/tokens/s252-pcr7-zero.json");
        let token: serde_json::Value = serde_json::from_str(token).unwrap();
        let digest = PolicyDigest::default().policy_pcr(&values).to_string();
        assert_eq!(token["tpm2-policy-hash"], digest);
    }
}
