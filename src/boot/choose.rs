//! Which token fits: told from policy digests alone, so that a mismatch costs no TPM attempt.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::measurement::{Digest, PcrBank, PcrIndex, PcrSelection};
use crate::policy::{Assertion, Policy};
use crate::token::{Kind, Record, SystemdTpm2, TokenError};

use super::approvals::Approvals;
use super::mismatch::{Mismatch, Unapproved};
use super::seal_point::BootLogs;

/// What can be said of a TPM token where PCRs have given values.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The TPM will release the secret, if it is the right TPM and, where the token wants one, the
    /// PIN is right.
    Fits(Box<Candidate>),
    /// PCRs differ from what was sealed to.
    Differs(Box<SystemdTpm2>, Mismatch),
    /// Nobody who may has approved these PCR values.
    Unapproved(Box<SystemdTpm2>, Unapproved),
    /// Sealed by another TPM.
    Foreign(Box<SystemdTpm2>),
    /// Not a token that anybody could use.
    Malformed(TokenError),
}

/// A token that fits, and what its sessions must satisfy: one policy for each sealed object.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: SystemdTpm2,
    /// The policies, with the signatures that approve the present values.
    pub policies: Vec<Policy>,
}

impl Verdict {
    /// One word for scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fits(_) => "fits",
            Self::Differs(..) => "differs",
            Self::Unapproved(..) => "unapproved",
            Self::Foreign(_) => "foreign",
            Self::Malformed(_) => "malformed",
        }
    }

    /// The token, where it is one.
    pub fn token(&self) -> Option<&SystemdTpm2> {
        match self {
            Self::Fits(candidate) => Some(&candidate.token),
            Self::Differs(token, _) | Self::Unapproved(token, _) | Self::Foreign(token) => {
                Some(token)
            }
            Self::Malformed(_) => None,
        }
    }

    /// What differs from the recorded boot, to be named.
    pub fn mismatch_mut(&mut self) -> Option<&mut Mismatch> {
        match self {
            Self::Differs(_, mismatch) => Some(mismatch),
            Self::Unapproved(_, unapproved) => unapproved.mismatch.as_mut(),
            Self::Fits(_) | Self::Foreign(_) | Self::Malformed(_) => None,
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

/// The tokens of a header, and what is known besides about the boots that they are for.
pub struct Choice {
    tokens: Vec<(u32, Result<SystemdTpm2, TokenError>)>,
    record: Option<Record>,
    approvals: Approvals,
}

impl Choice {
    /// The `systemd-tpm2` tokens among `tokens`, in order of their ids. `approvals` is asked only
    /// where one of them needs it; the record's own signatures join them.
    pub fn among(tokens: &BTreeMap<u32, Value>, approvals: impl FnOnce() -> Approvals) -> Self {
        // It only serves to explain, and to carry signatures, which speak for themselves.
        let record = Record::find(tokens).and_then(|(_, record)| record.ok());
        let tokens: Vec<_> = tokens
            .iter()
            .filter(|(_, json)| SystemdTpm2::is_type_of(json) && !opens_nothing(json))
            .map(|(id, json)| (*id, SystemdTpm2::parse(json)))
            .collect();
        let needed = tokens
            .iter()
            .any(|(_, token)| token.as_ref().is_ok_and(|token| token.kind != Kind::Literal));
        let mut approvals = if needed { approvals() } else { Approvals::default() };
        if let Some(record) = &record {
            approvals.signatures.merge(record.signatures.clone());
        }
        Self { tokens, record, approvals }
    }

    /// The record, where the header has one that can be read.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// The PCRs that must be known to judge, one selection a bank.
    pub fn selections(&self) -> Vec<PcrSelection> {
        let mut banks = BTreeMap::<PcrBank, PcrSelection>::new();
        let tokens = self.tokens.iter().filter_map(|(_, token)| token.as_ref().ok());
        let policies = tokens.flat_map(|token| token.policies(&self.approvals.pcrlock)).flatten();
        for selection in policies.flat_map(|policy| policy.selections().collect::<Vec<_>>()) {
            let bank = banks.entry(selection.bank);
            bank.or_insert_with(|| PcrSelection::new(selection.bank, []))
                .pcrs
                .extend(selection.pcrs);
        }
        banks.into_values().filter(|selection| !selection.pcrs.is_empty()).collect()
    }

    /// Judges every token. `pcr` tells the value of a PCR.
    pub fn judge(&self, pcr: impl Fn(PcrBank, PcrIndex) -> Option<Digest>) -> Vec<Judgement> {
        let verdict = |token: &Result<SystemdTpm2, TokenError>| match token {
            Ok(token) => self.verdict(token, &pcr),
            Err(error) => Verdict::Malformed(error.clone()),
        };
        self.tokens
            .iter()
            .map(|(id, token)| Judgement { token: *id, verdict: verdict(token) })
            .collect()
    }

    /// Adds to each mismatch the first event that differs, as far as record and logs tell.
    pub fn name_events(&self, judgements: &mut [Judgement], logs: &BootLogs) {
        for judgement in judgements {
            let Some(token) = judgement.verdict.token().cloned() else { continue };
            let Some(mismatch) = judgement.verdict.mismatch_mut() else { continue };
            if let Some(entry) = mismatch.entry(self.record.as_ref(), &token) {
                mismatch.name_events(entry, logs);
            }
        }
    }

    fn verdict(
        &self,
        token: &SystemdTpm2,
        pcr: &impl Fn(PcrBank, PcrIndex) -> Option<Digest>,
    ) -> Verdict {
        let meanings = token.policies(&self.approvals.pcrlock);
        let holds = |policies: &Vec<Policy>| {
            let reached = policies.iter().map(|policy| policy.digest(pcr));
            reached.eq(token.policy_hashes.iter().map(|hash| Some(*hash)))
        };
        let token = token.clone();
        let Some(mut policies) = meanings.into_iter().find(holds) else {
            if token.pcrs.pcrs.is_empty() {
                // Nothing that this boot could change enters the digest.
                return match Unapproved::without_policy(&token) {
                    Some(unapproved) => Verdict::Unapproved(Box::new(token), unapproved),
                    None => Verdict::Malformed(TokenError::Value {
                        field: "tpm2-policy-hash",
                        found: "not the policy of such a token".to_owned(),
                    }),
                };
            }
            let mismatch = Mismatch::literal(&token, self.record.as_ref(), pcr);
            return Verdict::Differs(Box::new(token), mismatch);
        };
        for assertion in policies.iter_mut().flat_map(|policy| &mut policy.assertions) {
            match assertion {
                Assertion::Authorize(authorization) => {
                    let signatures = &self.approvals.signatures;
                    authorization.signatures = authorization
                        .approved(pcr)
                        .map(|approved| signatures.matching(authorization, &approved))
                        .unwrap_or_default();
                    if authorization.signatures.is_empty() {
                        let record = self.record.as_ref();
                        let why =
                            Unapproved::unsigned(&token, authorization, signatures, record, pcr);
                        return Verdict::Unapproved(Box::new(token), why);
                    }
                }
                Assertion::Stored(stored) => {
                    let name = &stored.name;
                    let policy = self.approvals.pcrlock.iter().find(|known| known.name == *name);
                    let Some(policy) = policy else {
                        return Verdict::Unapproved(Box::new(token), Unapproved::no_pcrlock());
                    };
                    if let Some(mismatch) = Mismatch::stored(policy, pcr) {
                        return Verdict::Differs(Box::new(token), mismatch);
                    }
                }
                Assertion::Pcr(_) | Assertion::AuthValue => {}
            }
        }
        Verdict::Fits(Box::new(Candidate { token, policies }))
    }
}

/// A token whose keyslot is gone, as `cryptsetup luksKillSlot` leaves it.
fn opens_nothing(json: &Value) -> bool {
    json.get("keyslots").and_then(Value::as_array).is_some_and(Vec::is_empty)
}
