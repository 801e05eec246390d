//! The boot menu of a disk: which of its entries machines are approved for.

use super::{BaseBoot, Forecast, Forecaster, MachineKind, unforeseen};
use crate::error::Error;
use crate::prediction::{Account, EntryPrediction, Fate, LOAD_OPTIONS, uki_path};
use crate::reseal::CommandLine;
use crate::template::Boot;
use crate::template::own_words::OwnWords;

/// An entry of a boot menu on the machines' disk.
#[derive(Debug, Clone)]
pub struct EntryForecast {
    /// The loader's name for it.
    pub name: String,
    /// Whether the loader starts it by itself.
    pub default: bool,
    /// The boot; `None` where it is not considered, for a command line of its own.
    pub boot: Result<Option<Forecast>, Error>,
}

/// Why a boot of a machine with words of its own is not its own.
const NO_WORDS: &str = "no word of the machine's own comes into it; the menu has to name the variable, \
                        and to export it for its submenus";

impl Forecaster<'_> {
    /// The boots of a machine of this kind that starts from its own disk, entry by entry: those that
    /// have the command line of the one that the loader starts by itself, and those that are named.
    /// `own` are the machine's own words in GRUB's environment block.
    ///
    /// # Errors
    /// [`Error::BaseNotReproduced`]; [`Error::Unforeseen`] where there is no entry at all.
    pub fn entries(&self, kind: MachineKind, own: &str) -> Result<Vec<EntryForecast>, Error> {
        let base = self.nearest(kind)?;
        let files = self.sources.next;
        let variable = self.template.boot.grubenv().filter(|_| !own.is_empty());
        let own = variable.map(|variable| OwnWords::new(files, variable, own));
        let next = own.as_ref().map_or(files, |own| own);
        let prediction = self.predict(base, next, None, kind)?;
        if let Some(refused) = own.as_ref().and_then(OwnWords::refused) {
            return Err(unforeseen(&refused.path, &refused.cause));
        }
        let then = prediction.then.map(|then| then.entries).unwrap_or_default();
        let mut entries: Vec<_> = prediction.entries.into_iter().chain(then).collect();
        entries.sort_by_key(|entry| !entry.default);
        let named: &[String] = match &self.template.boot {
            Boot::Disk { entries, .. } => entries,
            Boot::Kernel { .. } | Boot::Uki { .. } => &[],
        };
        if let Some(name) = named.iter().find(|name| !entries.iter().any(|it| it.is_called(name))) {
            return Err(unforeseen(name, "no entry is called so"));
        }
        let mut told: Vec<EntryForecast> = vec![];
        for entry in entries {
            let (name, default) = (entry.id.clone(), entry.default);
            let is_named = default || named.iter().any(|name| entry.is_called(name));
            let known = told.iter().filter(|other| other.default);
            let known = known.filter_map(|other| other.boot.as_ref().ok()?.as_ref());
            let boot = base.forecast(None, entry).and_then(|boot| {
                self.require_own_files(base, &boot.entry)?;
                let line = CommandLine::of(&boot.notes);
                let mut known = known.map(|known| CommandLine::of(&known.notes));
                if !is_named && !known.any(|known| known.is_same(&line)) {
                    return Ok(None);
                }
                match own.as_ref().is_none_or(|own| own.are_given(&boot.notes)) {
                    true => Ok(Some(boot)),
                    false => Err(unforeseen("the command line", NO_WORDS)),
                }
            });
            told.push(EntryForecast { name, default, boot });
        }
        match told.iter().any(|entry| entry.default) {
            true => Ok(told),
            false => Err(unforeseen("the loader", "it cannot be told which entry it starts")),
        }
    }

    /// What is signed must be what lies on the disk: nothing of it may be as the log has it.
    fn require_own_files(&self, base: &BaseBoot, entry: &EntryPrediction) -> Result<(), Error> {
        let there = |account: &&Account| account.fate != Fate::Gone;
        if let Boot::Uki { .. } = self.template.boot {
            // What lay beside it would leave a PCR without any event, which is refused already.
            let path = uki_path(&base.logs.firmware);
            let has = |account: &Account| account.source.is_some() && account.source == path;
            return match entry.events.iter().filter(there).any(has) {
                true => Ok(()),
                false => Err(unforeseen("the image", "the boot does not start it")),
            };
        }
        let mut logged =
            entry.events.iter().filter(there).filter(|account| account.source.is_none());
        match logged.find(|account| is_of_disk(account)) {
            None => Ok(()),
            Some(account) => {
                // Without the device that the log names.
                let what = account.what.rsplit('/').next().unwrap_or_default();
                Err(unforeseen(what, "its file is not on the disk"))
            }
        }
    }
}

/// Whether it measures a file of the disk, or words of one.
fn is_of_disk(account: &Account) -> bool {
    let starts = |words: &[&str]| words.iter().any(|word| account.what.starts_with(word));
    match account.pcr.get() {
        4 => starts(&["image"]),
        8 | 9 => starts(&["GRUB ", "initrd", "kernel", "command line", LOAD_OPTIONS]),
        11..=13 => starts(&["section", "command line", "image"]),
        _ => false,
    }
}
