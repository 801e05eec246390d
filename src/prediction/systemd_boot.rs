//! The menu of systemd-boot: its entries, their order and its choice.

use std::cmp::Ordering;

use super::artifacts::Artifacts;
use super::boot_entry::{EntryFile, key_values};
use super::glob::matches_glob;
use super::stub;
use super::versions::compare_versions;
use crate::artifact::pe::Pe;
use crate::artifact::variable_store::VariableStore;
use crate::artifact::{Found, Volume};
use crate::measurement::LogText;
use crate::measurement::efi::Guid;

/// Its configuration, on the EFI system partition.
pub(super) const CONFIG: &str = "/loader/loader.conf";
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

/// `LOADER_GUID`: the namespace of the boot loader interface.
const LOADER: Guid = Guid::from_fields(
    0x4a67_b082,
    0x0a4c,
    0x41cf,
    [0xb6, 0xc7, 0x44, 0x0b, 0x29, 0xbb, 0x8c, 0x4f],
);

impl LoaderVariables {
    /// Those of a firmware's store.
    pub fn of(store: &VariableStore) -> Self {
        let text = |name| {
            let stored = store.get(LOADER, name)?;
            let text = LogText::from_utf16le(&stored.data).as_str().to_owned();
            (!text.is_empty()).then_some(text)
        };
        Self {
            one_shot: text("LoaderEntryOneShot"),
            default: text("LoaderEntryDefault"),
            last_booted: text("LoaderEntryLastBooted"),
        }
    }
}

/// The menu in systemd-boot's order, and the entry that it starts by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Menu {
    pub(super) entries: Vec<MenuEntry>,
    pub(super) default: Option<usize>,
}

impl Menu {
    /// Reads the menu as systemd-boot does.
    pub(super) fn read(
        artifacts: &Artifacts<'_>,
        chosen: &LoaderVariables,
    ) -> Result<Self, String> {
        let mut entries = Vec::new();
        for volume in [Volume::Esp, Volume::Boot] {
            read_type1(artifacts, volume, &mut entries)?;
            read_type2(artifacts, volume, &mut entries)?;
        }
        entries.sort_by(compare);
        let config = artifacts.bytes(Volume::Esp, CONFIG)?;
        let config = config.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let default = default(&entries, config.as_deref().unwrap_or_default(), chosen);
        Ok(Self { entries, default })
    }
}

/// What systemd-boot says of itself in its section `.sdmagic`, before its version.
const MAGIC: &[u8] = b"#### LoaderInfo: systemd-boot ";

/// Whether the file on the EFI system partition is systemd-boot.
pub(super) fn is_systemd_boot(artifacts: &Artifacts<'_>, path: &str) -> bool {
    let Ok(Some(Found::Bytes(file))) = artifacts.files().find(Volume::Esp, path) else {
        return false;
    };
    let Ok(image) = Pe::parse(file.as_ref()) else { return false };
    let section = image.sections().iter().find(|section| section.name == b".sdmagic");
    let mut start = [0; MAGIC.len()];
    section.is_some_and(|section| {
        section.raw_size as usize >= start.len()
            && file.read_exact_at(section.raw_start.into(), &mut start).is_ok()
            && start == *MAGIC
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_taken_off_the_name() {
        assert_eq!(without_counters("A+3-1.conf", ".conf"), ("a+3-1.conf".into(), Some(3), 1));
        assert_eq!(without_counters("a+3.conf", ".conf"), ("a+3.conf".into(), Some(3), 0));
        assert_eq!(without_counters("a+b.conf", ".conf"), ("a+b.conf".into(), None, 0));
    }
}
