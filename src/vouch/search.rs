//! Files that are looked for in a database by the digest of their bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Voucher;

/// What is looked for, and what was found so far.
#[derive(Debug)]
pub(super) struct Search<D> {
    wanted: BTreeMap<D, Vec<Wanted>>,
    found: BTreeMap<usize, Packaged>,
}

#[derive(Debug)]
struct Wanted {
    number: usize,
    path: PathBuf,
}

/// A packaged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packaged {
    pub name: String,
    pub version: String,
    pub file: String,
}

impl<D: Ord> Search<D> {
    /// One that looks for nothing.
    pub fn new() -> Self {
        Self { wanted: BTreeMap::new(), found: BTreeMap::new() }
    }

    /// Looks for a file too. Of several packaged ones with its bytes, that at its own `path` is
    /// the best to name.
    pub fn add(&mut self, digest: D, number: usize, path: PathBuf) {
        self.wanted.entry(digest).or_default().push(Wanted { number, path });
    }

    /// Whether nothing is looked for.
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Whether a file with this digest is looked for.
    pub fn wants(&self, digest: &D) -> bool {
        self.wanted.contains_key(digest)
    }

    /// Takes note of a packaged file that has this digest.
    pub fn saw(&mut self, digest: &D, packaged: &Packaged) {
        for wanted in self.wanted.get(digest).into_iter().flatten() {
            let is_at = |packaged: &Packaged| wanted.path.as_os_str() == packaged.file.as_str();
            let known = self.found.get(&wanted.number);
            if known.is_none_or(|known| is_at(packaged) && !is_at(known)) {
                self.found.insert(wanted.number, packaged.clone());
            }
        }
    }

    /// What was found, by number.
    pub fn found(self) -> Vec<(usize, Voucher)> {
        let found = self.found.into_iter().map(|(number, Packaged { name, version, file })| {
            (number, Voucher::Package { name, version, file })
        });
        found.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_counts_unless_another_is_at_the_very_path() {
        let packaged = |name: &str, file: &str| Packaged {
            name: name.into(),
            version: "1".into(),
            file: file.into(),
        };
        let mut search = Search::new();
        search.add(1, 10, "/boot/a".into());
        search.add(1, 11, "/boot/b".into());
        search.add(2, 12, "/boot/c".into());
        assert!(search.wants(&1) && !search.wants(&3));
        for (digest, name, file) in
            [(1, "one", "/usr/x"), (1, "two", "/boot/b"), (1, "three", "/boot/b"), (3, "four", "/")]
        {
            search.saw(&digest, &packaged(name, file));
        }
        let found = search.found();
        let names = found.iter().map(|(number, voucher)| match voucher {
            Voucher::Package { name, .. } => (*number, name.as_str()),
            _ => (*number, ""),
        });
        assert_eq!(names.collect::<Vec<_>>(), [(10, "one"), (11, "two")]);
    }
}
