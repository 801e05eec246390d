//! What machines will measure: a prediction for each command line, memory size and processor count,
//! from the reference boot that comes nearest.

mod entries;

pub use entries::EntryForecast;

use std::fmt;

use super::definition::{Boot, Reference, Template};
use crate::artifact::Files;
use crate::artifact::efivar::PolicyVariables;
use crate::artifact::hashing::Memory;
use crate::artifact::variable_store::VariableStore;
use crate::boot::BootLogs;
use crate::coverage::{BootPath, Coverage};
use crate::enroll::{self, Chosen, Unforeseen};
use crate::error::Error;
use crate::measurement::diff::Note;
use crate::measurement::{PcrIndex, PcrValues, UserspaceLog};
use crate::policy::{AuthorityKey, Authorization, PolicyDigest};
use crate::prediction::{
    Base, EntryPrediction, Fate, GIVEN_LINE, INITRD, KERNEL, LoaderVariables, Machine, Next,
    Prediction, pcr_9_with, predict_with,
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

/// Files that forecasts are made from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// Those of the boot to come.
    pub next: &'a dyn Files,
    /// Those of the reference boots, where they are at hand.
    pub base: Option<&'a dyn Files>,
    /// The firmware's variables, where they are others than in the reference boots.
    pub vars: Option<&'a VariableStore>,
    /// Digests that are known already: worth sharing between templates that share files.
    pub memory: &'a Memory,
}

/// What forecasts of a template start from.
pub struct Forecaster<'a> {
    template: &'a Template,
    bases: Vec<BaseBoot>,
    sources: Sources<'a>,
    loader: LoaderVariables,
}

struct BaseBoot {
    reference: Reference,
    logs: BootLogs,
    early: Option<UserspaceLog>,
    policy: Option<PolicyVariables>,
    plan: enroll::Plan,
}

impl<'a> Forecaster<'a> {
    /// Begins with the logs of the template's references, in their order. Without a key
    /// nothing can be signed, and [`Forecaster::told`] tells all the same.
    ///
    /// # Errors
    /// [`Error::NotCovered`] and its like, where a reference does not measure all of the boot;
    /// [`Error::Artifact`] for variables that do not fit, and for a boot of another kind.
    pub fn new(
        template: &'a Template,
        key: Option<&AuthorityKey>,
        logs: Vec<BootLogs>,
        sources: Sources<'a>,
    ) -> Result<Self, Error> {
        let bases = template.references.iter().zip(logs).map(|(reference, logs)| {
            let mut plan = plan(template, &logs)?;
            require_same_way(template, reference, &logs)?;
            plan.authority = key.cloned();
            let policy = sources.vars.map(|vars| {
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
        let loader = sources.vars.map(LoaderVariables::of).unwrap_or_default();
        Ok(Self { template, bases, sources, loader })
    }

    /// The boot of a machine of this kind with this command line, where the host gives its kernel.
    ///
    /// # Errors
    /// [`Error::Unforeseen`] with what cannot be told.
    pub fn of(&self, cmdline: &str, kind: MachineKind) -> Result<Forecast, Error> {
        let (base, entry) = self.foretell(cmdline, kind)?;
        // OVMF adds this to the command line of a kernel that it is given with an initrd.
        let whole = format!("{cmdline} initrd=initrd");
        base.forecast(Some(&whole), entry)
    }

    /// The PCR values and events of the boot of [`Forecaster::of`], where nothing is to be signed.
    ///
    /// # Errors
    /// As [`Forecaster::of`].
    pub fn told(
        &self,
        cmdline: &str,
        kind: MachineKind,
    ) -> Result<(PcrValues, EntryPrediction), Error> {
        let (base, entry) = self.foretell(cmdline, kind)?;
        let boot = enroll::plan_entry(&base.plan, &base.logs, None, &entry)?;
        Ok((boot.plan.values, entry))
    }

    fn foretell(
        &self,
        cmdline: &str,
        kind: MachineKind,
    ) -> Result<(&BaseBoot, EntryPrediction), Error> {
        let base = self.nearest(kind)?;
        let prediction = self.predict(base, self.sources.next, Some(cmdline), kind)?;
        let mut entries = prediction.entries.into_iter();
        let (Some(entry), None) = (entries.next(), entries.next()) else {
            return Err(unforeseen("the loader", "it tells no single boot"));
        };
        require_files(&entry)?;
        Ok((base, entry))
    }

    fn predict(
        &self,
        base: &BaseBoot,
        next: &dyn Files,
        cmdline: Option<&str>,
        kind: MachineKind,
    ) -> Result<Prediction, Error> {
        let is_its = base.reference.cpus.is_some() && base.reference.cpus == kind.cpus;
        let machine = Machine {
            memory: kind.memory,
            memory_of_base: base.reference.memory,
            processors: kind.cpus.filter(|_| !is_its),
            qemu: self.template.qemu,
            policy: base.policy.clone(),
            ..Machine::default()
        };
        let Sources { base: files, memory, .. } = self.sources;
        let boot = Base { log: &base.logs.firmware, early: base.early.as_ref(), files };
        let next = Next {
            files: next,
            trees: next,
            cmdline: cmdline.map(str::to_owned),
            loader: self.loader.clone(),
            sections: Vec::new(),
            machine,
        };
        predict_with(&boot, &next, memory).map_err(Error::BaseNotReproduced)
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
    fn nearest(&self, kind: MachineKind) -> Result<&BaseBoot, Error> {
        let is_same = |base: &&BaseBoot| {
            let MachineKind { memory, cpus } = kind;
            (memory.is_none() || base.reference.memory == memory)
                && (cpus.is_none() || base.reference.cpus == cpus)
        };
        let has_memory =
            |base: &&BaseBoot| kind.memory.is_some() && base.reference.memory == kind.memory;
        let mut bases = self.bases.iter();
        let same = self.bases.iter().find(is_same);
        let found = same.or_else(|| self.bases.iter().find(has_memory)).or_else(|| bases.next());
        found.ok_or_else(|| unforeseen("the reference boot", "there is none"))
    }
}

impl BaseBoot {
    fn forecast(&self, cmdline: Option<&str>, entry: EntryPrediction) -> Result<Forecast, Error> {
        // Why a file cannot be read tells more than that it was not.
        let mut open = entry.unpredictable.iter();
        if let Some(open) = open.find(|open| self.plan.values.get(open.pcr).is_some()) {
            let (pcr, event, why) = (Some(open.pcr), open.event.clone(), open.why.clone());
            return Err(Error::Unforeseen(Unforeseen { pcr, event, why }));
        }
        let boot = enroll::plan_entry(&self.plan, &self.logs, cmdline, &entry)?;
        let (Some(authorization), Some(approved)) =
            (boot.plan.authorization(), boot.plan.to_be_signed())
        else {
            return Err(unforeseen("the signed PCRs", "there are none"));
        };
        Ok(Forecast { values: boot.plan.values, approved, authorization, notes: boot.notes, entry })
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

/// The log of another way to boot tells nothing of this one.
fn require_same_way(
    template: &Template,
    reference: &Reference,
    logs: &BootLogs,
) -> Result<(), Error> {
    let path = Coverage::of(&logs.firmware).boot_path();
    let (is_same, cause) = match template.boot {
        Boot::Kernel { .. } => {
            (path == BootPath::DirectKernel, "was not given its kernel by the host")
        }
        Boot::Disk { .. } => (
            !matches!(path, BootPath::DirectKernel | BootPath::Bios | BootPath::Unknown),
            "did not start from a disk",
        ),
        Boot::Uki { .. } => (
            matches!(path, BootPath::Uki | BootPath::SystemdBootUki),
            "started no unified kernel image",
        ),
    };
    match is_same {
        true => Ok(()),
        false => Err(Error::Artifact {
            path: reference.log.clone(),
            cause: format!("the boot that it tells of {cause}"),
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
        Some(file) => Err(unforeseen(file, "the boot does not measure it")),
    }
}

fn unforeseen(event: &str, why: &str) -> Error {
    let (event, why) = (event.to_owned(), why.to_owned());
    Error::Unforeseen(Unforeseen { pcr: None, event, why })
}
