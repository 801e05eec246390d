//! `/etc/vmseal/reseal.conf`: what may be approved with nobody asked.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::change::ChangeKind;
use crate::measurement::text::printable;
use crate::vouch::Voucher;
use crate::vouch::bounded::{Folder, lines};

/// Where it lies below the root.
const FOLDER: &str = "etc/vmseal";
const FILE: &str = "reseal.conf";
/// Bytes that are read at most.
const MAX_LEN: u64 = 64 << 10;
/// Characters of a line that an error shows.
const SHOWN: usize = 60;

/// Whether a change is approved with nobody asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Never.
    No,
    /// Where somebody vouches for the file.
    Vouched,
    /// Always.
    Yes,
}

impl Consent {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::No, Self::Vouched, Self::Yes];

    /// The name that the file has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Vouched => "vouched",
            Self::Yes => "yes",
        }
    }
}

impl fmt::Display for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why there is no telling what may be approved. Nothing may, then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfError {
    /// The file is there and cannot be read, or a link, a pipe or a device is in its place.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word for it.
        kind: ErrorKind,
    },
    /// Longer than any real file.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most bytes that it may have.
        limit: u64,
    },
    /// A line that is not `KIND = CONSENT`, or names a kind or a consent that there is not.
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What could be there.
        expected: String,
        /// What is.
        found: String,
    },
    /// A kind that a line before has.
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// The line that is expected to be the only one of this kind.
        expected: usize,
        /// The kind that is found again.
        found: ChangeKind,
    },
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, kind } => write!(f, "{}: {kind}", path.display()),
            Self::TooLarge { path, limit } => {
                write!(f, "{} is longer than {limit} bytes", path.display())
            }
            Self::Line { path, line, expected, found } => {
                let found = printable(found, SHOWN);
                write!(f, "{}:{line}: expected {expected}, found \"{found}\"", path.display())
            }
            Self::Duplicate { path, line, expected, found } => write!(
                f,
                "{}:{line}: expected {found} in line {expected} only, found it again",
                path.display()
            ),
        }
    }
}

impl std::error::Error for ConfError {}

/// What may be approved with nobody asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conf {
    /// What the file says, with the number of the line.
    told: BTreeMap<ChangeKind, (usize, Consent)>,
}

impl Conf {
    /// What the file of the system below `root` says; the defaults where there is none.
    ///
    /// # Errors
    /// [`ConfError`]. Nothing may be approved then.
    pub fn read(root: &Path) -> Result<Self, ConfError> {
        let folder = root.join(FOLDER);
        let path = folder.join(FILE);
        let read = Folder::open(&folder).and_then(|folder| folder.read(FILE, MAX_LEN));
        match read.map_err(|error: io::Error| error.kind()) {
            Ok((text, _)) => Self::parse(&path, &text),
            Err(ErrorKind::NotFound) => Ok(Self::default()),
            Err(ErrorKind::FileTooLarge) => Err(ConfError::TooLarge { path, limit: MAX_LEN }),
            Err(kind) => Err(ConfError::Io { path, kind }),
        }
    }

    /// What holds for a kind.
    pub fn consent(&self, kind: ChangeKind) -> Consent {
        self.told.get(&kind).map_or_else(|| by_default(kind), |(_, consent)| *consent)
    }

    /// Whether a change may be approved with nobody asked. `voucher` is that of the file that changed;
    /// `None` where what changed is no file.
    pub fn allows(&self, kind: ChangeKind, voucher: Option<&Voucher>) -> bool {
        match self.consent(kind) {
            Consent::No => false,
            Consent::Vouched => voucher.is_some_and(Voucher::is_somebody),
            Consent::Yes => true,
        }
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, ConfError> {
        let mut conf = Self::default();
        for (line, text) in (1..).zip(lines(text)) {
            let text = String::from_utf8_lossy(text);
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let wrong = |expected: String, found: &str| ConfError::Line {
                path: path.to_owned(),
                line,
                expected,
                found: found.to_owned(),
            };
            let (kind, consent) =
                text.split_once('=').ok_or_else(|| wrong("KIND = no|vouched|yes".into(), text))?;
            let (kind, consent) = (kind.trim(), consent.trim());
            let kind = named(&ChangeKind::ALL, ChangeKind::name, kind)
                .map_err(|names| wrong(names, kind))?;
            let consent = named(&Consent::ALL, Consent::name, consent)
                .map_err(|names| wrong(names, consent))?;
            if let Some((expected, _)) = conf.told.insert(kind, (line, consent)) {
                let path = path.to_owned();
                return Err(ConfError::Duplicate { path, line, expected, found: kind });
            }
        }
        Ok(conf)
    }
}

/// What holds where the file says nothing: files that updates bring are approved where somebody vouches
/// for them.
fn by_default(kind: ChangeKind) -> Consent {
    match kind {
        ChangeKind::Kernel | ChangeKind::Initrd | ChangeKind::Menu => Consent::Vouched,
        ChangeKind::Cmdline
        | ChangeKind::Loader
        | ChangeKind::Firmware
        | ChangeKind::SecureBoot => Consent::No,
    }
}

/// The one of `all` with this name; the names that there are, where none has.
fn named<T: Copy>(all: &[T], name: fn(T) -> &'static str, found: &str) -> Result<T, String> {
    all.iter().copied().find(|one| name(*one) == found).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
        format!("one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests;
