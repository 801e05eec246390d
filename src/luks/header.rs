//! The header, read once: what was compared is what opens the volume.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, MemfdFlags, Mode, OFlags};

use super::error::LuksError;
use super::metadata::Metadata;
use crate::ffi::cryptsetup::Context;
use crate::secret::{KeyslotPassphrase, VolumeKey};

const PRIMARY: &[u8] = b"LUKS\xba\xbe\0\x02";
const SECONDARY: &[u8] = b"SKUL\xba\xbe\0\x02";
/// Sizes that one metadata copy can have, and so the offsets of the secondary one
/// (`LUKS2_HDR2_OFFSETS`).
const METADATA_SIZES: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];
/// Bytes of keyslot areas that are read at most: 32 keyslots of a 512-bit key take 8 MiB.
const AREAS_MAX: u64 = 32 << 20;

/// A private copy of a volume's LUKS2 header in memory. The disk's header is not read again: the
/// pin check, the tokens, the keyslots and the activation all see the same bytes.
pub struct HeaderCopy {
    pub(super) context: Context,
    pub(super) data: PathBuf,
    metadata: Metadata,
    // libcryptsetup opens the copy by its number, so it must outlive the context's use.
    _copy: OwnedFd,
}

impl HeaderCopy {
    /// Reads the header of the volume on `device` (block device or image file), or the detached
    /// one in `header`. When the primary copy is damaged the secondary one is used, as
    /// libcryptsetup does; nothing is repaired.
    ///
    /// # Errors
    /// [`LuksError::NotLuks2`], [`LuksError::HeaderDamaged`], [`LuksError::HeaderTooLarge`], and
    /// those of opening and reading.
    pub fn read(device: &Path, header: Option<&Path>) -> Result<Self, LuksError> {
        // A missing or forbidden device is told apart here: later it would be the header's fault.
        drop(open(device)?);
        let path = header.unwrap_or(device);
        let source = Source::open(path)?;
        let io = |error: rustix::io::Errno| LuksError::io(path, error);
        let copy = rustix::fs::memfd_create("luks2-header", MemfdFlags::CLOEXEC).map_err(io)?;
        // As long as the source, for libcryptsetup's size checks; only what is written takes memory.
        rustix::fs::ftruncate(&copy, source.length).map_err(io)?;
        let copy = File::from(copy);
        source.copy_metadata(&copy)?;

        let in_memory = PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()));
        let context = Context::load(&in_memory, device).map_err(|failure| {
            LuksError::HeaderDamaged { path: path.to_owned(), detail: failure.detail }
        })?;
        let metadata = Metadata::of(&context, path)?;
        source.copy_areas(&copy, &metadata.keyslot_areas())?;
        Ok(Self { context, data: device.to_owned(), metadata, _copy: copy.into() })
    }

    /// What the header says.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Opens one keyslot and compares the key with the digest of the volume's data.
    ///
    /// # Errors
    /// [`LuksError::WrongPassphrase`]; [`LuksError::NoSuchKeyslot`]; [`LuksError::ForeignVolumeKey`]
    /// for an unbound keyslot.
    pub fn open_keyslot(
        &mut self,
        keyslot: u32,
        passphrase: &KeyslotPassphrase,
    ) -> Result<VolumeKey, LuksError> {
        open_keyslot(&mut self.context, &self.metadata, Some(keyslot), passphrase)
            .map(|(_, key)| key)
    }

    /// Opens any keyslot that takes the passphrase; its number comes with the key.
    ///
    /// # Errors
    /// [`LuksError::WrongPassphrase`] when none does.
    pub fn open_any_keyslot(
        &mut self,
        passphrase: &KeyslotPassphrase,
    ) -> Result<(u32, VolumeKey), LuksError> {
        open_keyslot(&mut self.context, &self.metadata, None, passphrase)
    }
}

/// Opens one keyslot, or any. The key is compared once with the keyslot's digest: that takes as
/// long as the digest's PBKDF says, a tenth of a second on most disks.
pub(super) fn open_keyslot(
    context: &mut Context,
    metadata: &Metadata,
    keyslot: Option<u32>,
    passphrase: &KeyslotPassphrase,
) -> Result<(u32, VolumeKey), LuksError> {
    use rustix::io::Errno;
    if let Some(id) = keyslot {
        let keyslots = metadata.keyslots();
        let found = keyslots.iter().find(|keyslot| keyslot.id == id);
        // libcryptsetup would open an unbound keyslot that is asked for by number.
        if !found.ok_or(LuksError::NoSuchKeyslot { keyslot: id })?.bound {
            return Err(LuksError::ForeignVolumeKey);
        }
    }
    let opened = context.volume_key(slot_number(keyslot)?, passphrase);
    let (opened, key) =
        opened.map_err(|failure| match (Errno::from_raw_os_error(failure.errno), keyslot) {
            (Errno::PERM, _) | (Errno::NOENT, None) => LuksError::WrongPassphrase { keyslot },
            _ => LuksError::library("open a keyslot", failure),
        })?;
    Ok((u32::try_from(opened).unwrap_or_default(), key))
}

/// libcryptsetup's number for a keyslot, or for any.
pub(super) fn slot_number(keyslot: Option<u32>) -> Result<i32, LuksError> {
    let Some(keyslot) = keyslot else { return Ok(crate::ffi::cryptsetup::ANY) };
    i32::try_from(keyslot).map_err(|_| LuksError::NoSuchKeyslot { keyslot })
}

/// Opens a block device or a regular file for reading; nothing else can be a volume.
fn open(path: &Path) -> Result<File, LuksError> {
    let io = |error: rustix::io::Errno| LuksError::io(path, error);
    // Without NONBLOCK a FIFO would hang here.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(io)?;
    let stat = rustix::fs::fstat(&file).map_err(io)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice | FileType::RegularFile => Ok(File::from(file)),
        _ => Err(LuksError::NotLuks2 { path: path.to_owned() }),
    }
}

/// Where the header is read from.
struct Source<'a> {
    path: &'a Path,
    file: File,
    length: u64,
}

impl<'a> Source<'a> {
    fn open(path: &'a Path) -> Result<Self, LuksError> {
        let mut file = open(path)?;
        let length = file.seek(SeekFrom::End(0)).map_err(|error| LuksError::io(path, error))?;
        Ok(Self { path, file, length })
    }

    /// Copies every metadata copy that libcryptsetup could look at, the primary one included.
    fn copy_metadata(&self, copy: &File) -> Result<(), LuksError> {
        let mut found = false;
        for offset in [0].into_iter().chain(METADATA_SIZES) {
            let mut start = [0; 16];
            if offset + start.len() as u64 > self.length {
                break;
            }
            self.read(&mut start, offset)?;
            let (magic, size) = start.split_at(8);
            let size = size.try_into().map_or(0, u64::from_be_bytes);
            let expected = if offset == 0 { PRIMARY } else { SECONDARY };
            if magic != expected {
                continue;
            }
            found = true;
            // Any other size fails libcryptsetup's checks too, and is not worth reading.
            if METADATA_SIZES.contains(&size) && (offset == 0 || offset == size) {
                self.copy(copy, offset, size)?;
            }
        }
        if found { Ok(()) } else { Err(LuksError::NotLuks2 { path: self.path.to_owned() }) }
    }

    fn copy_areas(&self, copy: &File, areas: &[(u64, u64)]) -> Result<(), LuksError> {
        let total = areas.iter().fold(0_u64, |sum, (_, length)| sum.saturating_add(*length));
        if total > AREAS_MAX {
            return Err(LuksError::HeaderTooLarge { found: total, limit: AREAS_MAX });
        }
        areas.iter().try_for_each(|(offset, length)| self.copy(copy, *offset, *length))
    }

    /// Copies a range, as far as the source has it.
    fn copy(&self, copy: &File, offset: u64, length: u64) -> Result<(), LuksError> {
        let length = length.min(self.length.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.read(&mut bytes, offset)?;
        copy.write_all_at(&bytes, offset).map_err(|error| LuksError::io(self.path, error))
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), LuksError> {
        self.file.read_exact_at(bytes, offset).map_err(|error| LuksError::io(self.path, error))
    }
}
