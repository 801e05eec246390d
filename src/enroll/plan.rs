//! What to seal to: PCRs, their values at the seal point, and what these bind.

use std::collections::{BTreeMap, BTreeSet};

use crate::boot::BootLogs;
use crate::coverage::{Component, Coverage};
use crate::error::Error;
use crate::measurement::{Digest, PcrBank, PcrIndex, PcrSelection, PcrValues};
use crate::policy::{Assertion, AuthorityKey, Authorization, Policy, PolicyDigest, with_latch};

/// Which PCRs were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// The smallest stable set that covers this boot.
    Auto,
    /// These, and PCR 15.
    Pcrs(BTreeSet<PcrIndex>),
}

/// What an enrolment seals to.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The PCR values of this boot, PCR 15 = zeros among them.
    pub values: PcrValues,
    /// Whose signature approves values of all PCRs but 15; `None` binds to these values.
    pub authority: Option<AuthorityKey>,
    /// Whether a PIN is wanted too.
    pub pin: bool,
    /// The events behind them, for later explanation.
    pub events: BTreeMap<PcrIndex, Vec<[u8; 4]>>,
    /// Components that no PCR binds, as was allowed.
    pub uncovered: Vec<Component>,
    /// How this boot was measured, where a log tells.
    pub coverage: Option<Coverage>,
}

impl Plan {
    /// The policy: `TPM2_PolicyPCR` over the values; or, with an authority, `TPM2_PolicyAuthorize`
    /// and then `TPM2_PolicyPCR` of PCR 15; and `TPM2_PolicyAuthValue` for a PIN.
    pub fn policy(&self) -> Policy {
        let authorize = self.authorization().map(Assertion::Authorize);
        let pin = self.pin.then_some(Assertion::AuthValue);
        let literal = Assertion::Pcr(self.literal());
        Policy { assertions: authorize.into_iter().chain([literal]).chain(pin).collect() }
    }

    /// The digest of the policy.
    pub fn policy_digest(&self) -> PolicyDigest {
        let known = |bank, pcr| self.values.get(pcr).filter(|_| bank == self.values.bank());
        // Every PCR that the policy names is among the values.
        self.policy().digest(|bank, pcr| known(bank, pcr).copied()).unwrap_or_default()
    }

    /// The PCRs that are bound by their literal values.
    pub fn literal(&self) -> PcrSelection {
        match self.authority {
            Some(_) => PcrSelection::new(self.values.bank(), [PcrIndex::LATCH]),
            None => self.selection(),
        }
    }

    /// Whose signature approves which PCRs, with an authority.
    pub fn authorization(&self) -> Option<Authorization> {
        let key = self.authority.clone()?;
        let mut pcrs = self.selection();
        pcrs.pcrs.remove(&PcrIndex::LATCH);
        Some(Authorization { pcrs, key, policy_ref: String::new(), signatures: vec![] })
    }

    /// What the authority must sign for this boot to open.
    pub fn to_be_signed(&self) -> Option<PolicyDigest> {
        self.authorization()?.approved(|_, pcr| self.values.get(pcr).copied())
    }

    /// All PCRs.
    pub fn selection(&self) -> PcrSelection {
        self.values.selection()
    }
}

/// Plans for the boot that `logs` tell of, where the TPM holds `live` for the PCRs it is asked for.
///
/// # Errors
/// [`Error::EmptySeal`], [`Error::LogDisagrees`], [`Error::LogLacksBank`], [`Error::NotCovered`],
/// and those of `live`.
pub fn plan(
    logs: &BootLogs,
    chosen: &Chosen,
    bank: PcrBank,
    allowed: &[Component],
    live: impl FnOnce(&PcrSelection) -> Result<PcrValues, Error>,
) -> Result<Plan, Error> {
    let covered = Covered::of(logs, chosen, bank, allowed)?;
    let live = live(&PcrSelection::new(bank, covered.pcrs.iter().copied()))?;
    require_evidence(&live)?;
    logs.verify(&live)?;
    covered.plan(logs, bank)
}

/// Plans for the boot that `logs` tell of, which is one of another machine: there is no TPM here to
/// compare them with.
///
/// # Errors
/// Those of [`plan`].
pub fn plan_elsewhere(
    logs: &BootLogs,
    chosen: &Chosen,
    bank: PcrBank,
    allowed: &[Component],
) -> Result<Plan, Error> {
    Covered::of(logs, chosen, bank, allowed)?.plan(logs, bank)
}

/// The PCRs of a boot, and what they bind.
struct Covered {
    coverage: Coverage,
    pcrs: BTreeSet<PcrIndex>,
    uncovered: Vec<Component>,
}

impl Covered {
    fn of(
        logs: &BootLogs,
        chosen: &Chosen,
        bank: PcrBank,
        allowed: &[Component],
    ) -> Result<Self, Error> {
        if !logs.firmware.banks().contains(&bank) {
            return Err(Error::LogLacksBank { bank });
        }
        let coverage = Coverage::of(&logs.firmware);
        let pcrs = with_latch(match chosen {
            Chosen::Auto => coverage.recommended_pcrs(),
            Chosen::Pcrs(pcrs) => pcrs.clone(),
        });
        let (uncovered, refused): (Vec<_>, Vec<_>) = coverage
            .uncovered(&pcrs)
            .into_iter()
            .partition(|part| allowed.contains(&part.component));
        match refused.is_empty() {
            true => {
                let uncovered = uncovered.into_iter().map(|part| part.component).collect();
                Ok(Self { coverage, pcrs, uncovered })
            }
            false => Err(Error::NotCovered { components: refused }),
        }
    }

    fn plan(self, logs: &BootLogs, bank: PcrBank) -> Result<Plan, Error> {
        let mut point = logs.seal_point(bank)?;
        point.events.retain(|pcr, _| self.pcrs.contains(pcr));
        let values = point.values.restricted_to(&self.pcrs).ok_or(Error::LogLacksBank { bank })?;
        require_evidence(&values)?;
        Ok(Plan {
            values,
            authority: None,
            pin: false,
            events: point.events,
            uncovered: self.uncovered,
            coverage: Some(self.coverage),
        })
    }
}

/// Plans without a log: possible only where every component may stay uncovered, since nothing
/// tells what the PCRs stand for. PCR 15 is taken as zero, the others as they are.
///
/// # Errors
/// [`Error::EmptySeal`].
pub fn plan_without_log(live: &PcrValues) -> Result<Plan, Error> {
    require_evidence(live)?;
    let mut values = live.clone();
    values.set(PcrIndex::LATCH, Digest::zero(values.bank()));
    Ok(Plan {
        values,
        authority: None,
        pin: false,
        events: BTreeMap::new(),
        uncovered: Component::ALL.to_vec(),
        coverage: None,
    })
}

/// PCRs that nothing extended are no evidence; PCR 15 is not evidence in any case.
fn require_evidence(values: &PcrValues) -> Result<(), Error> {
    let extended = |(pcr, value): (PcrIndex, &Digest)| {
        let reset = value.is_zero() || *value == pcr.reset_value(values.bank());
        pcr != PcrIndex::LATCH && !reset
    };
    if values.iter().any(extended) {
        return Ok(());
    }
    Err(Error::EmptySeal { bank: values.bank() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_as_reset_leaves_them_are_no_evidence() {
        for bank in PcrBank::ALL {
            let mut values = PcrValues::new(bank);
            for pcr in PcrIndex::all().filter(|pcr| !pcr.is_resettable()) {
                values.set(pcr, pcr.reset_value(bank));
            }
            assert!(matches!(plan_without_log(&values), Err(Error::EmptySeal { .. })), "{bank}");
            values.set(PcrIndex::all().next().expect("PCR 0"), Digest::ones(bank));
            assert!(plan_without_log(&values).is_ok(), "{bank}");
        }
    }
}
