//! What a reseal would do: which boots to come are approved, which are new and in what, which are no
//! more. A value: nothing is read or written to make it.

use std::fmt;

use serde_json::{Value, json};

use super::change::ChangedEvent;
use super::command_line::CommandLine;
use super::state::{Approved, Standing, State, VolumeState};
use crate::boot::BootLogs;
use crate::enroll::{self, NextBoot};
use crate::error::Error;
use crate::measurement::diff::{Expected, Note};
use crate::measurement::pcr::join_pcrs;
use crate::measurement::text::printable;
use crate::measurement::{PcrIndex, PcrValues};
use crate::prediction::{EntryPrediction, Prediction};

/// What a plan is made from.
pub struct Situation<'a> {
    /// What is approved for the volume.
    pub volume: &'a VolumeState,
    /// The events of approved boots, where they are known.
    pub expected: &'a [Expected],
    /// This boot, in the PCRs that the volume is sealed to.
    pub this: &'a enroll::Plan,
    /// Its logs.
    pub logs: &'a BootLogs,
    /// Its command line.
    pub cmdline: Option<&'a str>,
    /// The boots to come.
    pub prediction: &'a Prediction,
    /// Those as long as payloads are not written that `prediction` has in variables of Secure Boot.
    pub before: Option<&'a Prediction>,
}

/// What is wanted besides what follows from the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Entries with command lines of their own that are to be approved too, by their names.
    pub entries: Vec<String>,
    /// Whether only the boot that the loader starts by itself is to stay approved.
    pub narrow: bool,
    /// Whether boots that were seen to open lose their approval once nothing starts them any more.
    pub retire: bool,
}

/// What a reseal of one volume would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Each bootable entry, that which the loader starts first.
    pub boots: Vec<BootPlan>,
    /// The approved boots that lose their approval.
    pub retired: Vec<Approved>,
    /// Whether the boot that runs is an approved one.
    pub runs_approved: bool,
}

/// What becomes of one bootable entry.
#[derive(Debug, Clone, PartialEq)]
pub struct BootPlan {
    /// The loader's name for it.
    pub entry: String,
    /// What the menu shows, where that is something else.
    pub title: Option<String>,
    /// Whether the loader starts it by itself.
    pub default: bool,
    /// Whether it is the boot with payloads in variables of Secure Boot.
    pub updated: bool,
    /// What it is to us.
    pub outlook: Outlook,
}

/// What a bootable entry is to us.
#[derive(Debug, Clone, PartialEq)]
pub enum Outlook {
    /// Approved already.
    Approved {
        /// How far it has proved itself.
        standing: Standing,
        /// Its PCR values.
        values: PcrValues,
    },
    /// To be approved.
    New(Box<NewBoot>),
    /// Not considered: it has a command line that no approved boot has.
    OtherCommandLine,
    /// To be withdrawn, or not to be approved, since only the default boot is to stay.
    Narrowed,
    /// What it measures cannot be told.
    Unforeseen(Box<Error>),
}

/// A boot that is to be approved.
#[derive(Debug, Clone, PartialEq)]
pub struct NewBoot {
    /// What it measures.
    pub next: NextBoot,
    /// What of it is not as in the approved boot that comes nearest; everything where none is known.
    pub changes: Vec<ChangedEvent>,
}

impl Plan {
    /// Plans for one volume.
    ///
    /// # Errors
    /// [`Error::Narrow`] where only the default boot is to stay and has not proved itself;
    /// [`Error::RecordFull`] where more boots would be approved than the header can carry.
    pub fn of<'a>(situation: &Situation<'a>, wanted: &Wanted) -> Result<Self, Error> {
        let is_updated = situation.before.is_some();
        let of = |prediction: &'a Prediction, updated: bool| {
            let then = prediction.then.iter().flat_map(|then| &then.entries);
            prediction.entries.iter().chain(then).map(move |entry| (entry, updated))
        };
        let before = situation.before.into_iter().flat_map(|before| of(before, false));
        let mut entries: Vec<_> = of(situation.prediction, is_updated).chain(before).collect();
        entries.sort_by_key(|(entry, _)| !entry.default);
        let mut boots = Vec::<BootPlan>::new();
        for (entry, updated) in entries {
            let boot = BootPlan {
                entry: printable(&entry.id, NAME),
                title: entry.title.as_deref().map(|title| printable(title, NAME)),
                default: entry.default,
                updated,
                outlook: situation.outlook(entry, wanted),
            };
            // The boot after the next may be the next one again.
            let known = |other: &BootPlan| other.entry == boot.entry && same(other, &boot);
            if !boots.iter().any(known) {
                boots.push(boot);
            }
        }
        let plan = Self {
            retired: situation.retired(&boots, wanted),
            runs_approved: situation.volume.approves(&situation.this.values),
            boots,
        };
        if wanted.narrow {
            plan.check_narrow()?;
        }
        let kept = situation.volume.entries.len().saturating_sub(plan.retired.len());
        if kept + plan.new_boots().count() > State::MAX_APPROVED {
            return Err(Error::RecordFull);
        }
        Ok(plan)
    }

    /// The boots that are to be approved.
    pub fn new_boots(&self) -> impl Iterator<Item = (&BootPlan, &NewBoot)> {
        self.boots.iter().filter_map(|boot| match &boot.outlook {
            Outlook::New(new) => Some((boot, &**new)),
            _ => None,
        })
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.retired.is_empty() && self.new_boots().next().is_none()
    }

    /// Why the boot that the loader starts by itself will not open, where it will not.
    pub fn default_is_unforeseen(&self) -> Option<&Error> {
        let default = self.boots.iter().find(|boot| boot.default)?;
        match &default.outlook {
            Outlook::Unforeseen(error) => Some(error),
            _ => None,
        }
    }

    /// Narrowing to a boot that nobody has seen could leave none that opens.
    fn check_narrow(&self) -> Result<(), Error> {
        let default = self.boots.iter().find(|boot| boot.default);
        match default.map(|boot| &boot.outlook) {
            Some(Outlook::Approved { standing: Standing::Confirmed, .. }) => Ok(()),
            _ => Err(Error::Narrow {
                entry: default.map(|boot| boot.entry.clone()).unwrap_or_default(),
            }),
        }
    }

    /// The plan, for scripts and the journal.
    pub fn to_json(&self) -> Value {
        let boots = self.boots.iter().map(|boot| {
            let mut object = json!({
                "entry": boot.entry, "title": boot.title, "default": boot.default,
                "updated": boot.updated,
                "outlook": boot.outlook.name(),
            });
            let more = match &boot.outlook {
                Outlook::New(new) => json!({
                    "pcrs": new.next.plan.values,
                    "changes": new.changes.iter().map(ChangedEvent::to_json).collect::<Vec<_>>(),
                }),
                Outlook::Approved { values, .. } => json!({ "pcrs": values }),
                Outlook::Unforeseen(error) => json!({ "why": error.to_string() }),
                Outlook::OtherCommandLine | Outlook::Narrowed => json!({}),
            };
            if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
                object.extend(more);
            }
            object
        });
        let retired =
            self.retired.iter().map(|boot| json!({ "entry": boot.entry, "pcrs": boot.values }));
        json!({
            "boots": boots.collect::<Vec<_>>(),
            "retired": retired.collect::<Vec<_>>(),
            "this_boot_approved": self.runs_approved,
        })
    }
}

/// Characters of an entry's name.
const NAME: usize = 200;

/// Whether two entries measure the same, for all that is known.
fn same(a: &BootPlan, b: &BootPlan) -> bool {
    match (&a.outlook, &b.outlook) {
        (Outlook::New(a), Outlook::New(b)) => a.next.plan.values == b.next.plan.values,
        (a, b) => a == b,
    }
}

impl Situation<'_> {
    fn outlook(&self, entry: &EntryPrediction, wanted: &Wanted) -> Outlook {
        let next = match enroll::plan_entry(self.this, self.logs, self.cmdline, entry) {
            Ok(next) => next,
            Err(error) => return Outlook::Unforeseen(Box::new(error)),
        };
        if wanted.narrow && !entry.default {
            return Outlook::Narrowed;
        }
        if let Some(approved) = self.volume.entry_of(&next.plan.values) {
            let values = next.plan.values;
            return Outlook::Approved { standing: approved.standing, values };
        }
        let is_named = wanted.entries.iter().any(|name| entry.is_called(name));
        if !entry.default && !is_named && !self.is_known_command_line(&next.notes) {
            return Outlook::OtherCommandLine;
        }
        let changes = self.changes(&next, entry);
        Outlook::New(Box::new(NewBoot { next, changes }))
    }

    /// What is not as in the approved boot that comes nearest.
    fn changes(&self, next: &NextBoot, entry: &EntryPrediction) -> Vec<ChangedEvent> {
        let selection = next.plan.selection();
        let changed =
            |approved: &[Note]| ChangedEvent::all(approved, &next.notes, entry, &selection);
        let bank = selection.bank;
        let known = self.expected.iter().filter(|expected| expected.bank == bank);
        let nearest = known.map(|expected| changed(&expected.notes)).min_by_key(Vec::len);
        nearest.unwrap_or_else(|| changed(&[]))
    }

    /// Whether an approved boot, or the one that the loader starts by itself, has the same command
    /// line.
    fn is_known_command_line(&self, notes: &[Note]) -> bool {
        let line = CommandLine::of(notes);
        let approved = self.expected.iter().map(|expected| expected.notes.as_slice());
        let default = self.prediction.entries.iter().filter(|entry| entry.default);
        let default = default
            .filter_map(|entry| enroll::plan_entry(self.this, self.logs, self.cmdline, entry).ok())
            .map(|next| next.notes)
            .collect::<Vec<_>>();
        let mut known = approved.chain(default.iter().map(Vec::as_slice)).map(CommandLine::of);
        known.any(|known| known.is_same(&line))
    }

    /// Approved boots that no entry starts any more. The boot that runs has files that are open.
    fn retired(&self, boots: &[BootPlan], wanted: &Wanted) -> Vec<Approved> {
        let stays = |values: &PcrValues| {
            boots.iter().any(|boot| match &boot.outlook {
                Outlook::Approved { values: known, .. } => known == values,
                _ => false,
            })
        };
        // Where an entry cannot be told, an approved boot of its name may still be what it starts.
        let may_be = |boot: &BootPlan, entry: &Approved| {
            let name = entry.entry.as_ref().is_none_or(|name| *name == boot.entry);
            name && matches!(boot.outlook, Outlook::Unforeseen(_))
        };
        let is_told = |entry: &Approved| !boots.iter().any(|boot| may_be(boot, entry));
        // Other files than the loader's, such as those below a mount point, tell nothing of it.
        let are_loader_s = match wanted.retire {
            true => stays(&self.this.values),
            false => boots.iter().any(|boot| boot.values().is_some()),
        };
        // What is sealed in another way has a keyslot of its own, which is not looked after here.
        let is_of_plan = |entry: &Approved| {
            let plan = enroll::Plan { values: entry.values.clone(), ..self.this.clone() };
            plan.policy_digest() == entry.policy_hash
        };
        // What waits for a payload is in no prediction, and gives way where others are named.
        let good = self.volume.entry_of(&self.this.values).filter(|_| wanted.retire);
        let waits = |entry: &Approved| self.before.is_none() && entry.awaits_payload(good);
        let is_gone = |entry: &&Approved| {
            let runs = entry.values == self.this.values;
            // What has opened before may be wanted again, until a boot after it was good.
            let gone = are_loader_s
                && is_told(entry)
                && !runs
                && !waits(entry)
                && (wanted.retire || entry.standing != Standing::Confirmed);
            is_of_plan(entry) && !stays(&entry.values) && (gone || wanted.narrow)
        };
        self.volume.entries.iter().filter(is_gone).cloned().collect()
    }
}

impl BootPlan {
    /// What it measures, where it is approved or to be.
    fn values(&self) -> Option<&PcrValues> {
        match &self.outlook {
            Outlook::Approved { values, .. } => Some(values),
            Outlook::New(new) => Some(&new.next.plan.values),
            Outlook::OtherCommandLine | Outlook::Narrowed | Outlook::Unforeseen(_) => None,
        }
    }
}

impl Outlook {
    /// The word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Approved { .. } => "approved",
            Self::New(_) => "new",
            Self::OtherCommandLine => "other-command-line",
            Self::Narrowed => "narrowed",
            Self::Unforeseen(_) => "unforeseen",
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for boot in &self.boots {
            boot.fmt(f)?;
        }
        for boot in &self.retired {
            writeln!(f, "{}: approved so far, and no longer", boot.name())?;
        }
        Ok(())
    }
}

impl fmt::Display for BootPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = self.title.as_deref().unwrap_or(&self.entry);
        let default = if self.default { " (default)" } else { "" };
        let updated = if self.updated { ", once the variables are updated" } else { "" };
        write!(f, "{title}{default}{updated}: ")?;
        match &self.outlook {
            Outlook::Approved { standing: Standing::New, .. } => {
                writeln!(f, "approved, not seen yet")
            }
            Outlook::Approved { .. } => writeln!(f, "approved"),
            Outlook::OtherCommandLine => {
                writeln!(f, "not considered, for its command line; --entry NAME approves it")
            }
            Outlook::Narrowed => writeln!(f, "left out by --narrow"),
            Outlook::Unforeseen(error) => writeln!(f, "{error}"),
            Outlook::New(new) => {
                let pcrs: Vec<PcrIndex> = new.changes.iter().map(|change| change.pcr).collect();
                let mut distinct = pcrs.clone();
                distinct.sort_unstable();
                distinct.dedup();
                match distinct.is_empty() {
                    true => writeln!(f, "new")?,
                    false => writeln!(f, "new: PCR {}", join_pcrs(&distinct))?,
                }
                new.changes.iter().try_for_each(|change| writeln!(f, "  {change}"))
            }
        }
    }
}
