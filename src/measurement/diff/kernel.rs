//! Causes in what the firmware or a loader starts: images, initrds, command lines.

use std::collections::BTreeSet;

use super::note::{Note, Role};
use super::words::WordDiff;
use super::{Change, Findings, described, replaced};

const AFTER_KERNEL: Option<&str> = Some("after a kernel update");
const AFTER_LOADER: Option<&str> = Some("after an update of the boot loader");
/// Most words of a command line that a line shows as gained, and as lost.
pub(super) const MAX_WORDS: usize = 6;
const AFTER_INITRD: Option<&str> = Some("after an update that rebuilt the initrd");

/// Boot loaders.
pub(super) fn loaders(found: &mut Findings<'_>) {
    let loaders = found.take_roles(&[Role::Loader]);
    // More than a few are no update but another boot path.
    const MAX: usize = 3;
    for change in loaders.iter().take(MAX) {
        found.add("loader", &[*change], replaced("the boot loader", change), AFTER_LOADER);
    }
    if let [.., last] = loaders.get(MAX..).unwrap_or_default() {
        let text = format!("{} more boot loaders differ", loaders.len() - MAX);
        found.add("loader", &[*last], text, None);
    }
}

/// Unified kernel images, section by section, and their addons.
pub(super) fn unified(found: &mut Findings<'_>) {
    addons(found);
    let images = found.take_roles(&[Role::Uki]);
    let mut changes = found.take_roles(&[Role::Section]);
    let names: BTreeSet<String> =
        changes.iter().filter_map(Change::note).map(|note| note.shown(16)).collect();
    let Some(first) = images.first().or(changes.first()) else { return };
    let image = match images.first() {
        Some(image) => replaced("the unified kernel image", image),
        None => "the unified kernel image differs".to_owned(),
    };
    let has = |name: &str| names.contains(name);
    let mut parts = vec![];
    let mut consequences = vec![];
    if has(".linux") {
        parts.push("kernel".to_owned());
        consequences.push(Role::InnerKernel);
    }
    if has(".initrd") || has(".ucode") {
        parts.push("initrd".to_owned());
    }
    if has(".cmdline") {
        let mut options = found.left.iter().filter(|change| change.role() == Role::LoadOptions);
        parts.push(match options.find_map(words_of) {
            Some(words) => format!("command line, which {}", words.sentence(MAX_WORDS)),
            None => "command line".to_owned(),
        });
        consequences.push(Role::LoadOptions);
    }
    let plain =
        |name: &&String| !matches!(name.as_str(), ".linux" | ".initrd" | ".ucode" | ".cmdline");
    parts.extend(names.iter().filter(plain).take(6).cloned());
    // The stub hands the kernel more than the section: credentials, and a signature of PCR 11.
    consequences.push(Role::Initrd);
    let what = match parts.is_empty() {
        true if first.old.is_none_or(|old| old.role != Role::Unknown) => {
            "no measured section of it differs: its stub or its signature does".to_owned()
        }
        true => String::new(),
        false => format!("what differs is its {}", listed(&parts)),
    };
    let text = if what.is_empty() { image } else { format!("{image}; {what}") };
    changes.extend(images);
    changes.extend(found.take_roles(&consequences));
    let usual = match (has(".linux"), has(".initrd")) {
        (true, _) => AFTER_KERNEL,
        (false, true) => AFTER_INITRD,
        (false, false) => None,
    };
    found.add("uki", &changes, text, usual);
}

fn addons(found: &mut Findings<'_>) {
    for change in found.take_roles(&[Role::Addon]) {
        let mut text = replaced("the addon", &change);
        let mut changes = vec![change];
        let lines = found.take(|line| line.role() == Role::CommandLine && in_12(line));
        if let Some(words) = lines.first().and_then(words_of) {
            text += &format!("; the command line {}", words.sentence(MAX_WORDS));
        }
        changes.extend(lines);
        changes.extend(found.take_roles(&[Role::LoadOptions]));
        found.add("addon", &changes, text, None);
    }
}

fn in_12(change: &Change<'_>) -> bool {
    change.pcr().is_some_and(|pcr| pcr.get() == 12)
}

/// The initrd, wherever it was measured.
pub(super) fn initrd(found: &mut Findings<'_>) {
    let files = found.take_roles(&[Role::InitrdFile]);
    let mut changes = found.take_roles(&[Role::Initrd]);
    let text = match (files.first(), changes.first()) {
        (Some(file), _) => replaced("the initrd", file),
        (None, Some(Change { old: Some(old), new: Some(new) })) if old.role != Role::Unknown => {
            format!("the initrd was replaced ({} by {})", old.short_digest(), new.short_digest())
        }
        (None, Some(Change { old: None, .. })) => "an initrd was not there before".to_owned(),
        (None, Some(Change { new: None, .. })) => "the initrd is gone".to_owned(),
        (None, _) => "the initrd is not the one expected".to_owned(),
    };
    changes.extend(files);
    changes.extend(found.take(|change| is_command(change, &["initrd", "initrdefi"])));
    found.add("initrd", &changes, text, AFTER_INITRD);
}

/// The kernel, wherever it was measured.
pub(super) fn kernel(found: &mut Findings<'_>) {
    let host = found.take_roles(&[Role::HostKernel]);
    if let Some(change) = host.first() {
        let patched = change.both().is_some_and(|(old, new)| old.size == new.size);
        let what = replaced("the kernel that the host gives (-kernel)", change);
        let usual = match patched {
            true => {
                Some("with QEMU up to 10.0 and an older OVMF when initrd or memory size changed")
            }
            false => AFTER_KERNEL,
        };
        found.add("kernel", &host, what, usual);
    }
    let files = found.take_roles(&[Role::KernelFile]);
    let mut changes = found.take_roles(&[Role::Kernel, Role::MemoryKernel, Role::InnerKernel]);
    let text = match (files.first(), changes.first()) {
        (Some(file), _) => replaced("the kernel", file),
        (None, Some(change)) => replaced("the kernel", change),
        (None, None) => return,
    };
    changes.extend(files);
    found.add("kernel", &changes, text, AFTER_KERNEL);
}

/// The command line, by its words where the log or somebody else tells them.
pub(super) fn command_line(found: &mut Findings<'_>) {
    let mut changes = found.take_roles(&[Role::CommandLine, Role::LoadOptions]);
    changes.extend(found.take(|change| is_command(change, &["linux", "linuxefi"])));
    let told: Vec<WordDiff<'_>> = changes.iter().filter_map(words_of).collect();
    let kernel = found.findings.iter_mut().find(|finding| finding.cause == "kernel");
    let text = match (told.iter().find(|words| !words.is_empty()), kernel) {
        (Some(words), _) => format!("the command line {}", words.sentence(MAX_WORDS)),
        // The path of the kernel is in its first word, and the kernel's own line has said it.
        (None, Some(kernel)) if told.len() == changes.len() => {
            kernel.pcrs.extend(changes.iter().filter_map(Change::pcr));
            return;
        }
        (None, _) if changes.iter().all(|change| change.new.is_none()) => {
            "the command line is not measured any more".to_owned()
        }
        (None, Some(_)) => {
            "the command line differs; the log does not hold its text, in which GRUB \
                            names the kernel"
                .to_owned()
        }
        (None, None) if told.is_empty() => {
            "the command line differs; the log does not hold its text".to_owned()
        }
        (None, None) => "the command line names another kernel, or is spaced otherwise".to_owned(),
    };
    found.add("command_line", &changes, text, None);
}

/// loader.conf, credentials, extensions, and what systemd measured.
pub(super) fn companions(found: &mut Findings<'_>) {
    let conf = found.take_roles(&[Role::LoaderConf]);
    let text = match conf.first() {
        Some(Change { old: None, .. }) => "systemd-boot's loader.conf was not there before",
        Some(Change { new: None, .. }) => "systemd-boot's loader.conf is gone",
        _ => "systemd-boot's loader.conf was changed",
    };
    found.add("loader_conf", &conf, text.to_owned(), Some("after somebody or bootctl edited it"));
    let companions = found.take_roles(&[Role::Companion]);
    if let Some(change) = companions.first() {
        let more = match companions.len() {
            1 => String::new(),
            len => format!(", and {} more", len - 1),
        };
        let text =
            format!("credentials or extensions of the boot: {}{more}", described(change, 80));
        found.add("companion", &companions, text, None);
    }
    let userspace = found.take_roles(&[Role::Userspace]);
    if let Some(change) = userspace.first() {
        let text = format!("systemd's own measurement {}", described(change, 80));
        found.add("userspace", &userspace, text, None);
    }
}

/// Whether a command that GRUB ran is one of these.
pub(super) fn is_command(change: &Change<'_>, commands: &[&str]) -> bool {
    let is_one = |note: &Note| commands.contains(&note.key());
    change.role() == Role::GrubCommand && change.note().is_some_and(is_one)
}

/// The words that two command lines differ in, where both are known, without the kernel's path:
/// GRUB puts it first, as `linux PATH`, as PATH, or as `BOOT_IMAGE=PATH`.
fn words_of<'a>(change: &Change<'a>) -> Option<WordDiff<'a>> {
    let told = |note: &&Note| !note.text.is_empty();
    let side = |note: Option<&'a Note>| match note {
        None => Some(""),
        Some(note) => Some(note).filter(told).map(without_kernel),
    };
    Some(WordDiff::of(side(change.old)?, side(change.new)?))
}

fn without_kernel(note: &Note) -> &str {
    let text = match (note.role, note.text.split_once(' ')) {
        (Role::GrubCommand, Some((_, rest))) => rest,
        _ => note.text.as_str(),
    };
    let names_kernel = match note.role {
        Role::GrubCommand => true,
        Role::CommandLine => note.pcr.get() == 8,
        _ => text.starts_with("BOOT_IMAGE="),
    };
    match names_kernel {
        true => text.split_once(' ').map(|(_, rest)| rest).unwrap_or_default(),
        false => text,
    }
}

/// `a, b and c`.
fn listed(parts: &[String]) -> String {
    match parts {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => parts.concat(),
    }
}
