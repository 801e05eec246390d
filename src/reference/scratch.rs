//! Folders of reference boots. One goes with its boot; what a boot that was killed left goes with the
//! next one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation::{LockExclusive, NonBlockingLockExclusive};
use rustix::fs::{OFlags, flock};

use super::error::ReferenceError;
use super::users::Users;

const PREFIX: &str = "vmseal-reference-";

/// A folder of one boot, which nobody else may look into. It goes with the value.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Locked as long as the boot lasts, whatever ends it.
    _lock: File,
}

impl Scratch {
    /// A new one, once those of dead boots are gone.
    ///
    /// # Errors
    /// [`ReferenceError::Io`].
    pub fn new() -> Result<Self, ReferenceError> {
        Self::below(&std::env::temp_dir())
    }

    fn below(folder: &Path) -> Result<Self, ReferenceError> {
        // swtpm changes its folder: the path is to be absolute.
        let folder =
            std::path::absolute(folder).map_err(|error| ReferenceError::io(folder, &error))?;
        sweep(&folder);
        loop {
            let mut name = [0; 8];
            // Somebody else's folder of that name is refused, not used.
            let _ = getrandom::fill(&mut name);
            let path = folder.join(format!("{PREFIX}{}", hex::encode(name)));
            let made = DirBuilder::new().mode(0o700).create(&path);
            let lock = made.and_then(|()| open(&path));
            match lock.and_then(|lock| Ok(flock(&lock, LockExclusive).map(|()| lock)?)) {
                Ok(lock) if is_at(&lock, &path) => return Ok(Self { path, _lock: lock }),
                // Another boot swept it away before it was locked.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound && folder.exists() => {}
                Err(error) => return Err(ReferenceError::io(&path, &error)),
            }
        }
    }

    /// Its path, which is absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what boots left that nobody runs any more. What cannot be removed is left for another time.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(lock) = open(&path) else { continue };
        let is_ours = lock.metadata().is_ok_and(|it| Users::may_be_ours(it.uid()));
        if is_ours && flock(&lock, NonBlockingLockExclusive).is_ok() && is_at(&lock, &path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Opens a folder, and no link to one.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Is this folder still the one at the path?
fn is_at(folder: &File, path: &Path) -> bool {
    let id = |it: fs::Metadata| (it.dev(), it.ino());
    let there = fs::symlink_metadata(path).map(id);
    matches!((folder.metadata().map(id), there), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn dead(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("tpm2-00.permall"), "state").unwrap();
        path
    }

    #[test]
    fn it_is_private_and_goes() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn those_of_dead_boots_go_with_the_next_one_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let running = Scratch::below(folder).unwrap();
        let left = dead(folder, "vmseal-reference-00");
        let other = dead(folder, "another");
        let link = folder.join("vmseal-reference-01");
        symlink(&other, &link).unwrap();
        let mut kept = vec![running.path().to_owned(), other.join("tpm2-00.permall"), link];
        if rustix::process::geteuid().is_root() {
            let (swtpms, users) =
                (dead(folder, "vmseal-reference-02"), dead(folder, "vmseal-reference-03"));
            chown(&swtpms, Users::new().swtpm, None).unwrap();
            chown(&users, Some(1000), None).unwrap();
            kept.push(users);
            drop(Scratch::below(folder).unwrap());
            assert!(!swtpms.exists());
        } else {
            drop(Scratch::below(folder).unwrap());
        }
        assert!(!left.exists());
        assert_eq!(kept.iter().find(|path| !path.exists()), None);
    }

    /// Boots that start at once take nothing away from one another.
    #[test]
    fn boots_that_begin_together_keep_their_folders() {
        let folder = tempfile::tempdir().unwrap();
        let run = || {
            for _ in 0..200 {
                let scratch = Scratch::below(folder.path()).unwrap();
                fs::write(scratch.path().join("state"), "state").unwrap();
                assert!(scratch.path().join("state").exists());
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(run))));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
