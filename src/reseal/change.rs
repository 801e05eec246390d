//! What a boot to come measures otherwise than one that is approved, event by event.

use std::fmt;

use serde_json::{Value, json};

use crate::artifact::uki::CMDLINE_WORDS;
use crate::artifact::variable_update::Target;
use crate::measurement::diff::{Change, Note, Role, changed_words, changes};
use crate::measurement::text::printable;
use crate::measurement::{PcrBank, PcrIndex, PcrSelection};
use crate::prediction::{Account, EntryPrediction, Fate};

/// What kind of thing changed: what may be approved with nobody asked is told by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// A kernel, alone or in a unified kernel image, and where command lines name it.
    Kernel,
    /// An initrd.
    Initrd,
    /// A kernel command line.
    Cmdline,
    /// What GRUB runs and reads besides kernel and initrd.
    Menu,
    /// A boot loader, and modules of it.
    Loader,
    /// The firmware, and what it tells of the machine.
    Firmware,
    /// Secure Boot, its keys, and who vouches by them.
    SecureBoot,
}

impl ChangeKind {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 7] = [
        Self::Kernel,
        Self::Initrd,
        Self::Cmdline,
        Self::Menu,
        Self::Loader,
        Self::Firmware,
        Self::SecureBoot,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Cmdline => "cmdline",
            Self::Menu => "menu",
            Self::Loader => "loader",
            Self::Firmware => "firmware",
            Self::SecureBoot => "secure-boot",
        }
    }
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One event that is not as in the approved boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedEvent {
    /// The PCR.
    pub pcr: PcrIndex,
    /// What kind of thing; `None` where nothing is known but the digest.
    pub kind: Option<ChangeKind>,
    /// Whether it only names another kernel or initrd, whose own events are judged.
    pub follows: bool,
    /// What was expected, in words and with the first bytes of its digest.
    pub old: Option<(String, String)>,
    /// What is measured instead.
    pub new: Option<(String, String)>,
    /// The files that it is measured from.
    pub files: Vec<String>,
}

/// GRUB's script, as predictions name it.
pub const MENU: &str = "grub.cfg";
/// Characters of one side that are shown.
const SHOWN: usize = 200;
/// Characters of a command line that nothing is compared with: the kernel takes no more.
const COMMAND_LINE: usize = 2048;
/// Words of a command line that are shown of what it gained, and of what it lost.
const WORDS: usize = 16;

impl ChangedEvent {
    /// Every event of `entry`, whose notes are `next`, that is not as in `approved`, in the PCRs of
    /// `selection`.
    pub fn all(
        approved: &[Note],
        next: &[Note],
        entry: &EntryPrediction,
        selection: &PcrSelection,
    ) -> Vec<Self> {
        let is_sealed = |note: &&Note| note.pcr != PcrIndex::LATCH && selection.has(note.pcr);
        let approved: Vec<Note> = approved.iter().filter(is_sealed).cloned().collect();
        let next: Vec<Note> = next.iter().filter(is_sealed).cloned().collect();
        let all = changes(&approved, &next);
        all.iter().filter_map(|change| Self::of(change, entry, selection.bank)).collect()
    }

    fn of(change: &Change<'_>, entry: &EntryPrediction, bank: PcrBank) -> Option<Self> {
        let side = |note: &Note| (words(note, SHOWN), note.short_digest());
        let account = change.new.and_then(|note| account_of(note, entry, bank));
        let new = change.new.map(|new| match (cmdline_of_image(new, account), change.old) {
            (Some(told), _) => (told, new.short_digest()),
            // Nothing may hide behind the end of what is shown.
            (None, Some(old)) => (words_against(old, new), new.short_digest()),
            (None, None) => (words(new, COMMAND_LINE), new.short_digest()),
        });
        let (kind, follows) = kind(change);
        let mut files = account.map(files).unwrap_or_default();
        if files.is_empty() && kind == Some(ChangeKind::Menu) {
            // What GRUB runs no more follows from the same script.
            files.push(MENU.to_owned());
        }
        Some(Self { pcr: change.pcr()?, kind, follows, old: change.old.map(side), new, files })
    }

    /// For `--json` and the journal.
    pub fn to_json(&self) -> Value {
        let side = |side: &Option<(String, String)>| {
            side.as_ref().map(|(words, digest)| json!({ "what": words, "digest": digest }))
        };
        json!({
            "pcr": self.pcr, "kind": self.kind.map(ChangeKind::name),
            "old": side(&self.old), "new": side(&self.new), "files": self.files,
        })
    }
}

impl fmt::Display for ChangedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR {:<2} ", self.pcr.get())?;
        match (&self.old, &self.new) {
            (Some((old, from)), Some((new, to))) if old == new => {
                write!(f, "{new}: {from} -> {to}")
            }
            (Some((old, from)), Some((new, to))) => write!(f, "{old} {from} -> {new} {to}"),
            (None, Some((new, to))) => write!(f, "{new}: new, {to}"),
            (Some((old, from)), None) => write!(f, "{old} {from}: gone"),
            (None, None) => Ok(()),
        }?;
        let files: Vec<String> = self.files.iter().map(|path| printable(path, SHOWN)).collect();
        match files.is_empty() {
            true => Ok(()),
            false => write!(f, ", from {}", files.join(" and ")),
        }
    }
}

/// The command line in a unified kernel image, where its text is known: the log of a boot has the
/// digest alone.
fn cmdline_of_image(note: &Note, account: Option<&Account>) -> Option<String> {
    let text = account?.what.strip_prefix(CMDLINE_WORDS)?;
    (note.role == Role::Section).then(|| format!("{}: {text}", note.text))
}

fn is_command_line(note: &Note) -> bool {
    matches!(note.role, Role::CommandLine | Role::LoadOptions)
}

/// The words of a note in the place of another. A command line that is too long to be shown is told
/// by what it gained and lost.
fn words_against(old: &Note, new: &Note) -> String {
    let are_lines = is_command_line(old) && is_command_line(new);
    let is_long = [old, new].iter().any(|note| note.text.chars().count() > SHOWN);
    match are_lines && is_long && old.text != new.text {
        true => format!("command line that {}", changed_words(&old.text, &new.text, WORDS)),
        false => words(new, SHOWN),
    }
}

/// At most `max` characters of a command line, fewer of all else.
fn words(note: &Note, max: usize) -> String {
    match note.shown(if is_command_line(note) { max } else { SHOWN }) {
        text if text.is_empty() => match note.role {
            // Whence it came in memory says nothing to who installed it.
            Role::MemoryKernel | Role::HostKernel => "kernel".to_owned(),
            role => role.name().to_owned(),
        },
        text if is_command_line(note) => format!("command line {text}"),
        text => text,
    }
}

/// What the entry's note was made from.
fn account_of<'a>(note: &Note, entry: &'a EntryPrediction, bank: PcrBank) -> Option<&'a Account> {
    let accounts = entry.events.iter().filter(|account| account.fate != Fate::Gone);
    accounts.into_iter().find(|account| {
        let digests = account.new.as_ref().map(Vec::as_slice).unwrap_or_default();
        let digest = digests.iter().find(|digest| digest.bank() == bank);
        account.pcr == note.pcr
            && digest.is_some_and(|digest| digest.as_bytes().starts_with(&note.digest))
    })
}

/// The files that a measurement is from, as paths of their volumes.
fn files(account: &Account) -> Vec<String> {
    if let Some(path) = account.what.strip_prefix("GRUB read ") {
        let path = path.rsplit_once(')').map_or(path, |(_, path)| path);
        return vec![path.to_owned()];
    }
    let source = account.source.as_deref().unwrap_or_default();
    // Where it is no file, such as "command line", nothing can vouch for it.
    let is_file =
        |word: &&str| word.starts_with('/') || *word == MENU || Target::of_artifact(word).is_some();
    source.split(' ').filter(is_file).map(ToOwned::to_owned).collect()
}

/// What kind of change it is, and whether it only names what changed.
fn kind(change: &Change<'_>) -> (Option<ChangeKind>, bool) {
    let note = change.new.filter(|note| note.role != Role::Unknown).or(change.old);
    let Some(note) = note else { return (None, false) };
    let kind = match note.role {
        Role::Kernel
        | Role::HostKernel
        | Role::MemoryKernel
        | Role::KernelFile
        | Role::InnerKernel
        | Role::Uki => ChangeKind::Kernel,
        Role::Initrd | Role::InitrdFile => ChangeKind::Initrd,
        Role::Section => match note.text.as_str() {
            ".cmdline" | ".profile" | ".dtb" | ".dtbauto" | ".hwids" => ChangeKind::Cmdline,
            ".initrd" | ".ucode" => ChangeKind::Initrd,
            _ => ChangeKind::Kernel,
        },
        Role::CommandLine | Role::LoadOptions => return named(change, 0, ChangeKind::Cmdline),
        Role::GrubCommand => match note.text.split(' ').next().unwrap_or_default() {
            "linux" | "linuxefi" => return named(change, 2, ChangeKind::Cmdline),
            "initrd" | "initrdefi" => return (Some(ChangeKind::Initrd), true),
            _ => ChangeKind::Menu,
        },
        Role::GrubConfig | Role::GrubEnvironment => ChangeKind::Menu,
        Role::GrubFile | Role::Loader => ChangeKind::Loader,
        Role::Addon | Role::Companion | Role::LoaderConf => ChangeKind::Cmdline,
        Role::SecureBoot | Role::Keys | Role::Authority | Role::ShimPolicy | Role::Mok => {
            ChangeKind::SecureBoot
        }
        Role::FirmwareVersion
        | Role::FirmwareCode
        | Role::Driver
        | Role::Machine
        | Role::BootOrder
        | Role::BootOption
        | Role::PartitionTable => ChangeKind::Firmware,
        Role::Unknown | Role::Userspace | Role::Other => return (None, false),
    };
    (Some(kind), false)
}

/// A command line: where it is the approved one but for the kernel that it names, it goes with the
/// kernel. `skipped` words stand before the first argument of the kernel.
fn named(change: &Change<'_>, skipped: usize, otherwise: ChangeKind) -> (Option<ChangeKind>, bool) {
    let known = |note: Option<&Note>| note.map(|note| note.text.clone()).unwrap_or_default();
    let (old, new) = (known(change.old), known(change.new));
    match !old.is_empty() && !new.is_empty() && is_same_command_line(&old, &new, skipped) {
        true => (Some(ChangeKind::Kernel), true),
        false => (Some(otherwise), false),
    }
}

/// Whether two command lines give the kernel the same words. A loader names kernel and initrds in
/// some: `BOOT_IMAGE=`, `initrd=`, and GRUB's first word.
pub fn is_same_command_line(old: &str, new: &str, skipped: usize) -> bool {
    let arguments = |text: &str| -> Vec<String> {
        let is_path = |word: &&str| {
            word.starts_with("BOOT_IMAGE=") || word.starts_with("initrd=") || word.starts_with('/')
        };
        let mut words = text.split(' ').skip(skipped).filter(|word| !word.is_empty()).peekable();
        while words.next_if(is_path).is_some() {}
        words.map(|word| printable(word, SHOWN * 20)).collect()
    };
    arguments(old) == arguments(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_the_same_but_for_what_it_names() {
        let same = |old, new| is_same_command_line(old, new, 0);
        assert!(same("BOOT_IMAGE=/vmlinuz-1 ro quiet", "BOOT_IMAGE=/vmlinuz-2 ro quiet"));
        assert!(same("/vmlinuz-1 ro", "/vmlinuz-2 ro"));
        assert!(same("initrd=\\a initrd=\\b ro", "initrd=\\c ro"));
        assert!(!same("BOOT_IMAGE=/vmlinuz-1 ro", "BOOT_IMAGE=/vmlinuz-2 ro single"));
        assert!(!same("ro quiet", "quiet ro"));
        assert!(!same("ro", "ro initrd=/evil"));
        assert!(is_same_command_line("linux /vmlinuz-1 ro", "linux /vmlinuz-2 ro", 2));
        assert!(!is_same_command_line("linux /vmlinuz-1 ro", "linux /vmlinuz-2 rw", 2));
    }

    #[test]
    fn a_change_is_told_with_the_file_that_it_is_from() {
        let note = Note { role: Role::MemoryKernel, ..Note::unknown(PcrIndex::LATCH, &[1; 4]) };
        let mut change = ChangedEvent {
            pcr: note.pcr,
            kind: Some(ChangeKind::Kernel),
            follows: false,
            old: Some((words(&note, SHOWN), "01".to_owned())),
            new: Some((words(&note, SHOWN), "02".to_owned())),
            files: vec![],
        };
        assert_eq!(change.to_string(), "PCR 15 kernel: 01 -> 02");
        change.files = vec!["/vmlinuz-2".to_owned(), "/a\x1b".to_owned()];
        assert_eq!(change.to_string(), r"PCR 15 kernel: 01 -> 02, from /vmlinuz-2 and /a\u{1b}");
    }

    #[test]
    fn nothing_hides_behind_the_end_of_a_long_command_line() {
        let line = |text: String| {
            let digest = text.len().to_le_bytes();
            Note {
                role: Role::CommandLine,
                text,
                ..Note::unknown(PcrIndex::KERNEL_CONFIG, &digest)
            }
        };
        let [short, long] = ["ro", &"ro ".repeat(100)].map(|text| line(text.to_owned()));
        let evil = line(format!("{}init=/bin/sh", long.text));
        assert_eq!(words_against(&short, &line("rw".to_owned())), "command line rw");
        assert_eq!(words_against(&long, &evil), "command line that gained init=/bin/sh");
        assert!(words_against(&evil, &short).starts_with("command line that lost ro ro"));
        assert!(words(&evil, COMMAND_LINE).ends_with(" init=/bin/sh"));
        assert!(!words(&evil, SHOWN).contains("init"));
    }

    #[test]
    fn kinds_have_words_of_their_own() {
        let mut names = ChangeKind::ALL.map(ChangeKind::name).to_vec();
        names.dedup();
        assert_eq!(names.len(), ChangeKind::ALL.len());
    }
}
