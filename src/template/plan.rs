//! What a reseal of a template would do: what its machines will measure otherwise than was approved,
//! and which machines that is about. A value: nothing is read or written to make it.

use std::collections::{BTreeMap, BTreeSet};

use super::account::{Account, Known};
use super::definition::{Template, Vm};
use super::forecast::{Forecast, Forecaster, MachineKind};
use crate::error::Error;
use crate::measurement::PcrValues;
use crate::measurement::diff::{Expected, Note};
use crate::measurement::text::printable;
use crate::policy::{Authorization, PolicyDigest};
use crate::reseal::ChangedEvent;

/// What a reseal of one template would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Boots that differ in more than the machines' own words, each once.
    pub shapes: Vec<Shape>,
    /// The machines, in the template's order.
    pub vms: Vec<VmPlan>,
    /// Machines that were approved, and that the template no longer has.
    pub gone: Vec<String>,
    /// Whose signatures count for which PCRs: one for each way to boot.
    pub authorizations: Vec<Authorization>,
    /// Boots that lose their approval: the template no longer tells them, and it was asked for.
    pub narrowed: usize,
    narrow: bool,
}

/// A boot without any machine's own words.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The machines that boot so.
    pub kinds: Vec<MachineKind>,
    /// Its PCR values.
    pub values: PcrValues,
    /// What of it is not as in the approved boot that comes nearest.
    pub changes: Vec<ChangedEvent>,
    notes: Vec<Note>,
}

/// What becomes of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmPlan {
    /// Its name.
    pub name: String,
    /// Its own words of the command line.
    pub own: String,
    /// The words that were approved for it; none where it is new.
    pub before: Option<String>,
    /// What is signed for it, with the index of the authorization, and whether that is new.
    pub boots: Vec<(PolicyDigest, usize, bool)>,
    /// Why a boot of it cannot be approved.
    pub open: Vec<String>,
}

/// What a machine is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// All its boots are approved.
    Approved,
    /// A boot of it is to be approved.
    New,
    /// It will not open, or not with every memory size and processor count that is in use.
    NotCovered,
}

impl Outlook {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::New => "new",
            Self::NotCovered => "not-covered",
        }
    }
}

/// The boots without any machine's own words, each with the index of its authorization.
type Forecasts = BTreeMap<MachineKind, Result<(usize, Forecast), Error>>;

impl VmPlan {
    fn of(
        vm: Vm,
        template: &Template,
        forecaster: &Forecaster<'_>,
        forecasts: &Forecasts,
        account: &Account,
    ) -> Self {
        let before = account.vms.get(&vm.name).map(|known| known.own.clone());
        let mut plan = Self {
            name: vm.name.clone(),
            own: vm.cmdline.clone(),
            before,
            boots: vec![],
            open: vec![],
        };
        if let Some(word) = template.stranger(&vm) {
            let word = printable(word, 80);
            plan.open.push(format!("{word} is no word that a machine may have of its own"));
            return plan;
        }
        let cmdline = template.cmdline(&vm.cmdline);
        for (memory, cpus) in template.sizes(&vm) {
            let kind = MachineKind { memory, cpus };
            let Some(forecast) = forecasts.get(&kind) else { continue };
            let boot = forecast.as_ref().map_err(Clone::clone).and_then(|(index, forecast)| {
                let approved = match vm.cmdline.is_empty() {
                    // What all machines have is forecast once.
                    true => forecast.approved,
                    false => forecaster.reworded(forecast, &cmdline, kind)?,
                };
                Ok((approved, *index))
            });
            match boot {
                Ok((approved, index)) => {
                    let is_new = !account.approves(&vm.name, &approved);
                    if !plan.boots.iter().any(|(other, ..)| *other == approved) {
                        plan.boots.push((approved, index, is_new));
                    }
                }
                Err(why) => plan.open.push(format!("with {kind}: {why}")),
            }
        }
        plan
    }

    /// What it is to us.
    pub fn outlook(&self) -> Outlook {
        match (self.open.is_empty(), self.boots.iter().any(|(_, _, is_new)| *is_new)) {
            (false, _) => Outlook::NotCovered,
            (true, true) => Outlook::New,
            (true, false) => Outlook::Approved,
        }
    }
}

impl Plan {
    /// Plans for a template. With `narrow`, what the template no longer tells loses its approval at
    /// once; else one approval later.
    pub fn of(
        template: &Template,
        forecaster: &Forecaster<'_>,
        account: &Account,
        narrow: bool,
    ) -> Self {
        let mut plan = Self {
            shapes: vec![],
            vms: vec![],
            gone: vec![],
            authorizations: vec![],
            narrowed: 0,
            narrow,
        };
        let machines = template.machines();
        let sizes = |vm: &Vm| template.sizes(vm).into_iter();
        let kinds: BTreeSet<MachineKind> = machines
            .iter()
            .flat_map(|vm| sizes(vm).map(|(memory, cpus)| MachineKind { memory, cpus }))
            .collect();
        let mut forecasts = Forecasts::new();
        for kind in kinds {
            let forecast = forecaster.of(&template.cmdline(""), kind);
            if let Ok(forecast) = &forecast {
                plan.add_shape(kind, forecast, account);
            }
            let indexed = |forecast: Forecast| (plan.index_of(&forecast.authorization), forecast);
            forecasts.insert(kind, forecast.map(indexed));
        }
        plan.vms = machines
            .into_iter()
            .map(|vm| VmPlan::of(vm, template, forecaster, &forecasts, account))
            .collect();
        let there: BTreeSet<&str> = plan.vms.iter().map(|vm| vm.name.as_str()).collect();
        plan.gone =
            account.vms.keys().filter(|name| !there.contains(name.as_str())).cloned().collect();
        if narrow {
            let old = |vm: &VmPlan| {
                let known = account.vms.get(&vm.name);
                let boots = known.map(|known| known.boots.keys()).into_iter().flatten();
                boots
                    .filter(|old| !vm.boots.iter().any(|(new, ..)| new.to_string() == **old))
                    .count()
            };
            plan.narrowed = plan.vms.iter().map(old).sum();
        }
        plan
    }

    fn add_shape(&mut self, kind: MachineKind, forecast: &Forecast, account: &Account) {
        let Forecast { values, notes, entry, .. } = forecast;
        if let Some(same) = self.shapes.iter_mut().find(|shape| shape.values == *values) {
            same.kinds.push(kind);
            return;
        }
        let selection = values.selection();
        let changed = |known: &[Note]| ChangedEvent::all(known, notes, entry, &selection);
        let known = account.shapes.iter().filter(|shape| shape.bank == selection.bank);
        let nearest = known.map(|shape| changed(&shape.notes)).min_by_key(Vec::len);
        let changes = nearest.unwrap_or_else(|| changed(&[]));
        let (values, notes) = (values.clone(), notes.clone());
        self.shapes.push(Shape { kinds: vec![kind], values, changes, notes });
    }

    fn index_of(&mut self, authorization: &Authorization) -> usize {
        let known = self.authorizations.iter().position(|known| known == authorization);
        known.unwrap_or_else(|| {
            self.authorizations.push(authorization.clone());
            self.authorizations.len() - 1
        })
    }

    /// How many distinct boots are to be approved.
    pub fn new_boots(&self) -> usize {
        let boots = self.vms.iter().flat_map(|vm| &vm.boots).filter(|(_, _, is_new)| *is_new);
        boots.map(|(approved, ..)| approved.as_bytes()).collect::<BTreeSet<_>>().len()
    }

    /// Whether there is nothing to approve or to withdraw.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.narrowed == 0 && self.new_boots() == 0
    }

    /// The machines of this outlook.
    pub fn with(&self, outlook: Outlook) -> impl Iterator<Item = &VmPlan> {
        self.vms.iter().filter(move |vm| vm.outlook() == outlook)
    }

    /// What is approved once the plan is.
    pub fn approved(&self, before: &Account, pkfp: &str) -> Account {
        let generation = before.generation.saturating_add(1);
        let vms = self.vms.iter().filter_map(|vm| {
            let Known { own, mut boots } = before.vms.get(&vm.name).cloned().unwrap_or_default();
            // A boot stays approved for one approval after the one that wanted it last.
            boots.retain(|_, of| !self.narrow && *of >= before.generation);
            let own = if vm.boots.is_empty() { own } else { vm.own.clone() };
            let new = vm.boots.iter().map(|(approved, ..)| (approved.to_string(), generation));
            boots.extend(new);
            (!boots.is_empty()).then(|| (vm.name.clone(), Known { own, boots }))
        });
        let shapes = self.shapes.iter().map(|shape| {
            let policy = crate::policy::literal_digest(&shape.values).to_string();
            Expected::new(shape.values.bank(), policy, shape.notes.clone())
        });
        Account { pkfp: pkfp.to_owned(), generation, shapes: shapes.collect(), vms: vms.collect() }
    }
}
