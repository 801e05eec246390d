//! Why a reference boot tells nothing.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::command_stream::StreamError;
use super::fit::Unfit;
use crate::measurement::PcrIndex;
use crate::measurement::text::printable;

/// Why a reference boot tells nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReferenceError {
    /// The template does not tell how to boot.
    Template {
        /// Its name.
        name: String,
        /// What is lacking.
        cause: String,
    },
    /// What the template names to start from is no disk that measures as its machines' do.
    NoDisk {
        /// The template.
        name: String,
        /// The file or folder.
        path: PathBuf,
        /// What it is instead.
        cause: &'static str,
    },
    /// A program cannot be started.
    Program {
        /// The program.
        program: PathBuf,
        /// What it, or the system, said.
        cause: String,
    },
    /// QEMU ended before the seal point.
    Ended {
        /// What the TPM had seen by then.
        seen: Seen,
    },
    /// The seal point did not come in time.
    NotLatched {
        /// After how many seconds it was given up.
        seconds: u64,
        /// What the TPM had seen by then.
        seen: Seen,
    },
    /// The commands to the TPM are those of no boot to be approved.
    Stream(StreamError),
    /// The TPM did not tell its PCRs.
    Mute,
    /// No log in the guest's memory tells of what the TPM saw.
    Unfit(Unfit),
    /// The TPM's PCRs are not what its extends give.
    Disagrees {
        /// The first PCR that differs.
        pcr: PcrIndex,
    },
    /// The same boot, predicted from the log and the template's files, would give other values.
    Foretold {
        /// The first PCR that differs.
        pcr: PcrIndex,
        /// The first of its events that is predicted otherwise than it was.
        event: String,
    },
    /// The template names another version of QEMU.
    Version {
        /// The template's.
        wanted: (u32, u32),
        /// That of the program.
        found: (u32, u32),
    },
    /// A template names no reference, and none was recorded.
    None {
        /// Its name.
        name: String,
    },
    /// What the boot was recorded with is another now.
    Stale {
        /// The template.
        name: String,
        /// What is another.
        what: String,
    },
    /// What was recorded cannot be read.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Reading or writing failed.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's word for it.
        cause: String,
    },
}

/// What was seen of a boot that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// How often the TPM was extended.
    pub extends: usize,
    /// The PCR that was extended last.
    pub last: Option<PcrIndex>,
    /// The last line of the console, or of QEMU itself.
    pub said: String,
}

impl ReferenceError {
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        Self::Io { path: path.to_owned(), cause: error.to_string() }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.extends, self.last) {
            (0, _) | (_, None) => f.write_str("nothing was measured")?,
            (count, Some(pcr)) => write!(f, "{count} extends were seen, the last of PCR {pcr}")?,
        }
        match self.said.is_empty() {
            true => Ok(()),
            false => write!(f, "; the last it said: {}", printable(&self.said, 160)),
        }
    }
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template { name, cause } => {
                write!(f, "template {name} cannot be booted: {cause}")
            }
            Self::NoDisk { name, path, cause } => {
                write!(f, "template {name} cannot be booted: {} {cause}", path.display())
            }
            Self::Program { program, cause } => {
                write!(f, "{}: {}", program.display(), printable(cause, 240))
            }
            Self::Ended { seen } => write!(f, "the reference boot ended before its latch: {seen}"),
            Self::NotLatched { seconds, seen } => {
                write!(f, "the reference boot did not latch within {seconds} seconds: {seen}")
            }
            Self::Stream(error) => write!(f, "the reference boot is none to approve: {error}"),
            Self::Mute => f.write_str("the TPM of the reference boot does not tell its PCRs"),
            Self::Unfit(unfit) => {
                write!(f, "nothing tells what the reference boot measured: {unfit}")
            }
            Self::Disagrees { pcr } => {
                write!(f, "the reference boot left PCR {pcr} otherwise than its extends give")
            }
            Self::Foretold { pcr, event } => write!(
                f,
                "the files of the template do not give what its reference boot measured in PCR {pcr}: {}",
                printable(event, 240)
            ),
            Self::Version { wanted, found } => write!(
                f,
                "the template's machines run on QEMU {}.{}, the reference boot would on {}.{}",
                wanted.0, wanted.1, found.0, found.1
            ),
            Self::None { name } => write!(f, "template {name} has no reference boot"),
            Self::Stale { name, what } => {
                write!(f, "the reference boot of template {name} was of another {what}")
            }
            Self::Malformed { path, cause } => {
                let cause = printable(cause, 240);
                write!(f, "{} tells of no reference boot: {cause}", path.display())
            }
            Self::Io { path, cause } => write!(f, "{}: {cause}", path.display()),
        }
    }
}

impl std::error::Error for ReferenceError {}
