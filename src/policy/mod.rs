//! Policies: what must hold for the TPM to release a secret, and the digest that stands for it.

mod digest;

pub use digest::PolicyDigest;

use std::collections::BTreeSet;

use crate::measurement::{Digest, PcrBank, PcrIndex, PcrSelection, PcrValues};

/// One assertion of a policy session, in the order in which the TPM must hear them.
///
/// Signed, stored (NV) and PIN policies will be further variants.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Assertion {
    /// `TPM2_PolicyPCR` of the PCRs as they are when the session runs.
    Pcr(PcrSelection),
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

    /// The PCRs that the policy looks at, bank by bank.
    pub fn selections(&self) -> impl Iterator<Item = &PcrSelection> {
        self.assertions.iter().map(|Assertion::Pcr(selection)| selection)
    }

    /// The digest that a policy session reaches where the PCRs have the values that `pcr` tells;
    /// `None` where it does not know one of them.
    pub fn digest(
        &self,
        pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
    ) -> Option<PolicyDigest> {
        self.selections().try_fold(PolicyDigest::default(), |digest, selection| {
            let mut values = PcrValues::new(selection.bank);
            for index in &selection.pcrs {
                values.set(*index, pcr(selection.bank, *index)?);
            }
            Some(digest.policy_pcr(&values))
        })
    }
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
