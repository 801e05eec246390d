//! The lock that every libcryptsetup takes around LUKS2 metadata, with a bounded wait.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{self, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::error::LuksError;

/// `DEFAULT_LUKS2_LOCK_PATH` of libcryptsetup, as Debian, Fedora and upstream build it.
const LOCK_DIRECTORY: &str = "/run/cryptsetup";
const POLL: Duration = Duration::from_millis(20);

/// Exclusive access to the metadata on one device, until dropped.
///
/// Block devices are locked by a file named after their number, regular files by themselves
/// (libcryptsetup's `utils_device_locking.c`).
pub(crate) struct MetadataLock {
    _locked: OwnedFd,
}

impl MetadataLock {
    /// Takes the lock, or gives up after `patience`.
    ///
    /// # Errors
    /// [`LuksError::Busy`] when others keep it; those of opening the device or the lock's file.
    pub(crate) fn acquire(path: &Path, patience: Duration) -> Result<Self, LuksError> {
        let give_up = Instant::now() + patience;
        loop {
            let (file, resource) = open_resource(path)?;
            match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if still_there(&file, resource.as_deref()) => {
                    return Ok(Self { _locked: file });
                }
                // Removed by its last holder between our open and our lock: open the new one.
                Ok(()) | Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(LuksError::io(path, error)),
            }
            if Instant::now() >= give_up {
                return Err(LuksError::Busy { path: path.to_owned() });
            }
            sleep(POLL);
        }
    }
}

/// What is locked for `path`, and where it lies unless it is `path` itself.
fn open_resource(path: &Path) -> Result<(OwnedFd, Option<PathBuf>), LuksError> {
    let io = |error: Errno| LuksError::io(path, error);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = fs::open(path, flags, Mode::empty()).map_err(io)?;
    let stat = fs::fstat(&device).map_err(io)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
        return Ok((device, None));
    }
    match fs::mkdir(LOCK_DIRECTORY, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(LuksError::io(Path::new(LOCK_DIRECTORY), error)),
    }
    let name = format!("L_{}:{}", fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
    let resource = Path::new(LOCK_DIRECTORY).join(name);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let file = fs::open(&resource, flags, mode).map_err(|error| LuksError::io(&resource, error))?;
    Ok((file, Some(resource)))
}

fn still_there(file: &OwnedFd, resource: Option<&Path>) -> bool {
    let Some(resource) = resource else { return true };
    match (fs::fstat(file), fs::stat(resource)) {
        (Ok(held), Ok(named)) => (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino),
        _ => false,
    }
}
