//! What can go wrong with a volume, its header or its keyslots.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::ffi::cryptsetup::Failure;

/// Why a LUKS2 operation was refused or failed. Unless said otherwise, nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LuksError {
    /// No such device or file.
    DeviceMissing {
        /// Device or header.
        path: PathBuf,
    },
    /// The device cannot be opened without more privilege.
    NotPermitted {
        /// Device or header.
        path: PathBuf,
    },
    /// No LUKS2 header, neither primary nor secondary.
    NotLuks2 {
        /// Device or header.
        path: PathBuf,
    },
    /// A LUKS2 header is there, and neither copy of it can be used.
    HeaderDamaged {
        /// Device or header.
        path: PathBuf,
        /// libcryptsetup's words, or what is missing.
        detail: String,
    },
    /// The header names more keyslot areas than any real volume has.
    HeaderTooLarge {
        /// Bytes of keyslot areas that the header names.
        found: u64,
        /// Bytes that are read at most.
        limit: u64,
    },
    /// Another process holds the header's lock, or the volume is in use.
    Busy {
        /// Device or header.
        path: PathBuf,
    },
    /// Reading or writing failed.
    Io {
        /// Device or header.
        path: PathBuf,
        /// The system's word for it.
        kind: std::io::ErrorKind,
    },
    /// The passphrase opens no keyslot, or not the one asked for.
    WrongPassphrase {
        /// The only keyslot that was tried; `None` when all were.
        keyslot: Option<u32>,
    },
    /// A key that is not the key of the volume's data, as an unbound keyslot holds it.
    ForeignVolumeKey,
    /// No keyslot of this number.
    NoSuchKeyslot {
        /// The number.
        keyslot: u32,
    },
    /// No token of this number.
    NoSuchToken {
        /// The number.
        token: u32,
    },
    /// The header's JSON area cannot take what is to be added.
    JsonAreaFull {
        /// Bytes that would be added.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// All keyslot numbers, or the whole keyslots area, are taken.
    NoFreeKeyslot,
    /// All token numbers are taken.
    NoFreeToken,
    /// Not a token object that LUKS2 allows: a string `type`, and `keyslots` that exist.
    InvalidToken,
    /// A device-mapper device of this name exists already.
    NameInUse {
        /// The name.
        name: String,
    },
    /// No open volume of this name.
    NotActive {
        /// The name.
        name: String,
    },
    /// libcryptsetup or the kernel failed in a way that no other variant describes.
    Library {
        /// What was attempted.
        operation: &'static str,
        /// The positive `errno` value it returned.
        errno: i32,
        /// libcryptsetup's words: printable ASCII, at most 160 bytes, or empty.
        detail: String,
    },
}

impl fmt::Display for LuksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeviceMissing { path } => write!(f, "{} does not exist", path.display()),
            Self::NotPermitted { path } => {
                write!(f, "no permission to open {}: run as root", path.display())
            }
            Self::NotLuks2 { path } => write!(f, "{} is not a LUKS2 volume", path.display()),
            Self::HeaderDamaged { path, detail } if detail.is_empty() => {
                write!(f, "both copies of the LUKS2 header on {} are damaged", path.display())
            }
            Self::HeaderDamaged { path, detail } => {
                write!(f, "the LUKS2 header on {} is damaged: {detail}", path.display())
            }
            Self::HeaderTooLarge { found, limit } => {
                write!(f, "the header names {found} bytes of keyslots, more than {limit}")
            }
            Self::Busy { path } => write!(f, "{} is in use by another process", path.display()),
            Self::Io { path, kind } => write!(f, "{}: {kind}", path.display()),
            Self::WrongPassphrase { keyslot: Some(keyslot) } => {
                write!(f, "wrong passphrase for keyslot {keyslot}")
            }
            Self::WrongPassphrase { keyslot: None } => {
                f.write_str("the passphrase opens no keyslot")
            }
            Self::ForeignVolumeKey => {
                f.write_str("the keyslot holds a key that is not the key of the volume's data")
            }
            Self::NoSuchKeyslot { keyslot } => write!(f, "there is no keyslot {keyslot}"),
            Self::NoSuchToken { token } => write!(f, "there is no token {token}"),
            Self::JsonAreaFull { needed, free } => write!(
                f,
                "the header's JSON area is full: {needed} bytes needed, {free} bytes free"
            ),
            Self::NoFreeKeyslot => f.write_str("the header has no room for another keyslot"),
            Self::NoFreeToken => f.write_str("the header has no room for another token"),
            Self::InvalidToken => f.write_str("not a token that LUKS2 allows"),
            Self::NameInUse { name } => write!(f, "a device named {name} exists already"),
            Self::NotActive { name } => write!(f, "there is no open volume named {name}"),
            Self::Library { operation, errno, detail } => {
                let cause = std::io::Error::from_raw_os_error(*errno);
                let separator = if detail.is_empty() { "" } else { ": " };
                write!(f, "cannot {operation}: {cause}{separator}{detail}")
            }
        }
    }
}

impl std::error::Error for LuksError {}

impl LuksError {
    pub(super) fn io(path: &Path, error: impl Into<std::io::Error>) -> Self {
        use std::io::ErrorKind;
        let path = path.to_owned();
        match error.into().kind() {
            ErrorKind::NotFound => Self::DeviceMissing { path },
            ErrorKind::PermissionDenied => Self::NotPermitted { path },
            ErrorKind::ResourceBusy => Self::Busy { path },
            kind => Self::Io { path, kind },
        }
    }

    pub(super) fn library(operation: &'static str, failure: Failure) -> Self {
        Self::Library { operation, errno: failure.errno, detail: failure.detail }
    }
}
