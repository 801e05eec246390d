//! Why a template cannot be used.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::import::ImportError;
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
    /// Somebody else owns a file that decides what is signed.
    Foreign {
        /// The file.
        path: PathBuf,
        /// The owner's number.
        owner: u32,
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
        /// Keys that sign.
        keys: usize,
    },
    /// What is delivered is not signed by the template's new key as it is by the one before.
    NotSignedAnew {
        /// The template.
        template: String,
    },
    /// Two machines would be given the same file.
    SameFile {
        /// The file.
        path: PathBuf,
    },
    /// No template can be made of what a host has of its machines.
    Import {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: ImportError,
    },
    /// There is a template of this name already.
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// No template has a machine of this name.
    NoMachine {
        /// The machine.
        name: String,
    },
    /// Templates were looked at, and something is wrong with them.
    Faulty {
        /// How many faults there are.
        count: usize,
        /// The template of the first one.
        first: String,
        /// The first one.
        why: String,
    },
    /// Machines would not open by themselves: they were not given the signatures of all their boots, or
    /// are not started as their template tells.
    NotDelivered {
        /// How many machines.
        count: usize,
        /// The first one's name.
        first: String,
        /// Its template.
        template: String,
    },
    /// A machine is to be handed signatures, and whether it opens cannot be told.
    Untold {
        /// Why not.
        why: String,
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
            Self::Foreign { path, owner } => {
                let path = path.display();
                write!(
                    f,
                    "{path} belongs to neither root nor whoever runs this: its owner is {owner}"
                )
            }
            Self::Import { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Exists { path } => write!(f, "{} is there already", path.display()),
            Self::NoMachine { name } => {
                write!(f, "no template has a machine of the name {}", printable(name, 64))
            }
            Self::Faulty { count, first, why } => {
                let why = printable(why, 300);
                match count {
                    1 => write!(f, "template {first}: {why}"),
                    _ => write!(f, "{count} faults, the first one of template {first}: {why}"),
                }
            }
            Self::NotDelivered { count, first, template } => match count {
                1 => write!(f, "{first} of template {template} would not open by itself now"),
                _ => write!(
                    f,
                    "{count} machines would not open by themselves now, {first} of template \
                     {template} among them"
                ),
            },
            Self::Untold { why } => write!(
                f,
                "whether it opens by itself cannot be told, and it is to be handed signatures: {}",
                printable(why, 400)
            ),
            Self::Malformed { path, cause } => {
                write!(f, "{} is no template: {}", path.display(), printable(cause, 240))
            }
            Self::Account { path, cause } => {
                let cause = printable(cause, 240);
                write!(f, "{} does not tell what was approved: {cause}", path.display())
            }
            Self::TooLarge { path, limit, found, keys } => {
                let path = path.display();
                write!(f, "{path} would have {found} bytes, at most {limit} are taken")?;
                match keys {
                    0 | 1 => Ok(()),
                    _ => write!(f, ": until the rotation is finished, {keys} keys sign each boot"),
                }
            }
            Self::NotSignedAnew { template } => write!(
                f,
                "the new key of template {template} has not signed all that the key before has"
            ),
            Self::SameFile { path } => {
                write!(f, "two templates would write {}", path.display())
            }
            Self::Unread { template, cause } => write!(f, "template {template}: {cause}"),
            Self::Io { path, cause } => write!(f, "{}: {cause}", path.display()),
        }
    }
}

impl std::error::Error for TemplateError {}
