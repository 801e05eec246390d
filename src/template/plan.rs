//! What a reseal of a template would do: what its machines will measure otherwise than was approved,
//! and which machines that is about. A value: nothing is read or written to make it.

use std::collections::BTreeSet;

use super::account::{Account, Known};
use super::definition::Template;
use super::forecasts::{Forecasts, Shape, VmForecast};
use crate::policy::{AuthorityKey, Authorization, PolicyDigest};

/// What a reseal of one template would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// As in [`Forecasts`].
    pub shapes: Vec<Shape>,
    /// The machines, in the template's order.
    pub vms: Vec<VmPlan>,
    /// Entries of the boot menu that are not approved, each with the reason.
    pub left_out: Vec<(String, String)>,
    /// Machines that were approved, and that the template no longer has.
    pub gone: Vec<String>,
    /// Whose signatures count for which PCRs: one for each way to boot.
    pub authorizations: Vec<Authorization>,
    /// Boots that lose their approval: the template no longer tells them, and it was asked for.
    pub narrowed: usize,
    narrow: bool,
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

impl VmPlan {
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
    /// Plans for a template whose machines will measure what `forecasts` tell; `key` is the one
    /// that approves. With `narrow`, what the template no longer tells loses its approval at once;
    /// else one approval later.
    pub fn of(
        template: &Template,
        forecasts: Forecasts,
        key: &AuthorityKey,
        account: &Account,
        narrow: bool,
    ) -> Self {
        let Forecasts { shapes, signed, vms, left_out } = forecasts;
        let authorizations = signed.into_iter().map(|pcrs| {
            let (key, policy_ref) = (key.clone(), String::new());
            Authorization { pcrs, key, policy_ref, signatures: vec![] }
        });
        let vms =
            template.machines().into_iter().zip(vms).map(|(vm, VmForecast { boots, open })| {
                let before = account.vms.get(&vm.name).map(|known| known.own.clone());
                let is_new = |approved: &PolicyDigest| !account.approves(&vm.name, approved);
                let boots = boots.into_iter().map(|(boot, of)| (boot, of, is_new(&boot))).collect();
                VmPlan { before, boots, open, name: vm.name, own: vm.cmdline }
            });
        let mut plan = Self {
            shapes,
            vms: vms.collect(),
            left_out: left_out.into_iter().collect(),
            gone: vec![],
            authorizations: authorizations.collect(),
            narrowed: 0,
            narrow,
        };
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
        let shapes = self.shapes.iter().filter(|shape| shape.machine.is_none());
        let shapes = shapes.map(|shape| shape.expected.clone());
        Account { pkfp: pkfp.to_owned(), generation, shapes: shapes.collect(), vms: vms.collect() }
    }
}
