//! GRUB's lists: which module gives a command or terminal, and what a module needs.

use std::collections::{BTreeMap, BTreeSet};

/// Most lines of a list.
const MAX_LINES: usize = 10_000;

/// `command.lst`: the module of each command (`read_command_list`).
pub(super) fn commands(list: &str) -> BTreeMap<String, String> {
    let named = list.lines().take(MAX_LINES).filter_map(|line| {
        let (name, module) = line.trim_start().split_once(':')?;
        Some((name.strip_prefix('*').unwrap_or(name).to_owned(), module.trim().to_owned()))
    });
    named.collect()
}

/// `terminal.lst`: pairs of a terminal, `i` (input) or `o` (output) before its name, and its module
/// (`read_terminal_list`).
pub(super) fn terminals(list: &str) -> Vec<(String, String)> {
    let pairs = list.lines().take(MAX_LINES).filter_map(|line| {
        let (name, module) = line.split_once(':')?;
        Some((name.trim().to_owned(), module.trim().to_owned()))
    });
    pairs.collect()
}

/// The module that a terminal is loaded from, if a list names it; `*` at a name's end matches all.
pub(super) fn terminal_module<'a>(
    terminals: &'a [(String, String)],
    kind: char,
    name: &str,
) -> Option<&'a str> {
    let wanted = format!("{kind}{name}");
    let found = terminals.iter().find(|(listed, _)| match listed.strip_suffix('*') {
        Some(start) => wanted.starts_with(start),
        None => *listed == wanted,
    });
    found.map(|(_, module)| module.as_str())
}

/// `moddep.lst`: what each module needs, in the order in which GRUB loads it: that of the modules'
/// own `.moddeps` sections, which are made from this list.
#[derive(Debug, Clone, Default)]
pub(super) struct Dependencies(BTreeMap<String, Vec<String>>);

impl Dependencies {
    pub(super) fn parse(list: &str) -> Self {
        let named = list.lines().take(MAX_LINES).filter_map(|line| {
            let (module, needs) = line.split_once(':')?;
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            Some((module.trim().to_owned(), needs))
        });
        Self(named.collect())
    }

    /// What a module needs directly; `None` where the list does not name it.
    pub(super) fn of(&self, module: &str) -> Option<&[String]> {
        self.0.get(module).map(Vec::as_slice)
    }

    /// The module and all that it needs.
    pub(super) fn closure(&self, module: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open = vec![module.to_owned()];
        while let Some(next) = open.pop() {
            if found.insert(next.clone()) {
                open.extend(self.of(&next).unwrap_or_default().iter().cloned());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let commands = commands("*echo: echo\n[: test\nsearch.fs_uuid: search_fs_uuid\nbad\n");
        assert_eq!(commands.get("echo").map(String::as_str), Some("echo"));
        assert_eq!(commands.len(), 3);
        let terminals = terminals("iserial_*: serial\noserial: serial\nogfxterm: gfxterm\n");
        assert_eq!(terminal_module(&terminals, 'o', "gfxterm"), Some("gfxterm"));
        assert_eq!(terminal_module(&terminals, 'i', "serial_com1"), Some("serial"));
        assert_eq!(terminal_module(&terminals, 'i', "gfxterm"), None);
    }

    #[test]
    fn circular_needs_end() {
        let needs = Dependencies::parse("a: b\nb: a c\nc:\n");
        assert_eq!(needs.closure("a").len(), 3);
        assert_eq!(needs.of("c"), Some(&[][..]));
        assert_eq!(needs.of("d"), None);
    }
}
