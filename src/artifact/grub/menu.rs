//! Menus and the entry that is chosen (`grub-core/normal/menu.c`).

use super::condition::signed;

/// One entry of a menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) title: String,
    pub(super) id: String,
    /// What it gets as `$1` and so on: the title first.
    pub(super) arguments: Vec<String>,
    pub(super) body: String,
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) submenu: bool,
}

/// The entry that `spec` names: by number, by identifier, by title. `>` ends a name, `>>` is one
/// character of it. Upstream takes leading digits for a number always, Red Hat's GRUB only where no
/// identifier matches (`get_entry_number`): an identifier that starts with digits is one here.
pub(super) fn position(entries: &[Entry], spec: &str) -> Option<usize> {
    let first = spec.split('>').next().unwrap_or_default().trim();
    let number = first.starts_with(|c: char| c.is_ascii_digit()).then(|| signed(first));
    let number = number.and_then(|number| usize::try_from(number).ok());
    if first.bytes().all(|byte| byte.is_ascii_digit()) && number.is_some() {
        return number;
    }
    let named =
        |name: fn(&Entry) -> &str| entries.iter().position(|entry| matches(name(entry), spec));
    named(|entry| &entry.id).or_else(|| named(|entry| &entry.title)).or(number)
}

/// Whether the first part of `spec` is `name` (`menuentry_eq`).
fn matches(name: &str, spec: &str) -> bool {
    !name.is_empty() && first_part(spec) == name
}

fn first_part(spec: &str) -> String {
    let mut part = String::new();
    let mut rest = spec.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '>' && rest.next_if_eq(&'>').is_none() {
            break;
        }
        part.push(c);
    }
    part
}

/// What stands behind the first single `>`, if anything: the submenu's own default.
pub(super) fn rest(spec: &str) -> Option<&str> {
    let mut skip = false;
    for (at, c) in spec.char_indices() {
        if skip {
            skip = false;
        } else if c == '>' {
            let after = spec.get(at + 1..)?;
            if !after.starts_with('>') {
                return (!after.is_empty()).then_some(after);
            }
            skip = true;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(title: &str, id: &str) -> Entry {
        Entry {
            title: title.into(),
            id: id.into(),
            arguments: vec![title.into()],
            body: String::new(),
            file: String::new(),
            line: 1,
            submenu: false,
        }
    }

    #[test]
    fn entries_are_named_by_id_title_or_number() {
        let entries = [entry("Debian", "simple"), entry("A>B", "advanced"), entry("7", "7f-x")];
        for (spec, expected) in [
            ("simple", Some(0)),
            ("advanced>k", Some(1)),
            ("A>>B>k", Some(1)),
            ("1>2", Some(1)),
            ("0", Some(0)),
            ("7", Some(7)),
            ("7f-x", Some(2)),
            ("7f-y", Some(7)),
            ("9", Some(9)),
            ("none", None),
            ("", None),
        ] {
            assert_eq!(position(&entries, spec), expected, "{spec}");
        }
        assert_eq!(rest("a>>b>c>d"), Some("c>d"));
        assert_eq!(rest("a>>b"), None);
        assert_eq!(rest("a>"), None);
    }
}
