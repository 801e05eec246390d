//! The key on disk. After a crash at any instant the key is there whole, old or new, or not yet
//! there; what else was written is swept by the next run.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, OFlags, RenameFlags};

use super::error::AuthorityError;
use super::key_file::KeyFile;
use super::owner::{Holder, Owner};
use crate::enroll::attach::is_encrypted;
use crate::luks::{LuksError, MetadataLock};
use crate::policy::{AuthorityKey, SigningKey};
use crate::secret::SecretBuffer;

/// Where the key lies below the root.
const PATH: &str = "etc/vmseal/authority.pem";
/// Where a host keeps the keys of templates, below the root.
const TEMPLATES: &str = "etc/vmseal/authorities";
/// What marks an image from which machines are made.
const TEMPLATE: &str = "etc/vmseal/template";
/// How long another run is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a key is, and the key before it.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    path: PathBuf,
}

/// What a rotation found and left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The key before, where this machine's own was kept; another machine's is not.
    pub old: Option<AuthorityKey>,
}

impl Store {
    /// The store of the system below `root`, or that of a key file elsewhere.
    pub fn new(root: &Path, path: Option<&Path>) -> Self {
        let path = path.map_or_else(|| root.join(PATH), Path::to_owned);
        Self { root: root.to_owned(), path }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether it is where the system's own key lies.
    pub fn is_of_system(&self) -> bool {
        self.path == self.root.join(PATH)
    }

    /// That of a host's key for the machines of a template; `name` is one that
    /// [`super::is_template_name`] takes.
    pub fn of_template(root: &Path, name: &str, path: Option<&Path>) -> Self {
        let default = || root.join(TEMPLATES).join(format!("{name}.pem"));
        Self { root: root.to_owned(), path: path.map_or_else(default, Path::to_owned) }
    }

    /// The key's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of the key before.
    pub fn old_path(&self) -> PathBuf {
        self.beside(".old")
    }

    /// The key, whoever's it is.
    ///
    /// # Errors
    /// [`AuthorityError::Missing`], [`AuthorityError::Malformed`], [`AuthorityError::Exposed`].
    pub fn read(&self) -> Result<KeyFile, AuthorityError> {
        read(&self.path, true)
    }

    /// The key of this machine, `owner`.
    ///
    /// # Errors
    /// Those of [`Store::read`], and [`AuthorityError::Foreign`].
    pub fn own(&self, owner: &Owner) -> Result<SigningKey, AuthorityError> {
        let file = self.read()?;
        match file.holder {
            Holder::Machine(of) => match of.differs_from(owner) {
                Some(other) => Err(AuthorityError::Foreign { path: self.path.clone(), other }),
                None => Ok(file.key),
            },
            found => Err(of_another(&self.path, "this machine".to_owned(), &found)),
        }
    }

    /// The key of the template of this name, and of no other.
    ///
    /// # Errors
    /// Those of [`Store::read`], and [`AuthorityError::OfAnother`].
    pub fn of(&self, name: &str) -> Result<SigningKey, AuthorityError> {
        Ok(self.require_of(name, &self.path, self.read()?)?.key)
    }

    /// The public half of the key before, while volumes may still carry it.
    pub fn old(&self) -> Option<AuthorityKey> {
        let old = read(&self.old_path(), false).ok()?;
        let present = read(&self.path, false).ok()?;
        // After a rotation that was cut short it is the present one.
        (old.key.public() != present.key.public()).then(|| old.key.public().clone())
    }

    /// Refuses where a private key must not lie.
    ///
    /// # Errors
    /// [`AuthorityError::Template`], [`AuthorityError::Unprotected`].
    pub fn require_protected(&self) -> Result<(), AuthorityError> {
        self.require_no_image()?;
        match self.is_encrypted() {
            true => Ok(()),
            false => Err(AuthorityError::Unprotected { path: self.path.clone() }),
        }
    }

    /// Refuses an image from which machines are made.
    ///
    /// # Errors
    /// [`AuthorityError::Template`].
    pub fn require_no_image(&self) -> Result<(), AuthorityError> {
        let mark = self.root.join(TEMPLATE);
        match mark.symlink_metadata() {
            Ok(_) => Err(AuthorityError::Template { mark }),
            Err(_) => Ok(()),
        }
    }

    /// Whether the key's file system is known to be encrypted.
    pub fn is_encrypted(&self) -> bool {
        // The folder may still have to be made.
        let folders = self.folder().ancestors();
        let there = folders.filter(|folder| !folder.as_os_str().is_empty());
        let Some(folder) = there.chain([Path::new(".")]).find_map(|path| path.canonicalize().ok())
        else {
            return false;
        };
        let below = self.root.canonicalize().ok().and_then(|root| {
            folder.strip_prefix(root).ok().map(|inside| Path::new("/").join(inside))
        });
        is_encrypted(&self.root, &below.unwrap_or(folder))
    }

    /// Writes the first key.
    ///
    /// # Errors
    /// [`AuthorityError::Exists`], [`AuthorityError::Busy`], [`AuthorityError::Io`].
    pub fn init(&self, holder: &Holder, key: &SigningKey) -> Result<(), AuthorityError> {
        let lock = self.lock()?;
        if self.path.symlink_metadata().is_ok() {
            return Err(AuthorityError::Exists { path: self.path.clone() });
        }
        let text = KeyFile::to_text(holder, key)?;
        let written = self.write_new(&text).and_then(|new| {
            let flags = RenameFlags::NOREPLACE;
            Ok(rustix::fs::renameat_with(CWD, &new, CWD, &self.path, flags)?)
        });
        self.settle(written)?;
        drop(lock);
        Ok(())
    }

    /// Puts `key` in the place of the present one. This machine's own stays beside it, for volumes
    /// that carry it; a clone keeps nothing of the machine that it was made of.
    ///
    /// # Errors
    /// [`AuthorityError::Unfinished`] while a key before the present one is kept, and those of
    /// reading and writing.
    pub fn rotate(&self, owner: &Owner, key: &SigningKey) -> Result<Rotated, AuthorityError> {
        let _lock = self.lock()?;
        // One that others could read is all the more to be replaced.
        let present = read(&self.path, false)?;
        let is_own = match &present.holder {
            Holder::Machine(of) => of.differs_from(owner).is_none(),
            found => return Err(of_another(&self.path, "this machine".to_owned(), found)),
        };
        if is_own {
            self.require_finished(&present)?;
        }
        self.replace(is_own, &KeyFile::to_text(&Holder::Machine(owner.clone()), key)?)?;
        Ok(Rotated { old: is_own.then(|| present.key.public().clone()) })
    }

    /// Refuses while a key before the present one is kept. After a rotation that was cut short, what
    /// is kept is the present one itself.
    pub(super) fn require_finished(&self, present: &KeyFile) -> Result<(), AuthorityError> {
        let old = self.old_path();
        let is_present =
            || read(&old, false).is_ok_and(|kept| kept.key.public() == present.key.public());
        if old.symlink_metadata().is_err() || is_present() {
            return Ok(());
        }
        let template = match &present.holder {
            Holder::Machine(_) => None,
            Holder::Template(name) => Some(name.clone()),
        };
        Err(AuthorityError::Unfinished { old, template })
    }

    /// Puts a key file of this text in the place of the present one, which stays beside it where
    /// `keep` says so; what was kept before is gone. The folder must be locked.
    pub(super) fn replace(&self, keep: bool, text: &SecretBuffer) -> Result<(), AuthorityError> {
        let old = self.old_path();
        let written = self.write_new(text).and_then(|new| {
            if old.symlink_metadata().is_ok() {
                fs::remove_file(&old)?;
            }
            if keep {
                fs::hard_link(&self.path, &old)?;
                fs::set_permissions(&old, Permissions::from_mode(0o600))?;
                File::open(self.folder())?.sync_all()?;
            }
            fs::rename(&new, &self.path)
        });
        self.settle(written)
    }

    /// Removes the key before: nothing carries it any more.
    ///
    /// # Errors
    /// [`AuthorityError::Busy`], [`AuthorityError::Io`].
    pub fn forget_old(&self) -> Result<(), AuthorityError> {
        let _lock = self.lock()?;
        let removed = fs::remove_file(self.old_path());
        self.settle(removed)
    }

    fn folder(&self) -> &Path {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new("."))
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name: OsString = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// Exclusive use of the folder. What an earlier run left half done is swept.
    pub(super) fn lock(&self) -> Result<MetadataLock, AuthorityError> {
        let folder = self.folder();
        let failed = |error: &io::Error| AuthorityError::io(folder, error);
        fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        let lock = MetadataLock::acquire(folder, PATIENCE).map_err(|error| match error {
            LuksError::Busy { .. } => AuthorityError::Busy { folder: folder.to_owned() },
            other => AuthorityError::Io { path: folder.to_owned(), cause: other.to_string() },
        })?;
        match fs::remove_file(self.beside(".new")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&error)),
            _ => Ok(lock),
        }
    }

    /// A new file beside the key, on the disk before it gets the key's name.
    fn write_new(&self, text: &SecretBuffer) -> io::Result<PathBuf> {
        let new = self.beside(".new");
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        // Whatever the umask.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text)?;
        file.sync_all()?;
        Ok(new)
    }

    /// The names are on the disk, or the new file is gone.
    fn settle(&self, written: io::Result<()>) -> Result<(), AuthorityError> {
        let settled = written.and_then(|()| File::open(self.folder())?.sync_all());
        settled.map_err(|error| {
            // The next run sweeps what this one cannot.
            let _ = fs::remove_file(self.beside(".new"));
            AuthorityError::io(&self.path, &error)
        })
    }
}

pub(super) fn of_another(path: &Path, expected: String, found: &Holder) -> AuthorityError {
    AuthorityError::OfAnother { path: path.to_owned(), expected, found: found.to_string() }
}

/// Reads a key file; `strict` wants it to be its owner's alone.
pub(super) fn read(path: &Path, strict: bool) -> Result<KeyFile, AuthorityError> {
    let malformed = |cause| AuthorityError::Malformed { path: path.to_owned(), cause };
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => AuthorityError::Missing { path: path.to_owned() },
        _ => AuthorityError::io(path, &error),
    };
    // Neither what a link leads to, nor a FIFO that nobody writes to.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(malformed("it is not a file"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if strict && mode & 0o077 != 0 {
        return Err(AuthorityError::Exposed { path: path.to_owned(), mode });
    }
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = SecretBuffer::new(Vec::with_capacity(KeyFile::MAX + 2));
    file.take(KeyFile::MAX as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    KeyFile::parse(&text).map_err(malformed)
}
