//! Files as GRUB finds them, and their digests.

use std::cell::RefCell;
use std::collections::BTreeMap;

use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha256, Sha384, Sha512};

use crate::artifact::{Files, FilesError, Found, Source, Volume};
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
        let mut hashers: Vec<_> = self.banks.iter().map(|bank| (*bank, hasher(*bank))).collect();
        for (index, part) in parts.iter().enumerate() {
            match self.files.find(part.volume, &part.path)? {
                None => return Ok(None),
                Some(Found::Digests(known)) if parts.len() == 1 => {
                    let wanted = |digest: &Digest| self.banks.contains(&digest.bank());
                    return Ok(Some(known.plain.into_iter().filter(wanted).collect()));
                }
                // The digest of several files does not follow from theirs.
                Some(Found::Digests(_)) => return Ok(Some(Vec::new())),
                Some(Found::Bytes(source)) => {
                    let last = index + 1 == parts.len();
                    feed(&*source, !last, &mut hashers).map_err(|error| FilesError {
                        path: part.path.clone(),
                        cause: error.to_string(),
                    })?;
                }
            }
        }
        let finish = |(bank, hasher): (PcrBank, Box<dyn DynDigest>)| {
            Digest::from_bytes(bank, &hasher.finalize()).ok()
        };
        Ok(Some(hashers.into_iter().filter_map(finish).collect()))
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

fn hasher(bank: PcrBank) -> Box<dyn DynDigest> {
    match bank {
        PcrBank::Sha1 => Box::new(Sha1::default()),
        PcrBank::Sha256 => Box::new(Sha256::default()),
        PcrBank::Sha384 => Box::new(Sha384::default()),
        PcrBank::Sha512 => Box::new(Sha512::default()),
    }
}

fn feed(
    source: &dyn Source,
    padded: bool,
    hashers: &mut [(PcrBank, Box<dyn DynDigest>)],
) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    while at < source.len() {
        let left = usize::try_from(source.len() - at).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let Some(chunk) = buffer.get_mut(..wanted) else { break };
        source.read_exact_at(at, chunk)?;
        hashers.iter_mut().for_each(|(_, hasher)| hasher.update(chunk));
        at += wanted as u64;
    }
    let missing = usize::try_from(source.len().wrapping_neg() % 4).unwrap_or(0);
    if padded && missing > 0 {
        let zeros = [0; 4];
        let zeros = zeros.get(..missing).unwrap_or_default();
        hashers.iter_mut().for_each(|(_, hasher)| hasher.update(zeros));
    }
    Ok(())
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
        let refuse =
            |cause: &str| Err(FilesError { path: file.path.clone(), cause: cause.to_owned() });
        match self.files.find(file.volume, &file.path)? {
            None => Ok(None),
            Some(Found::Digests(_)) => refuse("only its digest is known"),
            Some(Found::Bytes(source)) if source.len() > Self::MAX_LEN => refuse("more than 4 MiB"),
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
