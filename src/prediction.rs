//! The boot to come, from the boot that ran: every event of its log is carried over, measured
//! again from an artifact, replaced, joined by new ones or gone; what is left is replayed to the
//! seal point.
//!
//! What cannot be known is [`Unpredictable`] by PCR, event and reason, never a guess.

mod account;
mod anatomy;
mod artifacts;
mod authority;
mod boot_entry;
mod compose;
mod direct;
mod evidence;
mod firmware;
mod glob;
mod grub;
mod known;
mod layers;
mod menu;
mod partial;
mod plan;
mod rederive;
mod remembered;
mod signatures;
mod spelled;
mod stub;
mod systemd_boot;
mod tally;
mod type1;
mod uki;
mod versions;

pub use account::{Account, Fate, LOAD_OPTIONS};
pub use compose::{NotReproduced, predict, predict_with, uki_path};
pub use direct::{GIVEN_LINE, INITRD, KERNEL, pcr_9_with};
pub use evidence::Evidence;
pub use firmware::Machine;
pub use known::KnownFiles;
pub use layers::{DigestTable, Filled, InMemory, Layers, NoFiles};
pub use remembered::Remembered;
pub use spelled::Spelled;
pub use systemd_boot::LoaderVariables;
pub use tally::{PREDICTED_PCRS, Unpredictable};
pub use uki::NamedSection;

use std::collections::BTreeMap;

use crate::artifact::Files;
use crate::measurement::{EventLog, PcrBank, PcrValues, UserspaceLog};

/// The boot that ran.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// What it measured.
    pub log: &'a EventLog,
    /// What systemd measured before the seal point.
    pub early: Option<&'a UserspaceLog>,
    /// The files that it read, where they are at hand.
    pub files: Option<&'a dyn Files>,
}

/// What is known of the boot to come.
pub struct Next<'a> {
    /// Its files.
    pub files: &'a dyn Files,
    /// Those of them that lie in folders or images, without what was named one by one.
    pub trees: &'a dyn Files,
    /// The command line, where it is not in a file: that of a kernel given by the host, or of a
    /// unified kernel image known by digests alone.
    pub cmdline: Option<String>,
    /// How systemd-boot was told to choose.
    pub loader: LoaderVariables,
    /// Contents of sections of images that are not at hand.
    pub sections: Vec<NamedSection>,
    /// What changes about the machine.
    pub machine: Machine,
}

impl<'a> Next<'a> {
    /// The boot that ran, once more.
    fn of_base(files: &'a dyn Files) -> Self {
        Self {
            files,
            trees: files,
            cmdline: None,
            loader: LoaderVariables::default(),
            sections: Vec::new(),
            machine: Machine::default(),
        }
    }
}

/// What one boot entry will measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPrediction {
    /// The loader's name for it.
    pub id: String,
    /// What its menu shows, where that is something else.
    pub title: Option<String>,
    /// Other names by which it may be asked for.
    pub aliases: Vec<String>,
    /// Whether the loader starts it by itself.
    pub default: bool,
    /// Values at the seal point of every PCR that can be told.
    pub pcrs: BTreeMap<PcrBank, PcrValues>,
    /// PCRs that cannot be told.
    pub unpredictable: Vec<Unpredictable>,
    /// How each measurement came about.
    pub events: Vec<Account>,
}

/// What the next boot will measure, whichever entry it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// Each bootable entry, in the loader's order.
    pub entries: Vec<EntryPrediction>,
    /// The boot after the next one, where the next rewrites what that reads: GRUB's `next_entry`.
    pub then: Option<Box<Prediction>>,
}

impl EntryPrediction {
    /// Whether the loader, or somebody in a hurry, calls it so: by its name, or that without the
    /// ending of a file.
    pub fn is_called(&self, name: &str) -> bool {
        let stem = |text: &str| {
            let lower = text.to_ascii_lowercase();
            let stem = lower.strip_suffix(".conf").or_else(|| lower.strip_suffix(".efi"));
            stem.map(str::to_owned).unwrap_or(lower)
        };
        self.id == name
            || self.aliases.iter().any(|alias| alias == name)
            || stem(&self.id) == stem(name)
    }

    /// Whether it starts a kernel of this release: the name of the kernel's file ends with it.
    pub fn starts_kernel(&self, release: &str) -> bool {
        // The body of a menu names every kernel.
        let is_of_menu = |what: &str| {
            let command = what.strip_prefix("GRUB ran ");
            command.is_some_and(|command| !command.starts_with("linux"))
        };
        let measured = self
            .events
            .iter()
            .filter(|account| account.fate != Fate::Gone && !is_of_menu(&account.what));
        let mut words = measured.flat_map(|account| account.what.split_ascii_whitespace());
        words.any(|word| {
            let before = word.strip_suffix(release);
            before.is_some_and(|before| before.ends_with(['-', '/', '.', '_']))
        }) || self.id.contains(release)
    }
}
