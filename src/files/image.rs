//! Boot file systems in images: FAT, ext2 to ext4, alone or in a GUID partition table.

use std::cell::OnceCell;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::rc::Rc;

use ext4_view::{Ext4, Ext4Read};

use super::folder::FileSource;
use crate::artifact::gpt::gpt_event_data;
use crate::artifact::{Files, FilesError, Found, Identity, Source, Volume};
use crate::measurement::PcrBank;
use crate::measurement::efi::{Gpt, Guid};

/// Largest file that is read out of an image.
const MAX_FILE: u64 = 1 << 30;
/// Most names that one folder may have.
const MAX_NAMES: usize = 65_536;

/// The type of an extended boot loader partition.
const XBOOTLDR: Guid = Guid::from_fields(
    0xbc13_c2ff,
    0x59e6,
    0x4262,
    [0xa3, 0x52, 0xb2, 0x75, 0xfd, 0x6f, 0x71, 0x72],
);

/// Why an image has no volume of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageError {
    /// Reading failed.
    Io {
        /// What the system said.
        cause: String,
    },
    /// No file system that can be read, in the image or in a partition for this volume.
    NoFileSystem,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { cause } => f.write_str(cause),
            Self::NoFileSystem => f.write_str("no FAT or ext4 file system for this volume in it"),
        }
    }
}

impl std::error::Error for ImageError {}

/// One volume in an image file or on a block device.
pub struct Image {
    volume: Volume,
    system: Rc<System>,
    /// Where the file system lies.
    slice: Slice,
}

enum System {
    Fat(Slice),
    Ext4(Ext4),
}

/// Part of a disk.
#[derive(Clone)]
struct Slice {
    disk: Rc<FileSource>,
    start: u64,
    len: u64,
}

impl Slice {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.disk.read_exact_at(self.start.saturating_add(offset), buffer)
    }
}

impl Ext4Read for Slice {
    fn read(
        &mut self,
        start: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.read_exact_at(start, buffer)?)
    }
}

/// A slice as fatfs reads it: forwards, never written to, and not without end, whatever loops a
/// hostile file system has.
struct Cursor {
    slice: Slice,
    at: u64,
    left: u64,
}

impl Cursor {
    fn new(slice: &Slice) -> Self {
        let left = slice.len.saturating_mul(2).saturating_add(64 << 20);
        Self { slice: slice.clone(), at: 0, left }
    }
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.slice.len.saturating_sub(self.at);
        let len = usize::try_from(there).unwrap_or(usize::MAX).min(buffer.len());
        // Every call costs something, even one that reads little.
        self.left = self.left.checked_sub(len as u64 + 16).ok_or_else(|| {
            io::Error::other("the file system is damaged: reading it does not end")
        })?;
        let part = buffer.get_mut(..len).unwrap_or_default();
        self.slice.read_exact_at(self.at, part)?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.slice.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Write for Cursor {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Image {
    /// Opens the file system for `volume`: the image itself, or one of its partitions. For
    /// [`Volume::Boot`] that is an extended boot loader partition, or the first one with `/grub`,
    /// `/boot` or a kernel.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(volume: Volume, path: &Path) -> Result<Self, ImageError> {
        let failed = |error: io::Error| ImageError::Io { cause: error.to_string() };
        let disk = Rc::new(FileSource::open(path).map_err(failed)?);
        let whole = Slice { disk: Rc::clone(&disk), start: 0, len: disk.len() };
        let Ok(table) = gpt_event_data(disk.as_ref()) else {
            let system = system(whole.clone()).ok_or(ImageError::NoFileSystem)?;
            return Ok(Self { volume, system: Rc::new(system), slice: whole });
        };
        let partitions = partitions(&disk, &table);
        let mut wanted: Vec<(Guid, Slice)> = partitions
            .into_iter()
            .filter(|(kind, _)| (*kind == Guid::ESP) == (volume == Volume::Esp))
            .collect();
        wanted.sort_by_key(|(kind, _)| *kind != XBOOTLDR);
        let systems = wanted.into_iter().filter_map(|(kind, slice)| {
            let system = Rc::new(system(slice.clone())?);
            let found = Self { volume, system, slice };
            (volume == Volume::Esp || kind == XBOOTLDR || found.is_boot()).then_some(found)
        });
        systems.into_iter().next().ok_or(ImageError::NoFileSystem)
    }

    fn is_boot(&self) -> bool {
        let names = self.names(Volume::Boot, "/").unwrap_or_default();
        names.iter().any(|name| {
            matches!(name.as_str(), "grub" | "grub2" | "boot") || name.starts_with("vmlinuz")
        })
    }
}

fn partitions(disk: &Rc<FileSource>, table: &[u8]) -> Vec<(Guid, Slice)> {
    let Some(gpt) = Gpt::decode(table) else { return Vec::new() };
    // The header lies in block 1, so it tells how long a block is.
    let mut signature = [0; 8];
    let small = disk.read_exact_at(512, &mut signature).is_ok() && signature == *b"EFI PART";
    let block: u64 = if small { 512 } else { 4096 };
    let slice = |partition: &crate::measurement::efi::Partition| {
        let blocks = partition.last_lba.checked_sub(partition.first_lba)?.checked_add(1)?;
        let (start, len) = (partition.first_lba.checked_mul(block)?, blocks.checked_mul(block)?);
        (start.checked_add(len)? <= disk.len())
            .then(|| (partition.type_guid, Slice { disk: Rc::clone(disk), start, len }))
    };
    gpt.partitions.iter().filter_map(slice).collect()
}

fn system(slice: Slice) -> Option<System> {
    if let Ok(ext4) = Ext4::load(Box::new(slice.clone())) {
        return Some(System::Ext4(ext4));
    }
    fatfs::FileSystem::new(Cursor::new(&slice), fatfs::FsOptions::new()).ok()?;
    Some(System::Fat(slice))
}

impl System {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        match self {
            Self::Fat(slice) => {
                let system = fatfs::FileSystem::new(Cursor::new(slice), fatfs::FsOptions::new())?;
                let mut bytes = Vec::new();
                let file = system.root_dir().open_file(path.trim_start_matches('/'))?;
                file.take(MAX_FILE).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
            Self::Ext4(system) => system.read(path).map_err(io::Error::other),
        }
    }

    /// The length of a regular file.
    fn len(&self, path: &str) -> io::Result<Option<u64>> {
        match self {
            Self::Fat(slice) => {
                let system = fatfs::FileSystem::new(Cursor::new(slice), fatfs::FsOptions::new())?;
                let found = system.root_dir().open_file(path.trim_start_matches('/'));
                let mut file = match found {
                    Ok(file) => file,
                    Err(error) if is_missing(&error) => return Ok(None),
                    Err(error) => return Err(error),
                };
                file.seek(SeekFrom::End(0)).map(Some)
            }
            Self::Ext4(system) => match system.metadata(path) {
                Ok(metadata) if metadata.file_type().is_regular_file() => Ok(Some(metadata.len())),
                Ok(_) => Ok(None),
                Err(ext4_view::Ext4Error::NotFound | ext4_view::Ext4Error::NotADirectory) => {
                    Ok(None)
                }
                Err(error) => Err(io::Error::other(error)),
            },
        }
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        match self {
            Self::Fat(slice) => {
                let system = fatfs::FileSystem::new(Cursor::new(slice), fatfs::FsOptions::new())?;
                let root = system.root_dir();
                let path = folder.trim_matches('/');
                let dir = if path.is_empty() { Ok(root) } else { root.open_dir(path) };
                let dir = match dir {
                    Ok(dir) => dir,
                    Err(error) if is_missing(&error) => return Ok(Vec::new()),
                    Err(error) => return Err(error),
                };
                let names = dir.iter().take(MAX_NAMES).map(|entry| Ok(entry?.file_name()));
                names.filter(|name| !matches!(name.as_deref(), Ok("." | ".."))).collect()
            }
            Self::Ext4(system) => {
                let entries = match system.read_dir(folder) {
                    Ok(entries) => entries,
                    Err(ext4_view::Ext4Error::NotFound | ext4_view::Ext4Error::NotADirectory) => {
                        return Ok(Vec::new());
                    }
                    Err(error) => return Err(io::Error::other(error)),
                };
                let mut names = Vec::new();
                for entry in entries.take(MAX_NAMES) {
                    let entry = entry.map_err(io::Error::other)?;
                    let name = entry.file_name().as_str().ok().map(str::to_owned);
                    names.extend(name.filter(|name| !matches!(name.as_str(), "." | "..")));
                }
                Ok(names)
            }
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::Other | io::ErrorKind::InvalidInput
    )
}

/// A file in an image, read when it is asked for.
struct Lazy {
    system: Rc<System>,
    slice: Slice,
    path: String,
    len: u64,
    bytes: OnceCell<Vec<u8>>,
}

impl Source for Lazy {
    fn len(&self) -> u64 {
        self.len
    }

    fn identity(&self) -> Option<Identity> {
        let start = self.slice.start.to_le_bytes();
        let within = PcrBank::Sha256.hash_parts(&[&start, self.path.as_bytes()]);
        let within = within.as_bytes().try_into().ok()?;
        Some(Identity { within, ..self.slice.disk.identity()? })
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = match self.bytes.get() {
            Some(bytes) => bytes,
            None => {
                let bytes = self.system.read(&self.path)?;
                self.bytes.get_or_init(|| bytes)
            }
        };
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(buffer.len()));
        let part = start.zip(end).and_then(|(start, end)| bytes.get(start..end));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Files for Image {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        if volume != self.volume || path.split('/').any(|part| part == "..") {
            return Ok(None);
        }
        let failed = |error: io::Error| FilesError { path: path.into(), cause: error.to_string() };
        let Some(len) = self.system.len(path).map_err(failed)? else { return Ok(None) };
        if len > MAX_FILE {
            return Err(failed(io::Error::other(format!(
                "{len} bytes, at most {MAX_FILE} are read"
            ))));
        }
        let system = Rc::clone(&self.system);
        let (slice, bytes) = (self.slice.clone(), OnceCell::new());
        let lazy = Lazy { system, slice, path: path.to_owned(), len, bytes };
        Ok(Some(Found::Bytes(Box::new(lazy))))
    }

    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError> {
        if volume != self.volume {
            return Ok(Vec::new());
        }
        let failed =
            |error: io::Error| FilesError { path: folder.into(), cause: error.to_string() };
        let mut names = self.system.names(folder).map_err(failed)?;
        names.sort();
        Ok(names)
    }
}
