//! The menu of systemd-boot: its entries, their order and its choice.

use std::cmp::Ordering;

use super::artifacts::Artifacts;
use super::boot_entry::{EntryFile, key_values};
use super::stub;
use crate::artifact::Volume;

/// Most entries that are read from one folder.
const MAX_ENTRIES: usize = 1024;

/// An entry of the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MenuEntry {
    /// The file's name, without counters, in lower case.
    pub(super) id: String,
    /// Where it, its kernel and its initrds lie.
    pub(super) volume: Volume,
    pub(super) kind: Kind,
    sort_key: Option<String>,
    machine_id: Option<String>,
    version: Option<String>,
    tries_left: Option<u64>,
    tries_done: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// `loader/entries/*.conf`.
    Type1(EntryFile),
    /// A unified kernel image in `EFI/Linux`, and which of its profiles.
    Uki {
        /// Where it lies.
        path: String,
        /// 0 for the first.
        profile: usize,
    },
    /// A file whose text is not at hand.
    Unread(String),
}

/// Variables by which the running system and the user choose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoaderVariables {
    /// `LoaderEntryOneShot`.
    pub one_shot: Option<String>,
    /// `LoaderEntryDefault`.
    pub default: Option<String>,
    /// `LoaderEntryLastBooted`.
    pub last_booted: Option<String>,
}

/// The menu in systemd-boot's order, and the entry that it starts by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Menu {
    pub(super) entries: Vec<MenuEntry>,
    pub(super) default: Option<usize>,
}

impl Menu {
    /// Reads the menu as systemd-boot does.
    pub(super) fn read(artifacts: &Artifacts<'_>, chosen: &LoaderVariables) -> Result<Self, String> {
        let mut entries = Vec::new();
        for volume in [Volume::Esp, Volume::Boot] {
            read_type1(artifacts, volume, &mut entries)?;
            read_type2(artifacts, volume, &mut entries)?;
        }
        entries.sort_by(compare);
        let config = artifacts.bytes(Volume::Esp, "/loader/loader.conf")?;
        let config = config.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let default = default(&entries, config.as_deref().unwrap_or_default(), chosen);
        Ok(Self { entries, default })
    }
}

fn names(artifacts: &Artifacts<'_>, volume: Volume, folder: &str) -> Result<Vec<String>, String> {
    let names = artifacts.files().names(volume, folder).map_err(|error| error.to_string())?;
    if names.len() > MAX_ENTRIES {
        return Err(format!("{folder} has {} files, at most {MAX_ENTRIES} are read", names.len()));
    }
    Ok(names)
}

fn read_type1(
    artifacts: &Artifacts<'_>,
    volume: Volume,
    entries: &mut Vec<MenuEntry>,
) -> Result<(), String> {
    for name in names(artifacts, volume, "/loader/entries")? {
        let lower = name.to_ascii_lowercase();
        if lower.starts_with(['.']) || lower.starts_with("auto-") || !lower.ends_with(".conf") {
            continue;
        }
        let path = format!("/loader/entries/{name}");
        let (id, tries_left, tries_done) = without_counters(&name, ".conf");
        let text = artifacts.bytes(volume, &path)?;
        let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let file = text.as_deref().map(EntryFile::parse);
        let (kind, file) = match file {
            None => (Kind::Unread(path), EntryFile::default()),
            Some(None) => continue,
            Some(Some(file)) => (Kind::Type1(file.clone()), file),
        };
        entries.push(MenuEntry {
            id,
            volume,
            kind,
            sort_key: file.sort_key,
            machine_id: file.machine_id,
            version: file.version,
            tries_left,
            tries_done,
        });
    }
    Ok(())
}

fn read_type2(
    artifacts: &Artifacts<'_>,
    volume: Volume,
    entries: &mut Vec<MenuEntry>,
) -> Result<(), String> {
    for name in names(artifacts, volume, "/EFI/Linux")? {
        let lower = name.to_ascii_lowercase();
        if lower.starts_with('.') || lower.starts_with("auto-") || !lower.ends_with(".efi") {
            continue;
        }
        let (id, tries_left, tries_done) = without_counters(&name, ".efi");
        let path = format!("/EFI/Linux/{name}");
        let (about, profiles) = stub::about(artifacts, volume, &path).unwrap_or_default();
        let ids = profiles.iter().enumerate().map(|(index, name)| match name {
            Some(name) => format!("{id}@{}", name.to_ascii_lowercase()),
            None => format!("{id}@{}", index + 1),
        });
        for (profile, id) in std::iter::once(id.clone()).chain(ids).enumerate() {
            entries.push(MenuEntry {
                id,
                volume,
                kind: Kind::Uki { path: path.clone(), profile },
                sort_key: about.first_of(&["IMAGE_ID", "ID"]),
                machine_id: None,
                version: about.first_of(&["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"]),
                tries_left,
                tries_done,
            });
        }
    }
    Ok(())
}

/// `os-release` inside an image, or the like of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct OsRelease(Vec<(String, String)>);

impl OsRelease {
    pub(super) fn parse(text: &str) -> Self {
        let text = text.trim_end_matches('\0');
        let pairs = key_values(text, &['=']);
        Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    /// The last value of a key.
    pub(super) fn value(&self, key: &str) -> Option<String> {
        let mut values = self.0.iter().rev().filter(|(known, _)| known == key);
        values.next().map(|(_, value)| value.clone())
    }

    /// The value of the first key that has one.
    fn first_of(&self, keys: &[&str]) -> Option<String> {
        keys.iter().find_map(|key| self.value(key))
    }
}

/// The identifier of an entry and its boot counters (`boot_entry_parse_tries`): `a+3-1.conf` is
/// `a.conf` with 3 tries left after 1.
fn without_counters(name: &str, suffix: &str) -> (String, Option<u64>, u64) {
    let lower = name.to_ascii_lowercase();
    let counters = lower.strip_suffix(suffix).and_then(|stem| {
        let (_, counters) = stem.rsplit_once('+')?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        match counters.split_once('-') {
            Some((left, done)) => Some((number(left)?, number(done)?)),
            None => Some((number(counters)?, 0)),
        }
    });
    match counters {
        Some((left, done)) => (lower, Some(left), done),
        None => (lower, None, 0),
    }
}

/// `boot_entry_compare`.
fn compare(a: &MenuEntry, b: &MenuEntry) -> Ordering {
    let spent = |entry: &MenuEntry| entry.tries_left == Some(0);
    let new_style = || match (&a.sort_key, &b.sort_key) {
        (Some(of_a), Some(of_b)) => of_a
            .cmp(of_b)
            .then_with(|| a.machine_id.cmp(&b.machine_id))
            .then_with(|| compare_versions(b.version.as_deref(), a.version.as_deref())),
        _ => Ordering::Equal,
    };
    let counters = || match (a.tries_left, b.tries_left) {
        (Some(of_a), Some(of_b)) => of_b.cmp(&of_a).then(a.tries_done.cmp(&b.tries_done)),
        _ => Ordering::Equal,
    };
    spent(a)
        .cmp(&spent(b))
        .then_with(|| a.sort_key.is_none().cmp(&b.sort_key.is_none()))
        .then_with(new_style)
        .then_with(|| compare_versions(Some(&b.id), Some(&a.id)))
        .then_with(counters)
}

/// `config_select_default_entry`: the entry for one boot, then the variable, then `loader.conf`,
/// then the first.
fn default(entries: &[MenuEntry], config: &str, chosen: &LoaderVariables) -> Option<usize> {
    let pattern = key_values(config, &[' ', '\t']).filter(|(key, _)| *key == "default").last();
    let saved = |pattern: Option<&str>| match pattern {
        Some(word) if word.eq_ignore_ascii_case("@saved") => chosen.last_booted.clone(),
        other => other.map(str::to_owned),
    };
    let find = |pattern: Option<String>| {
        let pattern = pattern?.to_ascii_lowercase();
        entries.iter().position(|entry| matches_glob(&pattern, &entry.id))
    };
    find(chosen.one_shot.clone())
        .or_else(|| find(saved(chosen.default.as_deref())))
        .or_else(|| find(saved(pattern.map(|(_, value)| value))))
        .or_else(|| (!entries.is_empty()).then_some(0))
}

/// `efi_fnmatch`: `*`, `?` and `[a-z]`.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // reach[j]: whether the pattern so far matches the first j characters.
    let mut reach = vec![false; text.len() + 1];
    if let Some(first) = reach.first_mut() {
        *first = true;
    }
    let mut rest = pattern.as_slice();
    while let Some((first, after)) = rest.split_first() {
        let mut next = vec![false; text.len() + 1];
        if *first == '*' {
            let mut any = false;
            for (to, from) in next.iter_mut().zip(&reach) {
                any |= *from;
                *to = any;
            }
            rest = after;
        } else {
            let (accepts, after) = one_character(*first, after);
            for ((to, from), c) in next.iter_mut().skip(1).zip(&reach).zip(&text) {
                *to = *from && accepts(*c);
            }
            rest = after;
        }
        reach = next;
    }
    reach.last().copied().unwrap_or(false)
}

/// What one character of a glob accepts, and what follows it.
fn one_character(first: char, after: &[char]) -> (Box<dyn Fn(char) -> bool>, &[char]) {
    match first {
        '?' => (Box::new(|_| true), after),
        '\\' => match after.split_first() {
            Some((literal, after)) => {
                let literal = *literal;
                (Box::new(move |c| c == literal), after)
            }
            None => (Box::new(|_| false), after),
        },
        '[' => match after.iter().skip(1).position(|c| *c == ']') {
            Some(end) => {
                let (set, after) = after.split_at(end + 1);
                let set = set.to_vec();
                let after = after.get(1..).unwrap_or_default();
                (Box::new(move |c| in_set(&set, c)), after)
            }
            None => (Box::new(|_| false), after),
        },
        literal => (Box::new(move |c| c == literal), after),
    }
}

fn in_set(set: &[char], c: char) -> bool {
    let mut rest = set;
    loop {
        match rest {
            [from, '-', to, after @ ..] => {
                if (*from..=*to).contains(&c) {
                    return true;
                }
                rest = after;
            }
            [one, after @ ..] => {
                if *one == c {
                    return true;
                }
                rest = after;
            }
            [] => return false,
        }
    }
}

/// `strverscmp_improved` of systemd: the order of versions.
fn compare_versions(a: Option<&str>, b: Option<&str>) -> Ordering {
    let (mut a, mut b) = (a.unwrap_or_default(), b.unwrap_or_default());
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '~' | '-' | '^' | '.');
    loop {
        a = a.trim_start_matches(|c| !is_valid(c));
        b = b.trim_start_matches(|c| !is_valid(c));
        // A tilde sorts before the end, everything else after it.
        if a.starts_with('~') || b.starts_with('~') {
            let order = b.starts_with('~').cmp(&a.starts_with('~'));
            if order.is_ne() {
                return order;
            }
            (a, b) = (skip(a), skip(b));
        }
        if a.is_empty() || b.is_empty() {
            return (!a.is_empty()).cmp(&!b.is_empty());
        }
        for mark in ['-', '^', '.'] {
            if a.starts_with(mark) || b.starts_with(mark) {
                let order = b.starts_with(mark).cmp(&a.starts_with(mark));
                if order.is_ne() {
                    return order;
                }
                (a, b) = (skip(a), skip(b));
            }
        }
        let digits = |c: char| c.is_ascii_digit();
        let letters = |c: char| c.is_ascii_alphabetic();
        if a.starts_with(digits) || b.starts_with(digits) {
            let ((of_a, rest_a), (of_b, rest_b)) = (run(a, digits), run(b, digits));
            // A number sorts after a letter.
            let order = (!of_a.is_empty()).cmp(&!of_b.is_empty());
            let (of_a, of_b) = (of_a.trim_start_matches('0'), of_b.trim_start_matches('0'));
            let order =
                order.then(of_a.len().cmp(&of_b.len())).then_with(|| of_a.cmp(of_b));
            if order.is_ne() {
                return order;
            }
            (a, b) = (rest_a, rest_b);
        } else {
            let ((of_a, rest_a), (of_b, rest_b)) = (run(a, letters), run(b, letters));
            let order = of_a.cmp(of_b);
            if order.is_ne() {
                return order;
            }
            if of_a.is_empty() && of_b.is_empty() {
                return Ordering::Equal;
            }
            (a, b) = (rest_a, rest_b);
        }
    }
}

fn skip(text: &str) -> &str {
    text.get(1..).unwrap_or_default()
}

fn run(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !wanted(c)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_in_efi_fnmatch() {
        for (pattern, text, expected) in [
            ("deb.conf", "deb.conf", true),
            ("deb", "deb.conf", false),
            ("deb*", "deb.conf", true),
            ("*6.12*", "debian-6.12.48.conf", true),
            ("?eb.co[m-o]f", "deb.conf", true),
            ("?eb.co[!x]f", "deb.conf", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[", "[", false),
            ("*", "", true),
            ("**a**b**", "xxaxxbxx", true),
        ] {
            assert_eq!(matches_glob(pattern, text), expected, "{pattern} {text}");
        }
        // No pattern takes exponential time.
        assert!(!matches_glob(&"*a".repeat(500), &"a".repeat(400)));
    }

    #[test]
    fn versions_sort_as_in_systemd() {
        let ascending = [
            "122.1", "123~rc1-1", "123", "123-a", "123-a.1", "123-1", "123-1.1", "123^post1",
            "123.a-1", "123.1-1", "123a-1", "124-1",
        ];
        for pair in ascending.windows(2) {
            let [a, b] = pair else { continue };
            assert_eq!(compare_versions(Some(a), Some(b)), Ordering::Less, "{a} < {b}");
            assert_eq!(compare_versions(Some(b), Some(a)), Ordering::Greater, "{b} > {a}");
        }
        assert_eq!(compare_versions(Some("01"), Some("1")), Ordering::Equal);
        assert_eq!(compare_versions(None, Some("~1")), Ordering::Greater);
    }

    #[test]
    fn counters_are_taken_off_the_name() {
        assert_eq!(without_counters("A+3-1.conf", ".conf"), ("a+3-1.conf".into(), Some(3), 1));
        assert_eq!(without_counters("a+3.conf", ".conf"), ("a+3.conf".into(), Some(3), 0));
        assert_eq!(without_counters("a+b.conf", ".conf"), ("a+b.conf".into(), None, 0));
    }
}
