//! What to seal to where the boot that comes is not the one that runs: the values and events of the
//! predicted boot, in the PCRs that cover this one.

use std::collections::{BTreeMap, BTreeSet};

use crate::artifact::efivar::PolicyVariable;
use crate::boot::BootLogs;
use crate::coverage::Component;
use crate::error::Error;
use crate::measurement::diff::{Note, Role};
use crate::measurement::{Digest, EventData, PcrBank, PcrIndex, PcrValues};
use crate::prediction::{Account, EntryPrediction, Fate, LOAD_OPTIONS, Prediction};
use crate::token::BootEntry;

use super::plan::Plan;

/// Why the boot to come cannot be sealed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unforeseen {
    /// The PCR that cannot be told; `None` where nothing of that boot can.
    pub pcr: Option<PcrIndex>,
    /// The event.
    pub event: String,
    /// Why it cannot be told.
    pub why: String,
}

/// The boot to come.
#[derive(Debug, Clone, PartialEq)]
pub struct NextBoot {
    /// The loader's name for it.
    pub entry: String,
    /// What to seal to.
    pub plan: Plan,
    /// Its events, as explanations need them.
    pub notes: Vec<Note>,
    /// What it measures otherwise than this boot, in the PCRs of the plan.
    pub changes: Vec<Account>,
}

/// The plan for the entry that the loader starts by itself. `plan` is that for the boot that runs,
/// which `logs` tell of: its PCRs are kept.
///
/// # Errors
/// [`Error::Unforeseen`] where no entry is the default one, where a PCR cannot be told, or where one
/// that covers this boot would cover nothing of the next.
pub fn plan_next(
    plan: &Plan,
    logs: &BootLogs,
    cmdline: Option<&str>,
    prediction: &Prediction,
) -> Result<NextBoot, Error> {
    let defaults: Vec<_> = prediction.entries.iter().filter(|entry| entry.default).collect();
    let [entry] = defaults.as_slice() else {
        let why = "it cannot be told which entry is started".to_owned();
        return Err(Error::Unforeseen(Unforeseen { pcr: None, event: "the loader".into(), why }));
    };
    plan_entry(plan, logs, cmdline, entry)
}

/// The same for any entry.
///
/// # Errors
/// [`Error::Unforeseen`] where a PCR cannot be told, or where one that covers this boot would cover
/// nothing of that one.
pub fn plan_entry(
    plan: &Plan,
    logs: &BootLogs,
    cmdline: Option<&str>,
    entry: &EntryPrediction,
) -> Result<NextBoot, Error> {
    require_initrd(plan, entry)?;
    let bank = plan.values.bank();
    let mut values = PcrValues::new(bank);
    for pcr in plan.values.selection().pcrs {
        values.set(pcr, value(entry, bank, pcr)?);
        require_events(plan, entry, pcr)?;
    }
    let mut events = BTreeMap::<PcrIndex, Vec<_>>::new();
    for (account, digest) in measured(entry, bank) {
        if account.pcr != PcrIndex::LATCH && values.get(account.pcr).is_some() {
            let prefix = BootEntry::event_prefix(digest.as_bytes());
            events.entry(account.pcr).or_default().extend(prefix);
        }
    }
    let is_sealed = |account: &&Account| {
        account.pcr != PcrIndex::LATCH && values.get(account.pcr).is_some() && account.is_changed()
    };
    Ok(NextBoot {
        entry: entry.id.clone(),
        changes: entry.events.iter().filter(is_sealed).cloned().collect(),
        notes: notes(logs.notes(bank, cmdline), entry, bank),
        plan: Plan { values, events, ..plan.clone() },
    })
}

fn value(entry: &EntryPrediction, bank: PcrBank, pcr: PcrIndex) -> Result<Digest, Error> {
    if pcr == PcrIndex::LATCH {
        return Ok(Digest::zero(bank));
    }
    let open = entry.unpredictable.iter().find(|open| open.pcr == pcr);
    let told = entry.pcrs.get(&bank).and_then(|values| values.get(pcr));
    match (open, told) {
        (None, Some(value)) => Ok(*value),
        (Some(open), _) => Err(unforeseen(pcr, &open.event, &open.why)),
        (None, None) => Err(unforeseen(pcr, "its events", "they are not predicted")),
    }
}

/// The initrd that is measured must be the file's as it is now: the log's digests are of one that may
/// be gone.
fn require_initrd(plan: &Plan, entry: &EntryPrediction) -> Result<(), Error> {
    let bindings = plan.coverage.iter().flat_map(|found| found.bindings(Component::Initrd));
    let pcrs: BTreeSet<_> = bindings.flat_map(|binding| &binding.pcrs).collect();
    let mut of_files = entry.events.iter().filter(|account| account.source.is_some());
    if pcrs.is_empty() || of_files.any(|account| pcrs.contains(&account.pcr)) {
        return Ok(());
    }
    let (event, why) = ("the initrd".to_owned(), "its file is not at hand".to_owned());
    Err(Error::Unforeseen(Unforeseen { pcr: None, event, why }))
}

/// A PCR that binds something of this boot must bind something of the next: another kind of entry
/// may measure its kernel or initrd elsewhere.
fn require_events(plan: &Plan, entry: &EntryPrediction, pcr: PcrIndex) -> Result<(), Error> {
    let now = plan.events.get(&pcr).is_some_and(|events| !events.is_empty());
    let then = measured(entry, plan.values.bank()).any(|(account, _)| account.pcr == pcr);
    match now && !then {
        true => Err(unforeseen(pcr, "the entry", "it measures nothing there, as this boot did")),
        false => Ok(()),
    }
}

fn unforeseen(pcr: PcrIndex, event: &str, why: &str) -> Error {
    Error::Unforeseen(Unforeseen { pcr: Some(pcr), event: event.to_owned(), why: why.to_owned() })
}

/// What the entry measures, with the digest of a bank.
fn measured(
    entry: &EntryPrediction,
    bank: PcrBank,
) -> impl Iterator<Item = (&Account, Digest)> + '_ {
    let accounts = entry.events.iter().filter(|account| account.fate != Fate::Gone);
    accounts
        .filter_map(move |account| Some((account, digest_in(account.new.as_ref().ok()?, bank)?)))
}

fn digest_in(digests: &[Digest], bank: PcrBank) -> Option<Digest> {
    digests.iter().find(|digest| digest.bank() == bank).copied()
}

/// The notes of the entry: those of this boot where it measures the same, else made from the words
/// of the prediction.
fn notes(logged: Vec<Note>, entry: &EntryPrediction, bank: PcrBank) -> Vec<Note> {
    let mut logged: Vec<Option<Note>> = logged.into_iter().map(Some).collect();
    let mut take = |pcr: PcrIndex, digest: Digest| {
        let is_it = |note: &&mut Option<Note>| {
            note.as_ref().is_some_and(|note| note.pcr == pcr && note.digest == digest.as_bytes())
        };
        logged.iter_mut().find(is_it)?.take()
    };
    let notes = measured(entry, bank).map(|(account, digest)| {
        let old = digest_in(&account.old, bank).and_then(|old| take(account.pcr, old));
        // Of a boot of another machine the log does not tell the command line.
        let is_mute = |note: &Note| note.role == Role::LoadOptions && note.text.is_empty();
        match old {
            Some(note) if note.digest == digest.as_bytes() && !is_mute(&note) => note,
            old => note_of(account, digest, old.map(|note| note.role)),
        }
    });
    notes.collect()
}

/// Whether it measures a variable of Secure Boot, in the words of its event: `dbx: ...`.
fn is_policy_variable(account: &Account) -> bool {
    let name = account.what.split([':', ',', ' ']).next().unwrap_or_default();
    account.pcr.get() == 7 && PolicyVariable::from_name(name).is_some()
}

/// A note in the words of a prediction. A text that may have been cut would explain wrongly.
fn note_of(account: &Account, digest: Digest, role: Option<Role>) -> Note {
    let what = account.what.as_str();
    let after = |prefix| what.strip_prefix(prefix).unwrap_or_default();
    let (role, text) = match role {
        Some(role @ (Role::Initrd | Role::MemoryKernel | Role::HostKernel)) => (role, ""),
        Some(role @ Role::LoadOptions) => (role, after(LOAD_OPTIONS)),
        Some(role @ (Role::Loader | Role::Uki | Role::Kernel | Role::InnerKernel)) => {
            match after("image ") {
                "" => (role, account.source.as_deref().unwrap_or_default()),
                path => (role, path),
            }
        }
        Some(role @ Role::CommandLine) => (role, after("command line ")),
        Some(role @ Role::Section) => {
            let name = after("section ");
            (role, name.split_once(':').map_or(name, |(name, _)| name))
        }
        Some(role @ Role::Authority) => (role, ""),
        _ if is_policy_variable(account) => match after("SecureBoot ") {
            "" => (Role::Keys, what),
            _ => (Role::SecureBoot, what),
        },
        _ if what.starts_with("GRUB ran ") => (Role::GrubCommand, after("GRUB ran ")),
        Some(role @ (Role::KernelFile | Role::InitrdFile | Role::GrubConfig)) => {
            (role, after("GRUB read "))
        }
        _ => (Role::Unknown, ""),
    };
    match what.chars().count() < EventData::MAX_WORDS {
        true => {
            Note { role, text: text.to_owned(), ..Note::unknown(account.pcr, digest.as_bytes()) }
        }
        false => Note::unknown(account.pcr, digest.as_bytes()),
    }
}
