//! What the machines of a template will measure: a prediction for each command line, memory size and
//! processor count, from the reference boot that comes nearest.

use std::fmt;

use super::definition::{Reference, Template};
use crate::artifact::Files;
use crate::artifact::efivar::PolicyVariables;
use crate::artifact::hashing::Memory;
use crate::artifact::variable_store::VariableStore;
use crate::boot::BootLogs;
use crate::coverage::{BootPath, Coverage};
use crate::enroll::{self, Chosen, NextBoot, Unforeseen};
use crate::error::Error;
use crate::measurement::diff::Note;
use crate::measurement::{PcrIndex, PcrValues, UserspaceLog};
use crate::policy::{AuthorityKey, Authorization, PolicyDigest};
use crate::prediction::{
    Base, EntryPrediction, Fate, GIVEN_LINE, INITRD, KERNEL, LoaderVariables, Machine, Next,
    pcr_9_with, predict_with,
};

/// Memory and processors of a machine, where they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct MachineKind {
    /// Memory in MiB.
    pub memory: Option<u64>,
    /// Number of processors.
    pub cpus: Option<u32>,
}

impl fmt::Display for MachineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus = self.cpus.map(|cpus| match cpus {
            1 => "1 processor".to_owned(),
            cpus => format!("{cpus} processors"),
        });
        match (self.memory, cpus) {
            (Some(memory), Some(cpus)) => write!(f, "{memory} MiB and {cpus}"),
            (Some(memory), None) => write!(f, "{memory} MiB"),
            (None, Some(cpus)) => f.write_str(&cpus),
            (None, None) => f.write_str("the machine of the reference boot"),
        }
    }
}

/// One boot to come.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// Its PCR values, PCR 15 = zeros among them.
    pub values: PcrValues,
    /// What is to be signed for it.
    pub approved: PolicyDigest,
    /// Whose signature counts for which PCRs.
    pub authorization: Authorization,
    /// Its events, as explanations need them.
    pub notes: Vec<Note>,
    /// How each measurement came about.
    pub entry: EntryPrediction,
}

/// What forecasts of a template start from.
pub struct Forecaster<'a> {
    template: &'a Template,
    bases: Vec<BaseBoot>,
    files: &'a dyn Files,
    memory: &'a Memory,
}

struct BaseBoot {
    reference: Reference,
    logs: BootLogs,
    early: Option<UserspaceLog>,
    policy: Option<PolicyVariables>,
    plan: enroll::Plan,
}

impl<'a> Forecaster<'a> {
    /// Begins with the logs of the template's references, in their order. `files` are those of the
    /// boot to come; `memory` is worth sharing between templates that share files. Without a key
    /// nothing can be signed, and [`Forecaster::foretell`] tells all the same.
    ///
    /// # Errors
    /// [`Error::NotCovered`] and its like, where a reference does not measure all of the boot;
    /// [`Error::Artifact`] for variables that do not fit.
    pub fn new(
        template: &'a Template,
        key: Option<&AuthorityKey>,
        logs: Vec<BootLogs>,
        vars: Option<&VariableStore>,
        files: &'a dyn Files,
        memory: &'a Memory,
    ) -> Result<Self, Error> {
        let bases = template.references.iter().zip(logs).map(|(reference, logs)| {
            let mut plan = plan(template, &logs)?;
            require_given_kernel(reference, &logs)?;
            plan.authority = key.cloned();
            let policy = vars.map(|vars| {
                let logged = PolicyVariables::from_log(&logs.firmware);
                logged.map(|logged| vars.policy(&logged)).map_err(|error| Error::Artifact {
                    path: template.vars.clone().unwrap_or_default(),
                    cause: error.to_string(),
                })
            });
            let (early, policy) = (logs.early(), policy.transpose()?);
            Ok(BaseBoot { reference: reference.clone(), logs, early, policy, plan })
        });
        let bases = bases.collect::<Result<_, Error>>()?;
        Ok(Self { template, bases, files, memory })
    }

    /// The boot of a machine of this kind with this command line.
    ///
    /// # Errors
    /// [`Error::Unforeseen`] with what cannot be told.
    pub fn of(&self, cmdline: &str, kind: MachineKind) -> Result<Forecast, Error> {
        let (boot, entry) = self.foretell(cmdline, kind)?;
        let (Some(authorization), Some(approved)) =
            (boot.plan.authorization(), boot.plan.to_be_signed())
        else {
            return Err(unforeseen("the signed PCRs"));
        };
        Ok(Forecast { values: boot.plan.values, approved, authorization, notes: boot.notes, entry })
    }

    /// What that boot will measure, and what would be sealed to.
    ///
    /// # Errors
    /// As [`Forecaster::of`].
    pub fn foretell(
        &self,
        cmdline: &str,
        kind: MachineKind,
    ) -> Result<(NextBoot, EntryPrediction), Error> {
        let base = self.nearest(kind).ok_or_else(|| unforeseen("the reference boot"))?;
        let is_its = base.reference.cpus.is_some() && base.reference.cpus == kind.cpus;
        let machine = Machine {
            memory: kind.memory,
            memory_of_base: base.reference.memory,
            processors: kind.cpus.filter(|_| !is_its),
            qemu: self.template.qemu,
            policy: base.policy.clone(),
            ..Machine::default()
        };
        let boot = Base { log: &base.logs.firmware, early: base.early.as_ref(), files: None };
        let next = Next {
            files: self.files,
            trees: self.files,
            cmdline: Some(cmdline.to_owned()),
            loader: LoaderVariables::default(),
            sections: Vec::new(),
            machine,
        };
        let prediction = predict_with(&boot, &next, self.memory);
        let prediction = prediction.map_err(Error::BaseNotReproduced)?;
        let mut entries = prediction.entries.into_iter();
        let (Some(entry), None) = (entries.next(), entries.next()) else {
            return Err(unforeseen("the loader"));
        };
        require_files(&entry)?;
        // OVMF adds this to the command line of a kernel that it is given with an initrd.
        let whole = format!("{cmdline} initrd=initrd");
        let boot = enroll::plan_entry(&base.plan, &base.logs, Some(&whole), &entry)?;
        Ok((boot, entry))
    }

    /// What is to be signed for a boot that differs from `forecast` in nothing but the command line.
    ///
    /// # Errors
    /// As [`Forecaster::of`].
    pub fn reworded(
        &self,
        forecast: &Forecast,
        cmdline: &str,
        kind: MachineKind,
    ) -> Result<PolicyDigest, Error> {
        let bank = forecast.values.bank();
        let quick = pcr_9_with(&forecast.entry, bank, cmdline).and_then(|value| {
            let known = |pcr| match pcr == PcrIndex::KERNEL_INITRD {
                true => Some(value),
                false => forecast.values.get(pcr).copied(),
            };
            forecast.authorization.approved(|_, pcr| known(pcr))
        });
        match quick {
            Some(approved) => Ok(approved),
            None => self.of(cmdline, kind).map(|forecast| forecast.approved),
        }
    }

    /// The reference of the very machine, else one of as much memory, else the first.
    fn nearest(&self, kind: MachineKind) -> Option<&BaseBoot> {
        let is_same = |base: &&BaseBoot| {
            let MachineKind { memory, cpus } = kind;
            (memory.is_none() || base.reference.memory == memory)
                && (cpus.is_none() || base.reference.cpus == cpus)
        };
        let has_memory =
            |base: &&BaseBoot| kind.memory.is_some() && base.reference.memory == kind.memory;
        let mut bases = self.bases.iter();
        let same = self.bases.iter().find(is_same);
        same.or_else(|| self.bases.iter().find(has_memory)).or_else(|| bases.next())
    }
}

/// The PCRs that cover the reference boot, by its own log: there is no TPM to compare it with.
fn plan(template: &Template, logs: &BootLogs) -> Result<enroll::Plan, Error> {
    let bank = template.bank;
    enroll::plan(logs, &Chosen::Auto, bank, &[], |selection| {
        let values = logs.replay().remove(&bank);
        let values = values.and_then(|values| values.restricted_to(&selection.pcrs));
        values.ok_or(Error::LogLacksBank { bank })
    })
}

/// The log of another way to boot tells nothing of the kernel that is given.
fn require_given_kernel(reference: &Reference, logs: &BootLogs) -> Result<(), Error> {
    match Coverage::of(&logs.firmware).boot_path() {
        BootPath::DirectKernel => Ok(()),
        _ => Err(Error::Artifact {
            path: reference.log.clone(),
            cause: "the boot that it tells of was not given its kernel by the host".to_owned(),
        }),
    }
}

/// What is signed must be what lies on the host: nothing of it may be as the log has it.
fn require_files(entry: &EntryPrediction) -> Result<(), Error> {
    let has = |file: &&str| {
        let mut sources = entry.events.iter().filter(|account| account.fate != Fate::Gone);
        sources.any(|account| account.source.as_deref() == Some(file))
    };
    match [KERNEL, INITRD, GIVEN_LINE].iter().find(|file| !has(file)) {
        None => Ok(()),
        Some(file) => {
            let (event, why) = ((*file).to_owned(), "the boot does not measure it".to_owned());
            Err(Error::Unforeseen(Unforeseen { pcr: None, event, why }))
        }
    }
}

fn unforeseen(event: &str) -> Error {
    let (event, why) = (event.to_owned(), "it tells no single boot".to_owned());
    Error::Unforeseen(Unforeseen { pcr: None, event, why })
}
