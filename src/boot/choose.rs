//! Which token fits: told from policy digests alone, so that a mismatch costs no TPM attempt.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::measurement::{Digest, PcrBank, PcrIndex, PcrSelection};
use crate::token::{Kind, Record, SystemdTpm2, TokenError};

use super::mismatch::{Mismatch, PcrDifference};
use super::seal_point::BootLogs;

/// What can be said of a TPM token where PCRs have given values.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The TPM will release the secret, if it is the right TPM.
    Fits(Box<SystemdTpm2>),
    /// PCRs differ from what was sealed to.
    Differs(Box<SystemdTpm2>, Mismatch),
    /// Sealed by another TPM.
    Foreign {
        /// The keyslot it opens.
        keyslot: u32,
    },
    /// A kind of token that vmseal does not open.
    Unsupported {
        /// The keyslot it opens.
        keyslot: u32,
        /// What is not supported.
        why: &'static str,
    },
    /// Not a token that anybody could use.
    Malformed(TokenError),
}

impl Verdict {
    /// One word for scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fits(_) => "fits",
            Self::Differs(..) => "differs",
            Self::Foreign { .. } => "foreign",
            Self::Unsupported { .. } => "unsupported",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// A TPM token and its verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The token's id in the header.
    pub token: u32,
    /// What can be said of it.
    pub verdict: Verdict,
}

/// Judges every `systemd-tpm2` token among `tokens`, in order of their ids. `pcr` tells the value
/// of a PCR; the record serves to name what differs.
pub fn judge(
    tokens: &BTreeMap<u32, Value>,
    record: Option<&Record>,
    pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
) -> Vec<Judgement> {
    tokens
        .iter()
        .filter(|(_, json)| SystemdTpm2::is_type_of(json) && !opens_nothing(json))
        .map(|(id, json)| Judgement { token: *id, verdict: verdict(json, record, &pcr) })
        .collect()
}

/// Adds to each mismatch the first event that differs, as far as record and logs tell.
pub fn name_events(judgements: &mut [Judgement], record: Option<&Record>, logs: &BootLogs) {
    for judgement in judgements {
        if let Verdict::Differs(token, mismatch) = &mut judgement.verdict
            && let Some(hash) = token.policy_hashes.first()
            && let Some(entry) = record.and_then(|record| record.entry(hash))
        {
            mismatch.name_events(entry, logs);
        }
    }
}

/// The PCRs that must be known to judge `tokens`, one selection a bank.
pub fn literal_selections(tokens: &BTreeMap<u32, Value>) -> Vec<PcrSelection> {
    let mut banks = BTreeMap::<PcrBank, PcrSelection>::new();
    for token in tokens.values().filter_map(|json| SystemdTpm2::parse(json).ok()) {
        if token.literal_policy().is_some() {
            banks
                .entry(token.pcrs.bank)
                .or_insert_with(|| PcrSelection::new(token.pcrs.bank, []))
                .pcrs
                .extend(&token.pcrs.pcrs);
        }
    }
    banks.into_values().filter(|selection| !selection.pcrs.is_empty()).collect()
}

/// A token whose keyslot is gone, as `cryptsetup luksKillSlot` leaves it.
fn opens_nothing(json: &Value) -> bool {
    json.get("keyslots").and_then(Value::as_array).is_some_and(Vec::is_empty)
}

fn verdict(
    json: &Value,
    record: Option<&Record>,
    pcr: &impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
) -> Verdict {
    let token = match SystemdTpm2::parse(json) {
        Ok(token) => token,
        Err(error) => return Verdict::Malformed(error),
    };
    let Some((_, policy)) = token.literal_policy() else {
        return Verdict::Unsupported { keyslot: token.keyslot, why: unsupported(&token) };
    };
    let reached = policy.digest(pcr);
    if reached.is_some() && reached.as_ref() == token.policy_hashes.first() {
        return Verdict::Fits(Box::new(token));
    }
    if token.pcrs.pcrs.is_empty() {
        let found = "not the policy of a token without PCRs".to_owned();
        return Verdict::Malformed(TokenError::Value { field: "tpm2-policy-hash", found });
    }
    let entry = token
        .policy_hashes
        .first()
        .and_then(|hash| record?.entry(hash))
        .filter(|entry| entry.values.selection() == token.pcrs);
    let differences = token
        .pcrs
        .pcrs
        .iter()
        .map(|index| PcrDifference {
            pcr: *index,
            expected: entry.and_then(|entry| entry.values.get(*index)).copied(),
            found: pcr(token.pcrs.bank, *index),
            event: None,
        })
        .filter(|difference| entry.is_none() || difference.expected != difference.found)
        .collect();
    let mismatch = Mismatch { bank: token.pcrs.bank, recorded: entry.is_some(), differences };
    Verdict::Differs(Box::new(token), mismatch)
}

fn unsupported(token: &SystemdTpm2) -> &'static str {
    match token.kind {
        _ if token.pin => "a PIN",
        Kind::Literal => "an object sealed outside the TPM",
        Kind::Signed => "signed PCR values",
        Kind::Pcrlock => "a pcrlock policy",
        Kind::SignedAndPcrlock => "signed PCR values and a pcrlock policy",
    }
}
