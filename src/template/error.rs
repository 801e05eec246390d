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
    /// What its machines will measure was not told by the process that reads their disk.
    Unread {
        /// The template's name.
        template: String,
        /// How it came.
        cause: Unread,
    },
    /// Reading or writing failed.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's word for it.
        cause: String,
    },
}

/// Why a process that reads a disk told nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// It says why.
    Refused(String),
    /// It took too long.
    Late {
        /// Seconds that it may take.
        seconds: u64,
    },
    /// It ended otherwise than by itself.
    Ended(String),
    /// What it said is no answer.
    Nonsense(String),
    /// It could not be started or heard.
    NotStarted(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(&printable(why, 300)),
            Self::Late { seconds } => {
                write!(f, "reading its boot files did not end within {seconds} seconds")
            }
            Self::Ended(how) => {
                write!(f, "what read its boot files ended before its time: {}", printable(how, 80))
            }
            Self::Nonsense(what) => {
                write!(f, "what read its boot files told no forecast: {}", printable(what, 160))
            }
            Self::NotStarted(why) => {
                let why = printable(why, 160);
                write!(f, "the process that reads its boot files cannot be had: {why}")
            }
        }
    }
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
            Self::Unread { template, cause } => write!(f, "template {template}: {cause}"),
            Self::Io { path, cause } => write!(f, "{}: {cause}", path.display()),
        }
    }
}

impl std::error::Error for TemplateError {}
