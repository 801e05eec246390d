//! Files that lie in no file system and that programs started from now on inherit. Whoever has one
//! may open it by its path, whatever the owner of what was copied: QEMU runs as nobody's user.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};

/// A file of no file system. It goes with the last program that has it.
#[derive(Debug)]
pub struct Inherited(File);

impl Inherited {
    /// Longest file that is copied.
    pub const MAX_LEN: u64 = 2 << 30;

    /// So many zeros, none of which takes memory yet.
    ///
    /// # Errors
    /// The system's.
    pub fn zeros(len: u64) -> io::Result<Self> {
        let file: OwnedFd = memfd_create("vmseal-reference", MemfdFlags::empty())?;
        ftruncate(&file, len)?;
        Ok(Self(file.into()))
    }

    /// A copy of a file.
    ///
    /// # Errors
    /// The system's.
    pub fn copy_of(path: &Path) -> io::Result<Self> {
        let (mut from, _) = Self::regular(path)?;
        let Self(mut to) = Self::zeros(0)?;
        io::copy(&mut from, &mut to)?;
        to.flush()?;
        Ok(Self(to))
    }

    /// A file that may be copied, to its end, and its length.
    ///
    /// # Errors
    /// The system's; for what is no file, or longer than [`Inherited::MAX_LEN`].
    pub fn regular(path: &Path) -> io::Result<(io::Take<File>, u64)> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        if metadata.len() > Self::MAX_LEN {
            return Err(io::Error::other(format!("more than {} bytes", Self::MAX_LEN)));
        }
        // What is appended meanwhile is none of it.
        let len = metadata.len();
        Ok((file.take(len), len))
    }

    /// The file itself, to be read only.
    ///
    /// # Errors
    /// The system's.
    pub fn read_only(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        fcntl_setfd(&file, FdFlags::empty())?;
        Ok(Self(file))
    }

    /// The number of its descriptor, here and in a program that inherited it.
    pub fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Its path in a program that inherited it.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.number())
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.0
    }
}
