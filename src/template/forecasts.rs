//! What all machines of a template will measure: all that is to be known of boot files, without the
//! account of what was approved.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::{Boot, Template, Vm};
use super::forecast::{EntryForecast, Forecast, Forecaster, MachineKind};
use crate::error::Error;
use crate::measurement::diff::{Expected, Note};
use crate::measurement::text::printable;
use crate::measurement::{PcrIndex, PcrSelection, PcrValues};
use crate::policy::{PolicyDigest, literal_digest};
use crate::reseal::ChangedEvent;

/// What the machines of a template will measure.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Forecasts {
    /// Boots that differ in more than the machines' own words, each once; then those with words that
    /// are on a machine's disk.
    pub shapes: Vec<Shape>,
    /// The PCRs whose values are signed: one for each way to boot.
    pub signed: Vec<PcrSelection>,
    /// The machines, in the template's order.
    pub vms: Vec<VmForecast>,
    /// Entries of the boot menu that are not approved, each with the reason.
    pub left_out: BTreeSet<(String, String)>,
}

/// A boot.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The entry of the boot menu, where there is one.
    pub entry: Option<String>,
    /// The machine whose own words on its disk it has: else as another one that is told. None where it
    /// is without any.
    pub machine: Option<String>,
    /// The machines that boot so.
    pub kinds: Vec<MachineKind>,
    /// Its PCR values.
    pub values: PcrValues,
    /// Which of [`Forecasts::signed`] tells the PCRs that are signed.
    pub signed: usize,
    /// What of it is not as in the approved boot that comes nearest.
    pub changes: Vec<ChangedEvent>,
    /// Its events, for the next comparison.
    pub expected: Expected,
}

/// What one machine will measure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmForecast {
    /// What is to be signed for it, with the index of [`Forecasts::signed`].
    pub boots: Vec<(PolicyDigest, usize)>,
    /// Why a boot of it cannot be approved.
    pub open: Vec<String>,
}

/// The boots of one kind of machine, each with the index of its PCRs.
type OfKind = Result<Vec<Result<(usize, Forecast), Error>>, Error>;

impl Forecasts {
    /// Forecasts for a template; `approved` are the events that were approved last.
    pub fn of(template: &Template, forecaster: &Forecaster<'_>, approved: &[Expected]) -> Self {
        let mut all = Self::default();
        let machines = template.machines();
        let sizes = machines.iter().flat_map(|vm| template.sizes(vm));
        let kinds: BTreeSet<MachineKind> =
            sizes.map(|(memory, cpus)| MachineKind { memory, cpus }).collect();
        let known = kinds.into_iter().map(|kind| {
            let boots = match template.boot.cmdline() {
                Some(cmdline) => forecaster.of(cmdline, kind).map(|boot| vec![Ok((None, boot))]),
                None => forecaster.entries(kind, "").map(|entries| all.considered(entries)),
            };
            let boots = boots.map(|boots| {
                let known = boots.into_iter().map(|boot| {
                    let (entry, boot) = boot?;
                    let index = all.add(None, entry, kind, &boot, approved);
                    Ok((index, boot))
                });
                known.collect::<Vec<_>>()
            });
            (kind, boots)
        });
        let known: BTreeMap<MachineKind, OfKind> = known.collect();
        for vm in &machines {
            let forecast = match no_word_of_its_own(template, vm) {
                Some(why) => VmForecast { boots: vec![], open: vec![why] },
                None if template.has_own_disk(vm) => all.with_own_words(vm, template, forecaster),
                None => VmForecast::of(vm, template, forecaster, &known),
            };
            all.vms.push(forecast);
        }
        all
    }

    /// A machine whose own words its loader reads from its disk: each boot of it is one by itself.
    fn with_own_words(
        &mut self,
        vm: &Vm,
        template: &Template,
        forecaster: &Forecaster<'_>,
    ) -> VmForecast {
        let mut found = VmForecast::default();
        for (memory, cpus) in template.sizes(vm) {
            let kind = MachineKind { memory, cpus };
            let entries = forecaster.entries(kind, &vm.cmdline);
            let boots = match entries.map(|entries| self.considered(entries)) {
                Ok(boots) => boots,
                Err(why) => vec![Err(why)],
            };
            for boot in boots {
                match boot {
                    Ok((entry, forecast)) => {
                        let signed = self.add(Some(vm), entry, kind, &forecast, &[]);
                        found.add((forecast.approved, signed));
                    }
                    Err(why) => found.open.push(format!("with {kind}: {why}")),
                }
            }
        }
        found
    }

    /// The entries that machines are approved for. One that the loader does not start by itself may
    /// stay unknown, but not in silence.
    fn considered(
        &mut self,
        entries: Vec<EntryForecast>,
    ) -> Vec<Result<(Option<String>, Forecast), Error>> {
        let mut boots = vec![];
        for entry in entries {
            let name = printable(&entry.name, NAME);
            match entry.boot {
                Ok(Some(boot)) => boots.push(Ok((Some(name), boot))),
                Err(why) if entry.default => boots.push(Err(why)),
                Err(why) => {
                    self.left_out.insert((name, printable(&why.to_string(), WHY)));
                }
                Ok(None) => {
                    let why = "it has another command line; entries in the template names those that \
                               are approved all the same";
                    self.left_out.insert((name, why.to_owned()));
                }
            }
        }
        boots
    }

    /// Gives the index of its PCRs. Of a boot with a machine's own words on its disk, the events are those
    /// of the boot without, but for the words.
    fn add(
        &mut self,
        vm: Option<&Vm>,
        entry: Option<String>,
        kind: MachineKind,
        forecast: &Forecast,
        approved: &[Expected],
    ) -> usize {
        let Forecast { values, notes, .. } = forecast;
        let signed = self.signed_of(forecast);
        let machine = vm.map(|vm| vm.name.clone());
        // Those of one machine are told one after the other.
        let mut its = self.shapes.iter_mut().rev().take_while(|shape| shape.machine == machine);
        if let Some(same) = its.find(|shape| shape.values == *values) {
            if !same.kinds.contains(&kind) {
                same.kinds.push(kind);
            }
            return signed;
        }
        let (changes, notes) = match machine {
            Some(_) => (vec![], vec![]),
            None => (changes(forecast, approved), notes.clone()),
        };
        let policy = literal_digest(values).to_string();
        let expected = Expected::new(values.bank(), policy, notes);
        let (kinds, values) = (vec![kind], values.clone());
        self.shapes.push(Shape { entry, machine, kinds, values, signed, changes, expected });
        signed
    }

    /// The index of its PCRs.
    fn signed_of(&mut self, forecast: &Forecast) -> usize {
        let pcrs = &forecast.authorization.pcrs;
        let known = self.signed.iter().position(|known| known == pcrs);
        known.unwrap_or_else(|| {
            self.signed.push(pcrs.clone());
            self.signed.len() - 1
        })
    }
}

impl Shape {
    /// Whether it differs from `other` in what GRUB and the kernel measure of words, and in nothing else.
    pub(super) fn differs_by_words(&self, other: &Self) -> bool {
        let mut pcrs = self.values.iter().filter(|(pcr, _)| !Self::is_of_words(*pcr));
        self.signed == other.signed && pcrs.all(|(pcr, value)| other.values.get(pcr) == Some(value))
    }

    /// The PCRs that a machine's own words change: GRUB's commands, and what it and the kernel read.
    pub fn is_of_words(pcr: PcrIndex) -> bool {
        matches!(pcr.get(), 8 | 9)
    }
}

/// What is not as in the approved boot that comes nearest.
fn changes(forecast: &Forecast, approved: &[Expected]) -> Vec<ChangedEvent> {
    let Forecast { values, notes, entry, .. } = forecast;
    let selection = values.selection();
    let changed = |known: &[Note]| ChangedEvent::all(known, notes, entry, &selection);
    let known = approved.iter().filter(|shape| shape.bank == selection.bank);
    let nearest = known.map(|shape| changed(&shape.notes)).min_by_key(Vec::len);
    nearest.unwrap_or_else(|| changed(&[]))
}

/// Characters of an entry's name, and of a reason.
pub(super) const NAME: usize = 200;
pub(super) const WHY: usize = 400;

impl VmForecast {
    fn of(
        vm: &Vm,
        template: &Template,
        forecaster: &Forecaster<'_>,
        known: &BTreeMap<MachineKind, OfKind>,
    ) -> Self {
        let mut found = Self::default();
        let cmdline = template.cmdline(&vm.cmdline);
        for (memory, cpus) in template.sizes(vm) {
            let kind = MachineKind { memory, cpus };
            let boots = match known.get(&kind) {
                None => continue,
                Some(Ok(boots)) => {
                    boots.iter().map(|boot| boot.as_ref().map_err(Clone::clone)).collect()
                }
                Some(Err(why)) => vec![Err(why.clone())],
            };
            for boot in boots {
                let boot = boot.and_then(|(signed, forecast)| {
                    let approved = match vm.cmdline.is_empty() {
                        // What all machines have is forecast once.
                        true => forecast.approved,
                        false => forecaster.reworded(forecast, &cmdline, kind)?,
                    };
                    Ok((approved, *signed))
                });
                match boot {
                    Ok(boot) => found.add(boot),
                    Err(why) => found.open.push(format!("with {kind}: {why}")),
                }
            }
        }
        found
    }

    fn add(&mut self, boot: (PolicyDigest, usize)) {
        if !self.boots.contains(&boot) {
            self.boots.push(boot);
        }
    }
}

/// Why a machine may not have the words that it has of its own.
fn no_word_of_its_own(template: &Template, vm: &Vm) -> Option<String> {
    match &template.boot {
        Boot::Kernel { .. } | Boot::Disk { grubenv: Some(_), .. } => {
            let word = printable(template.stranger(vm)?, 80);
            Some(format!("{word} is no word that a machine may have of its own"))
        }
        Boot::Disk { .. } => (!vm.cmdline.is_empty()).then(|| {
            "its command line is on its disk: it has words of its own only in GRUB's environment \
             block, where the template names the variable (grubenv)"
                .to_owned()
        }),
        Boot::Uki { .. } => (!vm.cmdline.is_empty()).then(|| {
            "its command line is in the image: it cannot have words of its own".to_owned()
        }),
    }
}
