//! Causes in GRUB's configuration, environment and modules.

use super::super::text::printable;
use super::kernel::is_command;
use super::note::{Note, Role};
use super::words::WordDiff;
use super::{Change, Finding, Findings, replaced};

/// Most words of a menu entry that a line shows as gained, and as lost.
const MAX_WORDS: usize = 3;

/// Menu, configuration, environment block, modules: what is left after kernel, initrd and command
/// line.
pub(super) fn grub(found: &mut Findings<'_>) {
    // What GRUB prints while it loads names the kernel once more.
    let causes = ["kernel", "initrd"];
    let kernel = found.findings.iter().position(|finding| causes.contains(&finding.cause));
    if let Some(finding) = kernel {
        let echoes = found.take(|change| is_command(change, &["echo"]));
        if let Some(finding) = found.findings.get_mut(finding) {
            finding.pcrs.extend(echoes.iter().filter_map(Change::pcr));
        }
    }
    entry(found);
    configuration(found);
    let environment = found.take_roles(&[Role::GrubEnvironment]);
    let text = "GRUB's environment block grubenv was changed".to_owned();
    let usual = Some("after grub-reboot, grub-set-default or a boot that recorded a failure");
    found.add("grub_environment", &environment, text, usual);
    let files = found.take_roles(&[Role::GrubFile]);
    if let Some(change) = files.first() {
        let more = match files.len() {
            1 => String::new(),
            len => format!(", and {} more files of GRUB differ", len - 1),
        };
        let text = replaced("GRUB's file", change) + &more;
        found.add("grub_file", &files, text, Some("after an update of GRUB"));
    }
}

/// Another entry of the menu was started.
fn entry(found: &mut Findings<'_>) {
    let started = found.take(|change| is_command(change, &["setparams"]));
    // Where a submenu is entered, its own setparams comes first and the entry's last.
    let last = |side: fn(&Change<'_>) -> bool| started.iter().rfind(|change| side(change));
    let new = last(|change| change.new.is_some()).and_then(|change| change.new);
    let old = last(|change| change.old.is_some()).and_then(|change| change.old);
    let (Some(new), true) = (new, !started.is_empty()) else {
        found.left.extend(started);
        return;
    };
    let title = |note: &Note| {
        let text = note.text.strip_prefix("setparams ").unwrap_or(&note.text);
        printable(text, 80)
    };
    let mut text = match old.filter(|old| old.role != Role::Unknown) {
        Some(old) => format!("GRUB started the entry {} instead of {}", title(new), title(old)),
        None => format!("GRUB started the entry {}, which was not expected", title(new)),
    };
    let names_next = |change: &Change<'_>| {
        change.new.is_some_and(|note| note.text.contains("save_env next_entry"))
    };
    if found.left.iter().any(names_next) {
        text += ", once, as next_entry in grubenv asked";
    }
    let mut changes = started;
    changes.extend(found.take_roles(&[Role::GrubEnvironment]));
    let consequence = ["set", "save_env", "[", "menuentry", "submenu"];
    // Entering a submenu measures its entries; entries that changed are another cause.
    changes.extend(found.take(|change| {
        is_command(change, &consequence) && (change.old.is_none() || change.new.is_none())
            || is_command(change, &["[", "set"])
    }));
    let usual = Some("after grub-reboot, grub-set-default or a choice in the menu");
    found.add("menu_entry", &changes, text, usual);
    // The entry is the cause, and what it starts follows from it.
    let follows = |finding: &Finding| matches!(finding.cause, "kernel" | "initrd");
    if let Some(first) = found.findings.iter().position(follows) {
        found.findings.iter_mut().filter(|finding| follows(finding)).for_each(|finding| {
            finding.usual = Some("when another menu entry is started");
        });
        if let Some(entry) = found.findings.pop() {
            found.findings.insert(first, entry);
        }
    }
}

/// grub.cfg: its menu entries, and other commands.
fn configuration(found: &mut Findings<'_>) {
    let files = found.take_roles(&[Role::GrubConfig]);
    let entries = found.take(|change| is_command(change, &["menuentry", "submenu"]));
    let commands = found.take_roles(&[Role::GrubCommand]);
    let mut text = match files.first() {
        Some(file) if file.both().is_some_and(|(old, new)| old.text == new.text) => {
            let note = file.note().map(|note| note.shown(80)).unwrap_or_default();
            format!("GRUB's configuration {note} was changed")
        }
        Some(file) => replaced("GRUB's configuration", file),
        None => "GRUB ran other commands".to_owned(),
    };
    let words = entries.first().and_then(Change::both);
    let words = words.map(|(old, new)| WordDiff::of(&old.text, &new.text));
    let is_said = words.as_ref().is_some_and(|words| {
        let line = words.sentence(super::kernel::MAX_WORDS);
        let said = |finding: &Finding| finding.text.ends_with(&line);
        found.findings.iter().any(|finding| finding.cause == "command_line" && said(finding))
    });
    match (entries.len(), words) {
        (0, _) => {}
        (1, Some(_)) if is_said => text += "; a menu entry differs by these words",
        (len, Some(_)) if is_said => text += &format!("; {len} menu entries differ by these words"),
        (1, Some(words)) => {
            text += &format!("; a menu entry {}", words.sentence(MAX_WORDS));
        }
        (len, Some(words)) => {
            let words = words.sentence(MAX_WORDS);
            text += &format!("; {len} menu entries differ, the first {words}");
        }
        (len, None) => text += &format!("; {len} menu entries differ"),
    }
    if let Some(command) = commands.first() {
        let more = match commands.len() {
            1 => String::new(),
            len => format!(" and {} more", len - 1),
        };
        let said = |note: &Note| printable(&note.text, 60);
        text += &match (command.old, command.new) {
            (Some(old), Some(new)) if old.role != Role::Unknown => {
                format!("; it runs {} instead of {}{more}", said(new), said(old))
            }
            (_, Some(new)) => format!("; it runs {}{more}", said(new)),
            (Some(old), None) => format!("; it no longer runs {}{more}", said(old)),
            (None, None) => String::new(),
        };
    }
    let changes = [files, entries, commands].concat();
    found.add(
        "grub_config",
        &changes,
        text,
        Some("after update-grub, as every kernel update runs"),
    );
}
