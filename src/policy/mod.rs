//! Policies: what must hold for the TPM to release a secret, and the digest that stands for it.

mod authority;
mod credential;
mod digest;
pub mod disk;
mod pcrlock;
mod signature;
#[cfg(feature = "cli")]
mod signing;

pub use authority::{AuthorityKey, AuthorityKeyError, Exponent};
pub use digest::PolicyDigest;
pub use pcrlock::{Pcrlock, PcrlockError, Step, StoredPolicy};
pub use signature::{SignatureError, Signatures};
#[cfg(feature = "cli")]
pub use signing::{SigningError, SigningKey, VerifyingKeys, is_signed_by, verified};

use std::collections::BTreeSet;

use crate::measurement::{Digest, PcrBank, PcrIndex, PcrSelection, PcrValues};

/// One assertion of a policy session, in the order in which the TPM must hear them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Assertion {
    /// `TPM2_PolicyPCR` of the PCRs as they are when the session runs.
    Pcr(PcrSelection),
    /// `TPM2_PolicyPCR` of the PCRs as they are, approved by a signature: `TPM2_PolicyAuthorize`.
    Authorize(Authorization),
    /// The PCRs as pcrlock allows them, approved by an NV index: `TPM2_PolicyAuthorizeNV`.
    Stored(StoredPolicy),
    /// `TPM2_PolicyAuthValue`: whoever unseals knows the object's authorization value.
    AuthValue,
}

/// PCR values approved by whoever holds a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// The PCRs whose values are signed.
    pub pcrs: PcrSelection,
    /// The public half of the key.
    pub key: AuthorityKey,
    /// What the key signs for (`tpm2_pubkey_ref`, systemd 262); empty for everything before.
    pub policy_ref: String,
    /// Signatures of the present values, each with the digest it signs and to be tried: one of them
    /// may be forged. A policy's digest does not depend on them.
    pub signatures: Vec<(PolicyDigest, Vec<u8>)>,
}

/// A policy as a list of assertions. An empty list is satisfied by anybody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The assertions, first to last.
    pub assertions: Vec<Assertion>,
}

impl Policy {
    /// The policy of systemd's literal-PCR tokens: one `TPM2_PolicyPCR`, or nothing when no PCR
    /// is named (`tpm2_calculate_sealing_policy`).
    pub fn literal(selection: PcrSelection) -> Self {
        let assertions =
            if selection.pcrs.is_empty() { vec![] } else { vec![Assertion::Pcr(selection)] };
        Self { assertions }
    }

    /// Whether an NV index approves some of it.
    pub fn is_stored(&self) -> bool {
        self.assertions.iter().any(|assertion| matches!(assertion, Assertion::Stored(_)))
    }

    /// The PCRs that the policy looks at, bank by bank: literal, signed and stored ones.
    pub fn selections(&self) -> impl Iterator<Item = PcrSelection> {
        self.assertions.iter().filter_map(|assertion| match assertion {
            Assertion::Pcr(selection) => Some(selection.clone()),
            Assertion::Authorize(authorization) => Some(authorization.pcrs.clone()),
            Assertion::Stored(stored) => Some(stored.selection()),
            Assertion::AuthValue => None,
        })
    }

    /// The digest that a policy session reaches where the PCRs have the values that `pcr` tells;
    /// `None` where it does not know a literal one. Signed and stored values do not matter to it:
    /// `TPM2_PolicyAuthorize` and `TPM2_PolicyAuthorizeNV` start afresh.
    pub fn digest(
        &self,
        pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
    ) -> Option<PolicyDigest> {
        self.assertions.iter().try_fold(PolicyDigest::default(), |digest, assertion| {
            Some(match assertion {
                Assertion::Pcr(selection) => digest.policy_pcr(&known_values(selection, &pcr)?),
                Assertion::Authorize(authorization) => PolicyDigest::authorized(
                    &authorization.key.name(),
                    &authorization.policy_ref_nonce(),
                ),
                Assertion::Stored(stored) => PolicyDigest::stored(&stored.name),
                Assertion::AuthValue => digest.policy_auth_value(),
            })
        })
    }
}

impl Authorization {
    /// The digest that must be signed where the PCRs have the values that `pcr` tells: that of one
    /// `TPM2_PolicyPCR`.
    pub fn approved(
        &self,
        pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
    ) -> Option<PolicyDigest> {
        Some(literal_digest(&known_values(&self.pcrs, pcr)?))
    }

    /// The TPM's policyRef: SHA-256 of the text, or nothing where there is none.
    pub fn policy_ref_nonce(&self) -> Vec<u8> {
        policy_ref_nonce(&self.policy_ref)
    }
}

fn policy_ref_nonce(policy_ref: &str) -> Vec<u8> {
    if policy_ref.is_empty() {
        return vec![];
    }
    PcrBank::Sha256.hash(policy_ref.as_bytes()).as_bytes().to_vec()
}

fn known_values(
    selection: &PcrSelection,
    pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
) -> Option<PcrValues> {
    let mut values = PcrValues::new(selection.bank);
    for index in &selection.pcrs {
        values.set(*index, pcr(selection.bank, *index)?);
    }
    Some(values)
}

/// The policy digest of one `TPM2_PolicyPCR` over `values`.
pub fn literal_digest(values: &PcrValues) -> PolicyDigest {
    PolicyDigest::default().policy_pcr(values)
}

/// `pcrs` with the latch's PCR 15: without it a booted system could release the secret again.
#[must_use]
pub fn with_latch(mut pcrs: BTreeSet<PcrIndex>) -> BTreeSet<PcrIndex> {
    pcrs.insert(PcrIndex::LATCH);
    pcrs
}
