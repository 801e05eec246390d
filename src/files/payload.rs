//! A payload that is to be written into a variable of Secure Boot: read once, and watched.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::folder::FileSource;
use crate::artifact::efivar::PolicyVariable;
use crate::artifact::variable_update::Target;
use crate::artifact::{Identity, Source};
use crate::vouch::FileDigests;

/// Longest payload that is read: what a variable can hold, and a signature.
const MAX_LEN: u64 = 4 << 20;

/// A payload as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// What it is for.
    pub target: Target,
    /// Its name among the artifacts of a plan.
    pub artifact: String,
    /// Where it lies: absolute, without links.
    pub path: PathBuf,
    /// Digests of the very bytes that were read.
    pub digests: FileDigests,
    identity: Option<Identity>,
}

impl Payload {
    /// Reads a regular file, and gives its bytes.
    ///
    /// # Errors
    /// The system's; [`ErrorKind::FileTooLarge`] beyond 4 MiB, [`ErrorKind::InvalidInput`] for a path
    /// that is not UTF-8.
    pub fn read(target: Target, path: &Path) -> io::Result<(Self, Vec<u8>)> {
        let path = path.canonicalize()?;
        let source = FileSource::open(&path)?;
        if source.len() > MAX_LEN {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let identity = source.identity();
        let mut bytes = vec![0; usize::try_from(source.len()).map_err(io::Error::other)?];
        source.read_exact_at(0, &mut bytes)?;
        let digests = FileDigests::of_bytes(&bytes);
        let text = path.to_str().ok_or(ErrorKind::InvalidInput)?;
        let artifact = target.artifact(text);
        Ok((Self { target, artifact, path, digests, identity }, bytes))
    }

    /// The variable that it is for.
    pub fn variable(&self) -> PolicyVariable {
        self.target.variable
    }

    /// Whether the file is no longer the one that was read.
    pub fn is_changed(&self) -> bool {
        // Without an identity nothing tells that it is the same.
        self.identity.is_none()
            || FileSource::open(&self.path).ok().and_then(|source| source.identity())
                != self.identity
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_payload_is_read_once_and_watched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a payload");
        fs::write(&path, "payload").unwrap();
        let target = Target::from_name("dbx").unwrap();
        let (payload, bytes) = Payload::read(target, &path).unwrap();
        assert_eq!(bytes, b"payload");
        assert_eq!(payload.digests, FileDigests::of_bytes(b"payload"));
        assert!(payload.artifact.ends_with("/a\\040payload"), "{}", payload.artifact);
        assert!(!payload.is_changed());
        fs::write(&path, "PAYLOAD").unwrap();
        assert!(payload.is_changed());
        fs::remove_file(&path).unwrap();
        assert!(payload.is_changed());
    }

    #[test]
    fn only_files_are_read_and_only_short_ones() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::from_name("db").unwrap();
        assert!(Payload::read(target, folder.path()).is_err());
        assert!(Payload::read(target, Path::new("/dev/zero")).is_err());
        let path = folder.path().join("long");
        fs::File::create(&path).unwrap().set_len(MAX_LEN + 1).unwrap();
        let error = Payload::read(target, &path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }
}
