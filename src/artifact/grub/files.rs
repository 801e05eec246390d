//! Files as GRUB finds them, and their digests.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::artifact::hashing::{Recipe, digest};
use crate::artifact::{Files, FilesError, Found, Volume};
use crate::measurement::{Digest, PcrBank};

/// A file on a volume; the path is absolute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileRef {
    /// The file system.
    pub volume: Volume,
    /// The path from its root.
    pub path: String,
}

/// Digests of whole files.
pub trait FileDigests {
    /// The digests of `parts` one after the other, each but the last padded with zeros to 4 bytes,
    /// as GRUB hands several initrds over (`grub_initrd_load`). Banks whose digest is not known
    /// are missing; `None` where a file does not exist.
    ///
    /// # Errors
    /// [`FilesError`].
    fn digests(&self, parts: &[FileRef]) -> Result<Option<Vec<Digest>>, FilesError>;
}

/// Digests computed once and kept.
pub struct Hashed<'a> {
    files: &'a dyn Files,
    banks: Vec<PcrBank>,
    known: RefCell<BTreeMap<Vec<FileRef>, Option<Vec<Digest>>>>,
}

impl<'a> Hashed<'a> {
    /// Digests of `files` for `banks`.
    pub fn new(files: &'a dyn Files, banks: &[PcrBank]) -> Self {
        Self { files, banks: banks.to_vec(), known: RefCell::default() }
    }

    fn compute(&self, parts: &[FileRef]) -> Result<Option<Vec<Digest>>, FilesError> {
        let mut sources = Vec::new();
        for part in parts {
            match self.files.find(part.volume, &part.path)? {
                None => return Ok(None),
                Some(Found::Digests(known)) if parts.len() == 1 => {
                    let wanted = |digest: &Digest| self.banks.contains(&digest.bank());
                    return Ok(Some(known.plain.into_iter().filter(wanted).collect()));
                }
                // The digest of several files does not follow from theirs.
                Some(Found::Digests(_)) => return Ok(Some(Vec::new())),
                Some(Found::Bytes(source)) => sources.push(source),
            }
        }
        let mut whole = Recipe::default();
        for (index, source) in sources.iter().enumerate() {
            if index > 0 {
                whole.pad4();
            }
            whole.append(Recipe::whole(source.as_ref()));
        }
        let rows = digest(&[whole], &self.banks).map_err(|error| FilesError {
            path: parts.first().map(|part| part.path.clone()).unwrap_or_default(),
            cause: error.to_string(),
        })?;
        Ok(rows.into_iter().next())
    }
}

impl FileDigests for Hashed<'_> {
    fn digests(&self, parts: &[FileRef]) -> Result<Option<Vec<Digest>>, FilesError> {
        if let Some(known) = self.known.borrow().get(parts) {
            return Ok(known.clone());
        }
        let computed = self.compute(parts)?;
        self.known.borrow_mut().insert(parts.to_vec(), computed.clone());
        Ok(computed)
    }
}

/// The files of one boot and their digests.
#[derive(Clone, Copy)]
pub struct BootFiles<'a> {
    /// The files.
    pub files: &'a dyn Files,
    /// Their digests.
    pub digests: &'a dyn FileDigests,
    /// The banks that are predicted.
    pub banks: &'a [PcrBank],
}

impl BootFiles<'_> {
    /// Longest small file (script, list, entry) that is read.
    const MAX_LEN: u64 = 4 << 20;

    pub(super) fn exists(&self, file: &FileRef) -> Result<bool, FilesError> {
        Ok(self.files.find(file.volume, &file.path)?.is_some())
    }

    /// All bytes of a small file; `None` where there is none.
    pub(super) fn bytes(&self, file: &FileRef) -> Result<Option<Vec<u8>>, FilesError> {
        self.bytes_up_to(file, Self::MAX_LEN)
    }

    /// All bytes of GRUB's image; `None` where they are not at hand.
    pub(super) fn image_bytes(&self, file: &FileRef) -> Result<Option<Vec<u8>>, FilesError> {
        match self.files.find(file.volume, &file.path)? {
            Some(Found::Bytes(_)) => self.bytes_up_to(file, super::image::MAX_LEN),
            _ => Ok(None),
        }
    }

    fn bytes_up_to(&self, file: &FileRef, limit: u64) -> Result<Option<Vec<u8>>, FilesError> {
        let refuse =
            |cause: &str| Err(FilesError { path: file.path.clone(), cause: cause.to_owned() });
        match self.files.find(file.volume, &file.path)? {
            None => Ok(None),
            Some(Found::Digests(_)) => refuse("only its digest is known"),
            Some(Found::Bytes(source)) if source.len() > limit => {
                refuse(&format!("more than {limit} bytes"))
            }
            Some(Found::Bytes(source)) => {
                let mut bytes = vec![0; usize::try_from(source.len()).unwrap_or(0)];
                match source.read_exact_at(0, &mut bytes) {
                    Ok(()) => Ok(Some(bytes)),
                    Err(error) => refuse(&error.to_string()),
                }
            }
        }
    }
}

/// A path with single slashes.
pub(super) fn normal_path(path: &str) -> String {
    let names = path.split('/').filter(|name| !name.is_empty());
    names.fold(String::new(), |path, name| path + "/" + name)
}
