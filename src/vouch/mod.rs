//! Who vouches for a boot file: a package that has the very same bytes, or this machine's hook, which
//! noted what was built.
//!
//! Packaged files are looked up by their bytes over all packages, not by their path: what lies on the
//! EFI system partition is a copy of a packaged file, under a name that no package knows. Databases
//! are written by root alone; what they hold is bounded and printed as if it were hostile.

pub(crate) mod bounded;
mod built;
mod digests;
mod dpkg;
mod installed;
mod menu;
mod program;
mod rpm;
mod search;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::measurement::text::printable;
use built::Notes;
pub use built::note_built;
pub use digests::FileDigests;
pub use installed::InstalledKernel;
pub use menu::own_menu;
use rpm::Rpm;
use search::Search;

/// Most characters of a name or a version that are shown.
const SHOWN: usize = 120;

/// Who vouches for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voucher {
    /// A package that is installed, or unpacked and being configured, has a file of the same bytes.
    Package {
        /// The package, as the database has it: not to be printed as it is.
        name: String,
        /// Its version, likewise.
        version: String,
        /// The path of the packaged file, likewise.
        file: String,
    },
    /// This machine's hook, which noted it since the boot; its bytes are the same since.
    Built,
    /// Nobody.
    Nobody,
}

impl Voucher {
    /// Whether there is one.
    pub fn is_somebody(&self) -> bool {
        *self != Self::Nobody
    }
}

impl fmt::Display for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package { name, version, .. } => {
                let (name, version) = (printable(name, SHOWN), printable(version, SHOWN));
                write!(f, "vouched by package {name} {version}")
            }
            Self::Built => f.write_str("built by this machine's hook"),
            Self::Nobody => f.write_str("vouched by nobody"),
        }
    }
}

/// Who vouches for each of these files, which are named as this process opens them, in their order.
/// What cannot be read vouches for nothing, and nobody vouches for an empty file.
pub fn vouchers(root: &Path, wanted: &[(PathBuf, FileDigests)]) -> Vec<Voucher> {
    let mut found = vec![Voucher::Nobody; wanted.len()];
    let by_md5 = search(root, wanted, &found, |digests| digests.md5);
    enter(dpkg::look(root, by_md5), &mut found);
    let by_sha256 = search(root, wanted, &found, |digests| digests.sha256);
    if let Some(rpm) = Rpm::of(root) {
        enter(rpm.look(by_sha256), &mut found);
    }
    if let Some(notes) = Notes::read(root) {
        let open = open(wanted, &found);
        let built = open.filter(|(_, (path, digests))| notes.has(root, path, &digests.sha256));
        let built: Vec<_> = built.map(|(number, _)| (number, Voucher::Built)).collect();
        enter(built, &mut found);
    }
    found
}

/// A search for those that nobody vouches for yet.
fn search<D: Ord>(
    root: &Path,
    wanted: &[(PathBuf, FileDigests)],
    found: &[Voucher],
    digest: impl Fn(&FileDigests) -> D,
) -> Search<D> {
    let mut search = Search::new();
    for (number, (path, digests)) in open(wanted, found) {
        search.add(digest(digests), number, inside(root, path).unwrap_or_default());
    }
    search
}

/// The files that nobody vouches for yet, and somebody could, by number.
fn open<'a>(
    wanted: &'a [(PathBuf, FileDigests)],
    found: &'a [Voucher],
) -> impl Iterator<Item = (usize, &'a (PathBuf, FileDigests))> {
    let open = wanted.iter().zip(found).enumerate();
    open.filter(|(_, ((_, digests), voucher))| !voucher.is_somebody() && !digests.is_of_nothing())
        .map(|(number, (wanted, _))| (number, wanted))
}

fn enter(those: Vec<(usize, Voucher)>, found: &mut [Voucher]) {
    for (number, voucher) in those {
        if let Some(place) = found.get_mut(number) {
            *place = voucher;
        }
    }
}

/// The path that a file has in the system below `root`.
fn inside(root: &Path, path: &Path) -> Option<PathBuf> {
    path.strip_prefix(root).ok().map(|path| Path::new("/").join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_database_holds_is_shown_as_printable_text() {
        let package = |name: &str, version: &str| Voucher::Package {
            name: name.into(),
            version: version.into(),
            file: "/boot/vmlinuz-6.12.57+deb13-amd64".into(),
        };
        assert_eq!(
            package("linux-image-6.12.57+deb13-amd64", "6.12.57-1").to_string(),
            "vouched by package linux-image-6.12.57+deb13-amd64 6.12.57-1"
        );
        let hostile = package("a\x1b[2J\n", &"9".repeat(500)).to_string();
        assert!(hostile.starts_with(r"vouched by package a\u{1b}[2J\n 999"), "{hostile}");
        assert!(hostile.len() < 200);
        assert_eq!(Voucher::Nobody.to_string(), "vouched by nobody");
    }
}
