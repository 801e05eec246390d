//! Files below folders that stand for volumes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::artifact::{Files, FilesError, Found, Identity, Source, Volume};

/// An open file. Its length is that of the moment it was opened.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    len: u64,
}

impl FileSource {
    /// Opens a regular file or a block device.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidInput`] for what is neither, such as a pipe.
    pub fn open(path: &Path) -> io::Result<Self> {
        use std::io::{Seek, SeekFrom};
        let kind = std::fs::metadata(path)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        let mut file = File::open(path)?;
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, len })
    }
}

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn identity(&self) -> Option<Identity> {
        let metadata = self.file.metadata().ok()?;
        // The bytes of a device change without a trace.
        metadata.is_file().then(|| Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            within: [0; 32],
        })
    }
}

/// One volume whose files lie below a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    volume: Volume,
    root: PathBuf,
}

impl Folder {
    /// The volume below `root`.
    pub fn new(volume: Volume, root: impl Into<PathBuf>) -> Self {
        Self { volume, root: root.into() }
    }

    /// Which volume it is.
    pub fn volume(&self) -> Volume {
        self.volume
    }

    /// Where a path of the volume lies, if it is there.
    ///
    /// # Errors
    /// The system's.
    pub fn locate(&self, path: &str) -> io::Result<Option<PathBuf>> {
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") {
            return Ok(None);
        }
        if let Some(found) = self.locate_below(&self.root, &parts)? {
            return Ok(Some(found));
        }
        // A tree that holds `boot/`, or one that is it.
        match (self.volume, parts.as_slice()) {
            (Volume::Boot, ["boot", rest @ ..]) => self.locate_below(&self.root, rest),
            (Volume::Boot, rest) => self.locate_below(&self.root.join("boot"), rest),
            (Volume::Esp, _) => Ok(None),
        }
    }

    fn locate_below(&self, root: &Path, parts: &[&str]) -> io::Result<Option<PathBuf>> {
        let mut path = root.to_owned();
        for part in parts {
            let exact = path.join(part);
            if exact.symlink_metadata().is_ok() {
                path = exact;
                continue;
            }
            if self.volume == Volume::Boot {
                return Ok(None);
            }
            let same = names(&path)?.into_iter().find(|name| name.eq_ignore_ascii_case(part));
            let Some(name) = same else { return Ok(None) };
            path = path.join(name);
        }
        Ok(path.exists().then_some(path))
    }
}

/// Largest file that is read: what FAT can have. One that has holes costs nobody anything.
const MAX_FILE: u64 = 4 << 30;
/// Most names that one folder may have.
const MAX_NAMES: usize = 65_536;

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            let missing =
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
            return if missing { Ok(Vec::new()) } else { Err(error) };
        }
    };
    let mut names = Vec::new();
    for entry in entries.take(MAX_NAMES) {
        // A name that is not UTF-8 is none that a loader's configuration could name.
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

impl Files for Folder {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        if volume != self.volume {
            return Ok(None);
        }
        let failed = |error: io::Error| FilesError { path: path.into(), cause: error.to_string() };
        let Some(found) = self.locate(path).map_err(failed)? else { return Ok(None) };
        if found.is_dir() {
            return Ok(None);
        }
        let source = FileSource::open(&found).map_err(failed)?;
        if source.len > MAX_FILE {
            let cause = format!("{} bytes, at most {MAX_FILE} are read", source.len);
            return Err(failed(io::Error::other(cause)));
        }
        Ok(Some(Found::Bytes(Box::new(source))))
    }

    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError> {
        if volume != self.volume {
            return Ok(Vec::new());
        }
        let failed =
            |error: io::Error| FilesError { path: folder.into(), cause: error.to_string() };
        match self.locate(folder).map_err(failed)? {
            Some(found) => names(&found).map_err(failed),
            None => Ok(Vec::new()),
        }
    }
}
