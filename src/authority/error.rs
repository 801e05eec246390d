//! Why an authority's key cannot be had, made or replaced.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::owner::Other;
use crate::measurement::text::printable;
use crate::policy::SigningError;

/// Why an authority's key cannot be had, made or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorityError {
    /// There is no key.
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is a key already.
    Exists {
        /// Its file.
        path: PathBuf,
    },
    /// Not a key file as `authority init` writes it.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// Others than the owner may read or write the file.
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key is another machine's.
    Foreign {
        /// The file.
        path: PathBuf,
        /// What tells.
        other: Other,
    },
    /// The key is for other boots than those it was asked for.
    OfAnother {
        /// The file.
        path: PathBuf,
        /// Whose boots.
        expected: String,
        /// Whose the file says.
        found: String,
    },
    /// No name of a template.
    Name {
        /// What was given.
        found: String,
    },
    /// The machine has no identity to bind a key to.
    NoMachineId {
        /// The file that should tell.
        path: PathBuf,
        /// What it holds, or why it cannot be read.
        found: String,
    },
    /// Every machine that is made of this image would have the key.
    Template {
        /// The file that marks the image.
        mark: PathBuf,
    },
    /// The file system of the key is not known to be encrypted.
    Unprotected {
        /// Where the key would be.
        path: PathBuf,
    },
    /// The key before the present one is still kept for volumes that carry it.
    Unfinished {
        /// Its file.
        old: PathBuf,
        /// The template, where it is the key of one.
        template: Option<String>,
    },
    /// No key before the present one is kept.
    NotRotated {
        /// Where it would be.
        old: PathBuf,
    },
    /// Machines that were not enrolled again would be locked out, and nobody said that there is none.
    Unconfirmed {
        /// The template.
        template: String,
    },
    /// Another program works on the key.
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// Reading or writing failed.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's word for it.
        cause: String,
    },
    /// Making the key or signing failed.
    Signing(SigningError),
}

impl AuthorityError {
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        Self::Io { path: path.to_owned(), cause: error.to_string() }
    }
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => write!(f, "there is no authority key {}", path.display()),
            Self::Exists { path } => {
                write!(f, "there is an authority key already: {}", path.display())
            }
            Self::Malformed { path, cause } => {
                write!(f, "{} is not an authority key of vmseal: {cause}", path.display())
            }
            Self::Exposed { path, mode } => {
                write!(f, "others than root may use {}: its mode is {mode:03o}", path.display())
            }
            Self::Foreign { path, other } => {
                write!(
                    f,
                    "the authority key {} is of another machine, by its {other}: this machine is a clone, or its TPM was replaced",
                    path.display()
                )
            }
            Self::OfAnother { path, expected, found } => {
                write!(f, "{} is the key of {found}, not of {expected}", path.display())
            }
            Self::Name { found } => {
                write!(f, "{} is no name of a template", printable(found, 80))
            }
            Self::NoMachineId { path, found } => {
                write!(f, "{} tells no machine ID: {}", path.display(), printable(found, 80))
            }
            Self::Template { mark } => write!(
                f,
                "this image is marked as a template by {}: every machine made of it would have the key",
                mark.display()
            ),
            Self::Unprotected { path } => write!(
                f,
                "{} would not be on an encrypted file system, as far as can be told",
                path.display()
            ),
            Self::Unfinished { old, .. } => {
                write!(f, "the last rotation is not finished: {} is still kept", old.display())
            }
            Self::NotRotated { old } => {
                write!(f, "there is no rotation to finish: there is no key {}", old.display())
            }
            Self::Unconfirmed { template } => write!(
                f,
                "a host cannot see which machines of template {template} were enrolled again, and nobody said that all were"
            ),
            Self::Busy { folder } => write!(f, "another program works in {}", folder.display()),
            Self::Io { path, cause } => write!(f, "{}: {cause}", path.display()),
            Self::Signing(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AuthorityError {}

impl From<SigningError> for AuthorityError {
    fn from(error: SigningError) -> Self {
        Self::Signing(error)
    }
}
