//! Why the state or the journal cannot be used.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::journal::Finding;
use crate::measurement::text::printable;

/// Why the state or the journal cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// Reading or writing failed.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word for it.
        kind: ErrorKind,
    },
    /// Another vmseal writes.
    Busy {
        /// What is locked.
        path: PathBuf,
    },
    /// Longer than any real file.
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Most bytes that it may have.
        limit: u64,
    },
    /// The state is not what vmseal writes: an edit, or another file in its place.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The state was written by a later version.
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
    /// A line that no journal takes.
    LineTooLong {
        /// Its bytes.
        found: usize,
    },
    /// The journal is not whole.
    NotWhole {
        /// What was found first.
        first: Finding,
        /// How many more findings there are.
        more: usize,
    },
}

impl StoreError {
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        Self::Io { path: path.to_owned(), kind: error.kind() }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, kind } => write!(f, "{}: {kind}", path.display()),
            Self::Busy { path } => write!(f, "another vmseal holds {}", path.display()),
            Self::TooLarge { path, limit } => {
                write!(f, "{} would be longer than {limit} bytes", path.display())
            }
            Self::Malformed { path, cause } => {
                write!(f, "{} is malformed: {}", path.display(), printable(cause, 120))
            }
            Self::Newer { path, version } => {
                write!(f, "{} is of version {version}, of a later vmseal", path.display())
            }
            Self::LineTooLong { found } => {
                write!(f, "a line of {found} bytes is too long for the journal")
            }
            Self::NotWhole { first, more: 0 } => write!(f, "the journal is not whole: {first}"),
            Self::NotWhole { first, more } => {
                write!(f, "the journal is not whole: {first}; and {more} more")
            }
        }
    }
}

impl std::error::Error for StoreError {}
