//! What changed between two boots, in words: the expected one and the one that was seen.
//!
//! Events are aligned PCR by PCR; then causes are looked for, the telling ones first, and each takes
//! the changes that follow from it: a replaced unified kernel image moves PCR 4, 9 and 11, and is
//! one cause.

mod align;
mod expected;
mod firmware;
mod grub;
mod kernel;
mod note;
mod words;

use std::collections::BTreeSet;
use std::fmt;

use super::pcr::{PcrIndex, join_pcrs};
pub use align::{Change, changes};
pub use expected::{Expected, ExpectedError};
pub use note::{Note, Role, notes};
pub use words::changed_words;

/// One cause of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of cause it is, in one word for scripts.
    pub cause: &'static str,
    /// The PCRs that it moved.
    pub pcrs: BTreeSet<PcrIndex>,
    /// What happened, printable and bounded.
    pub text: String,
    /// The benign cause that is typical, where there is one.
    pub usual: Option<&'static str>,
}

impl Finding {
    /// What to do about it, in one sentence.
    pub fn advice(&self) -> &'static str {
        if self.pcrs.iter().all(|pcr| matches!(pcr.get(), 1 | 2 | 3 | 5 | 6)) {
            return "No volume is sealed to it unless --pcrs said so.";
        }
        match self.cause {
            "firmware" | "machine" | "driver" => "Ask whoever runs the host.",
            "secure_boot" | "keys" | "signer" => "Ask whoever looks after the Secure Boot keys.",
            "mok" | "shim_policy" => "Compare with mokutil --list-enrolled.",
            "loader" | "uki" | "kernel" | "initrd" | "grub_config" | "grub_file" => {
                "Look into the package manager's log."
            }
            "command_line" => "Look whether you want each of these words.",
            _ => "Look whether you changed it.",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR {}: {}.", join_pcrs(&self.pcrs), self.text)?;
        if let Some(usual) = self.usual {
            write!(f, " Usual {usual}.")?;
        }
        write!(f, " {}", self.advice())
    }
}

/// Every cause that the differences have, the most telling first. None where the boots are the same.
pub fn explain(expected: &[Note], seen: &[Note]) -> Vec<Finding> {
    let mut found = Findings { left: changes(expected, seen), findings: vec![] };
    firmware::secure_boot(&mut found);
    firmware::firmware(&mut found);
    kernel::loaders(&mut found);
    kernel::unified(&mut found);
    kernel::kernel(&mut found);
    kernel::initrd(&mut found);
    kernel::command_line(&mut found);
    grub::grub(&mut found);
    kernel::companions(&mut found);
    firmware::keys_of_shim(&mut found);
    firmware::machine(&mut found);
    found.rest();
    found.findings
}

/// The changes without a cause yet, and the causes found so far.
struct Findings<'a> {
    left: Vec<Change<'a>>,
    findings: Vec<Finding>,
}

impl<'a> Findings<'a> {
    /// Takes the changes that are wanted.
    fn take(&mut self, wanted: impl Fn(&Change<'a>) -> bool) -> Vec<Change<'a>> {
        let (taken, left) = self.left.drain(..).partition(|change| wanted(change));
        self.left = left;
        taken
    }

    /// Takes the changes of these roles.
    fn take_roles(&mut self, roles: &[Role]) -> Vec<Change<'a>> {
        self.take(|change| roles.contains(&change.role()))
    }

    /// Adds a cause of these changes, if there are any.
    fn add(
        &mut self,
        cause: &'static str,
        changes: &[Change<'a>],
        text: String,
        usual: Option<&'static str>,
    ) {
        let pcrs: BTreeSet<_> = changes.iter().filter_map(Change::pcr).collect();
        if !pcrs.is_empty() {
            self.findings.push(Finding { cause, pcrs, text, usual });
        }
    }

    /// Names what no cause was found for, one line a PCR.
    fn rest(&mut self) {
        while let Some(pcr) = self.left.first().map(Change::pcr) {
            let of_pcr = self.take(|change| change.pcr() == pcr);
            let more = match of_pcr.len() {
                0 | 1 => String::new(),
                len => format!(", and {} more events differ", len - 1),
            };
            let text = of_pcr.first().map(|change| described(change, 120)).unwrap_or_default();
            self.add("other", &of_pcr, text + &more, None);
        }
    }
}

/// One change in words that fit every event.
fn described(change: &Change<'_>, max: usize) -> String {
    match (change.old, change.new) {
        _ if change.role() == Role::Unknown => "an event is missing or differs".to_owned(),
        (Some(old), Some(new)) if old.role == Role::Unknown => {
            format!("{} is not what was expected", new.shown(max))
        }
        (Some(old), Some(new)) if old.text == new.text => {
            format!(
                "{} differs ({} before, now {})",
                new.shown(max),
                old.short_digest(),
                new.short_digest()
            )
        }
        (Some(old), Some(new)) => format!("{} instead of {}", new.shown(max), old.shown(max)),
        (Some(old), None) => format!("{} is missing", old.shown(max)),
        (None, Some(new)) => format!("{} was not there before", new.shown(max)),
        (None, None) => String::new(),
    }
}

/// That a named thing was replaced, renamed, added or removed.
fn replaced(what: &str, change: &Change<'_>) -> String {
    /// Characters of a path.
    const PATH: usize = 120;
    let named = |note: &Note| match note.shown(PATH) {
        name if name.is_empty() => what.to_owned(),
        name => format!("{what} {name}"),
    };
    match (change.old, change.new) {
        (Some(old), Some(new)) if old.role == Role::Unknown => {
            format!("{} is not the one expected", named(new))
        }
        (Some(old), Some(new)) if old.text == new.text => {
            format!(
                "{} was replaced ({} by {})",
                named(new),
                old.short_digest(),
                new.short_digest()
            )
        }
        (Some(old), Some(new)) => format!("{} took the place of {}", named(new), old.shown(PATH)),
        (Some(old), None) => format!("{} is measured no more", named(old)),
        (None, Some(new)) => format!("{} was not there before", named(new)),
        (None, None) => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(pcr: u64, role: Role, text: &str, digest: u8) -> Note {
        let pcr = PcrIndex::new(pcr).unwrap();
        Note { pcr, digest: vec![digest; 32], role, text: text.to_owned(), size: None }
    }

    /// What is said of one event that differs.
    #[track_caller]
    fn one(pcr: u64, role: Role, old: &str, new: &str, expected: &str) {
        let (old, new) = (note(pcr, role, old, 1), note(pcr, role, new, 2));
        many(&[old], &[new], &[expected]);
    }

    #[track_caller]
    fn many(old: &[Note], new: &[Note], expected: &[&str]) {
        let said: Vec<String> =
            explain(old, new).into_iter().map(|finding| finding.to_string()).collect();
        assert_eq!(said.len(), expected.len(), "{said:#?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.starts_with(expected), "{said}\nexpected {expected}");
        }
    }

    #[test]
    fn words_of_a_command_line() {
        let said = "PCR 8: the command line gained init=/bin/sh. Look whether";
        one(8, Role::CommandLine, "/vmlinuz ro", "/vmlinuz ro init=/bin/sh", said);
        let said = "PCR 12: the command line gained b and lost a.";
        one(12, Role::CommandLine, "a", "b", said);
        let said = "PCR 9: the command line gained rd.break.";
        one(9, Role::LoadOptions, "BOOT_IMAGE=/a ro", "BOOT_IMAGE=/a ro rd.break", said);
        let said = "PCR 9: the command line differs; the log does not hold its text.";
        one(9, Role::LoadOptions, "", "ro", said);
    }

    #[test]
    fn the_machine_and_its_firmware() {
        let code = |early, late| {
            let at = |base: &str, digest| note(0, Role::FirmwareCode, base, digest);
            [at("early", early), at("late", late)]
        };
        let early = "PCR 0: one part of the firmware's code differs, the rest is the same. Usual \
                     with OVMF 2022.11 when memory size or CPU count changed. Ask whoever runs";
        many(&code(1, 2), &code(3, 2), &[early]);
        many(&code(1, 2), &code(3, 4), &["PCR 0: other firmware code."]);
        one(0, Role::FirmwareVersion, "1", "2", "PCR 0: other firmware: version 2 instead of 1.");
        let tables = "PCR 1: memory size, CPU count or devices of the machine changed";
        one(1, Role::Machine, "ACPI DATA", "ACPI DATA", tables);
        let order =
            "PCR 1: the firmware's boot options changed: BootOrder 2 instead of BootOrder 1.";
        one(1, Role::BootOrder, "BootOrder 1", "BootOrder 2", order);
        let driver =
            "PCR 2: a firmware driver or option ROM rom was replaced (01010101 by 02020202)";
        one(2, Role::Driver, "rom", "rom", driver);
        one(
            5,
            Role::PartitionTable,
            "partition table a",
            "partition table a",
            "PCR 5: the partition",
        );
    }

    #[test]
    fn secure_boot_and_its_keys() {
        let off = "PCR 7: Secure Boot was switched off. Ask whoever looks after";
        let old = [note(7, Role::SecureBoot, "SecureBoot on", 1), note(7, Role::Keys, "PK: 1", 3)];
        let new = [note(7, Role::SecureBoot, "SecureBoot off", 2), note(7, Role::Keys, "PK: 0", 4)];
        many(&old, &new, &[off]);
        let dbx =
            "PCR 7: the Secure Boot variable dbx: 1 became 2. Usual after an update of the rev";
        one(7, Role::Keys, "dbx: 1", "dbx: 2", dbx);
        let kek = "PCR 7: the Secure Boot variable KEK: 1 changed. Usual";
        one(7, Role::Keys, "KEK: 1", "KEK: 1", kek);
        one(7, Role::Authority, "by a", "by b", "PCR 7: another key vouches");
        one(14, Role::Mok, "MokList", "MokList", "PCR 14: shim's list of keys MokList changed");
        let sbat = "PCR 7: SbatLevel 2 instead of SbatLevel 1. Usual after an update of shim";
        one(7, Role::ShimPolicy, "SbatLevel 1", "SbatLevel 2", sbat);
    }

    #[test]
    fn a_change_in_a_unified_kernel_image_is_one_cause() {
        let boot = |cmdline: &str, digest| {
            [
                note(4, Role::Uki, "\\a.efi", digest),
                note(11, Role::Section, ".cmdline", digest),
                note(11, Role::Section, ".sbat", 9),
                note(9, Role::LoadOptions, cmdline, digest),
            ]
        };
        let said = "PCR 4+9+11: the unified kernel image \\a.efi was replaced (01010101 by \
                    02020202); what differs is its command line, which gained single.";
        many(&boot("ro", 1), &boot("ro single", 2), &[said]);
        let said = "PCR 4+9+11: the unified kernel image \\a.efi was replaced (01010101 by \
                    02020202); what differs is its command line.";
        many(&boot("", 1), &boot("", 2), &[said]);
    }

    #[test]
    fn a_record_names_what_the_log_holds_now() {
        let new = [note(4, Role::Loader, "\\shim.efi", 2), note(9, Role::Initrd, "initrd", 3)];
        let pcr = |index| PcrIndex::new(index).unwrap();
        let old = [Note::unknown(pcr(4), &[1; 4]), Note::unknown(pcr(9), &[1; 4])];
        many(
            &old,
            &new,
            &[
                "PCR 4: the boot loader \\shim.efi is not the one expected.",
                "PCR 9: the initrd is not the one expected.",
            ],
        );
        let gone = "PCR 4: an event is missing or differs.";
        many(&old[..1], &[], &[gone]);
    }

    #[test]
    fn absurd_numbers_of_events_are_explained_in_time() {
        let event = |index: usize| {
            let mut event = note(8, Role::GrubCommand, "menuentry x", 0);
            event.digest = index.to_le_bytes().to_vec();
            event
        };
        let old: Vec<Note> = (0..20_000).map(event).collect();
        let new: Vec<Note> = (0..20_000).map(|index| event(2 * index)).collect();
        let start = std::time::Instant::now();
        let findings = explain(&old, &new);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].to_string().len() < 400, "{}", findings[0]);
        assert!(start.elapsed().as_secs() < 20);
    }
}
