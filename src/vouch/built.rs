//! `/run/vmseal/built.json`: what this machine's hook saw being built since the boot.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::bounded::Folder;
use super::{FileDigests, inside};
use crate::files::FileSource;
use crate::luks::{LuksError, MetadataLock};
use crate::measurement::{Digest, PcrBank};
use crate::public_file;

/// Where it lies below the root: gone with the next boot.
const FOLDER: &str = "run/vmseal";
const FILE: &str = "built.json";
/// Files that are known at most; the oldest go first.
const MAX_NOTES: usize = 64;
const MAX_PATH: usize = 4096;
/// Bytes that are read at most: JSON writes some characters as six.
const MAX_LEN: u64 = 2 << 20;
/// How long another hook is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was built, oldest first.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notes {
    version: u32,
    built: Vec<Note>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    path: PathBuf,
    sha256: String,
}

/// Notes that the file at `path`, which is named as this process opens it, was built by this
/// machine's hook, with the bytes that it has now.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidInput`] for a path outside `root`, longer than 4096 bytes
/// or not of UTF-8; [`io::ErrorKind::PermissionDenied`] where others can write the folder of the
/// notes; [`io::ErrorKind::ResourceBusy`] where another hook keeps them for ten seconds.
pub fn note_built(root: &Path, path: &Path) -> io::Result<()> {
    let refused = |cause| io::Error::new(io::ErrorKind::InvalidInput, cause);
    let path = path.canonicalize()?;
    let name = inside(&root.canonicalize()?, &path).ok_or(refused("it is outside the root"))?;
    if name.as_os_str().len() > MAX_PATH || name.to_str().is_none() {
        return Err(refused("its path is too long, or no text"));
    }
    let folder = root.join(FOLDER);
    // Readable by all, as what else lies there, and writable by nobody else whatever the umask.
    DirBuilder::new().recursive(true).mode(0o755).create(&folder)?;
    let _lock = MetadataLock::acquire(&folder, PATIENCE).map_err(|error| match error {
        LuksError::Busy { .. } => io::ErrorKind::ResourceBusy.into(),
        error => io::Error::other(error),
    })?;
    if !is_private(&Folder::open(&folder)?.metadata()?) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let sha256 = FileDigests::of(&FileSource::open(&path)?)?.sha256;
    let mut notes = Notes::read(root).unwrap_or_default();
    notes.add(name, sha256);
    public_file::replace(&folder.join(FILE), &serde_json::to_vec_pretty(&notes)?)
}

impl Notes {
    const VERSION: u32 = 1;

    /// The notes of this boot; `None` where there are none, or none that are known to be the hook's.
    pub fn read(root: &Path) -> Option<Self> {
        let folder = Folder::open(&root.join(FOLDER)).ok()?;
        let (bytes, metadata) = folder.read(FILE, MAX_LEN).ok()?;
        if !is_private(&folder.metadata().ok()?) || !is_private(&metadata) {
            return None;
        }
        let notes: Self = serde_json::from_slice(&bytes).ok()?;
        (notes.version == Self::VERSION && notes.built.len() <= MAX_NOTES).then_some(notes)
    }

    /// Whether the file at this path, links followed, was noted last with this digest.
    pub fn has(&self, root: &Path, path: &Path, sha256: &Digest) -> bool {
        let Some(root) = root.canonicalize().ok() else { return false };
        let Some(name) = path.canonicalize().ok().and_then(|path| inside(&root, &path)) else {
            return false;
        };
        let is_noted = |note: &&Note| note.path == name;
        self.built.iter().rfind(is_noted).is_some_and(|note| {
            Digest::from_hex(PcrBank::Sha256, &note.sha256).is_ok_and(|noted| noted == *sha256)
        })
    }

    fn add(&mut self, path: PathBuf, sha256: Digest) {
        self.version = Self::VERSION;
        self.built.retain(|note| note.path != path);
        self.built.push(Note { path, sha256: sha256.to_string() });
        self.built.drain(..self.built.len().saturating_sub(MAX_NOTES));
    }
}

/// Whether root alone, or the user who runs this, can write it.
fn is_private(metadata: &Metadata) -> bool {
    let is_ours = metadata.uid() == 0 || metadata.uid() == geteuid().as_raw();
    is_ours && metadata.mode() & 0o022 == 0
}

#[cfg(test)]
mod tests;
