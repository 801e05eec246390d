//! A key file: random bytes that only root reads.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::secret::{KeyslotPassphrase, SecretBuffer};

/// Bytes of a key: 512 bits.
const LENGTH: usize = 64;
/// Most bytes of a key file that is read.
const MAX: u64 = 8192;

/// A key file, there or to be written.
pub struct KeyFile {
    path: PathBuf,
    key: KeyslotPassphrase,
    is_new: bool,
}

impl KeyFile {
    /// The file's key; a random one where there is no file yet. Nothing is written.
    ///
    /// # Errors
    /// [`Error::KeyFile`] for a file that cannot be read, is empty or too long;
    /// [`Error::NoRandomness`].
    pub fn read_or_make(path: &Path) -> Result<Self, Error> {
        if let Some(key) = Self::read(path)? {
            return Ok(Self { path: path.to_owned(), key, is_new: false });
        }
        let mut bytes = SecretBuffer::new(vec![0; LENGTH]);
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::NoRandomness { cause: error.to_string() })?;
        let key = KeyslotPassphrase::new(std::mem::take(&mut *bytes));
        Ok(Self { path: path.to_owned(), key, is_new: true })
    }

    /// The key in a file; `None` where there is no file.
    ///
    /// # Errors
    /// [`Error::KeyFile`].
    pub fn read(path: &Path) -> Result<Option<KeyslotPassphrase>, Error> {
        let failed = |cause: String| Error::KeyFile { path: path.to_owned(), cause };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
            Ok(meta) if !meta.is_file() => return Err(failed("it is not a file".into())),
            Ok(meta) if meta.len() == 0 || meta.len() > MAX => {
                return Err(failed(format!("it has {} bytes, which is no key", meta.len())));
            }
            Ok(_) => {}
        }
        // Room for all of it, so that no copy is left behind by growing.
        let mut bytes = SecretBuffer::new(Vec::with_capacity(MAX as usize + 1));
        File::open(path)
            .and_then(|file| file.take(MAX).read_to_end(&mut bytes))
            .map_err(|error| failed(error.to_string()))?;
        Ok(Some(KeyslotPassphrase::new(std::mem::take(&mut *bytes))))
    }

    /// The key.
    pub fn key(&self) -> &KeyslotPassphrase {
        &self.key
    }

    /// Whether the file is still to be written.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Writes a new key, readable by root alone, so that after a crash it is there or it is not.
    ///
    /// # Errors
    /// [`Error::KeyFile`].
    pub fn write(&self) -> Result<(), Error> {
        if !self.is_new {
            return Ok(());
        }
        self.create().map_err(|error| {
            let cause = error.to_string();
            Error::KeyFile { path: self.path.clone(), cause }
        })
    }

    fn create(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        if let Some(above) = folder.parent() {
            fs::create_dir_all(above)?;
        }
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => fs::set_permissions(folder, Permissions::from_mode(0o700))?,
        }
        let new = self.path.with_extension("key.new");
        let written = self.write_new(&new).and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            // Nothing opens by it.
            let _ = fs::remove_file(&new);
        }
        written?;
        File::open(folder)?.sync_all()
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        // Left by a crash, and no keyslot's key.
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
        file.set_permissions(Permissions::from_mode(0o400))?;
        file.write_all(self.key.expose())?;
        file.sync_all()
    }

    /// Removes the file that [`KeyFile::write`] wrote.
    pub fn take_back(&self) {
        if self.is_new {
            // A key without a keyslot opens nothing, and the next run gives it one.
            let _ = fs::remove_file(&self.path);
        }
    }
}
