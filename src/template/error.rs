//! Why a template cannot be used.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::measurement::text::printable;

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// No template is called so.
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is no template at all.
    None {
        /// The folder.
        folder: PathBuf,
    },
    /// Others than the owner may write a file that decides what is signed.
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file does not say what a template says.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and in which line where that is known.
        cause: String,
    },
    /// What was approved cannot be read.
    Account {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The signatures of a machine are more than it can be given that way.
    TooLarge {
        /// The file that would be too long.
        path: PathBuf,
        /// Bytes that fit.
        limit: usize,
        /// Bytes there would be.
        found: usize,
    },
    /// Two machines would be given the same file.
    SameFile {
        /// The file.
        path: PathBuf,
    },
    /// Reading or writing failed.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's word for it.
        cause: String,
    },
}

impl TemplateError {
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        Self::Io { path: path.to_owned(), cause: error.to_string() }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => write!(f, "there is no template {}", path.display()),
            Self::None { folder } => write!(f, "there is no template in {}", folder.display()),
            Self::Exposed { path, mode } => {
                let path = path.display();
                write!(f, "others than its owner may write {path}: its mode is {mode:03o}")
            }
            Self::Malformed { path, cause } => {
                write!(f, "{} is no template: {}", path.display(), printable(cause, 240))
            }
            Self::Account { path, cause } => {
                let cause = printable(cause, 240);
                write!(f, "{} does not tell what was approved: {cause}", path.display())
            }
            Self::TooLarge { path, limit, found } => {
                let path = path.display();
                write!(f, "{path} would have {found} bytes, at most {limit} are taken")
            }
            Self::SameFile { path } => {
                write!(f, "two templates would write {}", path.display())
            }
            Self::Io { path, cause } => write!(f, "{}: {cause}", path.display()),
        }
    }
}

impl std::error::Error for TemplateError {}
