//! Files that a boot reads, wherever they lie: in a folder, in an image, or known by digest alone.

use std::fmt;
use std::io;
use std::rc::Rc;

use crate::measurement::Digest;

/// A file system that a boot reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Volume {
    /// The EFI system partition.
    Esp,
    /// The one with kernels and GRUB's files, `/boot` of the running system. Paths start at its own
    /// root: where `/boot` is a folder of the root file system, they start with `/boot`.
    Boot,
}

/// Bytes that can be read anywhere, any number of times.
pub trait Source {
    /// Their number.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::UnexpectedEof`] where fewer bytes are there.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// What tells these bytes from all others, where there is such a thing.
    fn identity(&self) -> Option<Identity> {
        None
    }
}

impl<T: Source + ?Sized> Source for Rc<T> {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buffer)
    }

    fn identity(&self) -> Option<Identity> {
        (**self).identity()
    }
}

/// A state of a file. Two sources of the same identity have the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The device that it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its length in bytes.
    pub len: u64,
    /// When its bytes were written last, in seconds and nanoseconds.
    pub modified: (i64, i64),
    /// When it or its attributes were, which nobody sets at will.
    pub changed: (i64, i64),
    /// Which file in it, where it is an image that has many; zeros for the file itself.
    pub within: [u8; 32],
}

/// What is known of a file without its bytes, as an `artifacts.json` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownDigests {
    /// Bytes, where told.
    pub size: Option<u64>,
    /// Digests of the bytes, at most one a bank.
    pub plain: Vec<Digest>,
    /// Authenticode digests, at most one a bank, where it is a PE image.
    pub authenticode: Vec<Digest>,
}

/// A file that is there.
pub enum Found {
    /// With its bytes.
    Bytes(Box<dyn Source>),
    /// Only digests are known.
    Digests(KnownDigests),
}

/// A folder or file that cannot be read although it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesError {
    /// The path.
    pub path: String,
    /// What the system said.
    pub cause: String,
}

impl fmt::Display for FilesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.cause)
    }
}

impl std::error::Error for FilesError {}

/// The files of one boot. Paths are absolute, `/`-separated; on [`Volume::Esp`] letter case does not
/// matter, as on FAT.
pub trait Files {
    /// The file at `path`; `None` where there is none.
    ///
    /// # Errors
    /// [`FilesError`].
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError>;

    /// Names in a folder, sorted by bytes; none where it does not exist.
    ///
    /// # Errors
    /// [`FilesError`].
    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError>;
}
