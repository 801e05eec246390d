//! Digests of files, each file read once however often it is asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::artifact::{Files, Found, Source, Volume};
use crate::measurement::{Digest, PcrBank};

/// Largest file that is read for its text.
const MAX_TEXT: u64 = 1 << 20;

/// What is known of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileDigests {
    /// Bytes, where known.
    pub(super) size: Option<u64>,
    /// Digests of the bytes.
    pub(super) plain: Vec<Digest>,
    /// Authenticode digests, or why there are none.
    pub(super) image: Result<Vec<Digest>, String>,
}

/// The files of one boot, as their digests.
pub(super) struct Artifacts<'a> {
    files: &'a dyn Files,
    banks: Vec<PcrBank>,
    known: RefCell<BTreeMap<(Volume, String), Rc<Result<FileDigests, String>>>>,
}

impl<'a> Artifacts<'a> {
    pub(super) fn new(files: &'a dyn Files, banks: Vec<PcrBank>) -> Self {
        Self { files, banks, known: RefCell::default() }
    }

    pub(super) fn files(&self) -> &'a dyn Files {
        self.files
    }

    pub(super) fn banks(&self) -> &[PcrBank] {
        &self.banks
    }

    /// The digests of a file, or why they are not known.
    pub(super) fn digests(&self, volume: Volume, path: &str) -> Rc<Result<FileDigests, String>> {
        let key = (volume, path.to_owned());
        if let Some(known) = self.known.borrow().get(&key) {
            return Rc::clone(known);
        }
        let found = Rc::new(self.find(volume, path));
        self.known.borrow_mut().insert(key, Rc::clone(&found));
        found
    }

    /// The digests of a PE image, as PCR 4 measures it.
    pub(super) fn image(&self, volume: Volume, path: &str) -> Result<Vec<Digest>, String> {
        match self.digests(volume, path).as_ref() {
            Ok(known) => known.image.clone(),
            Err(why) => Err(why.clone()),
        }
    }

    /// The text of a small file; `None` where there is no such file or only its digest is known.
    pub(super) fn bytes(&self, volume: Volume, path: &str) -> Result<Option<Vec<u8>>, String> {
        match self.files.find(volume, path).map_err(|error| error.to_string())? {
            Some(Found::Bytes(source)) => read(source.as_ref(), MAX_TEXT).map(Some),
            Some(Found::Digests(_)) | None => Ok(None),
        }
    }

    fn find(&self, volume: Volume, path: &str) -> Result<FileDigests, String> {
        match self.files.find(volume, path).map_err(|error| error.to_string())? {
            None => Err(format!("{path} is not there")),
            Some(Found::Digests(known)) => Ok(FileDigests {
                size: known.size,
                plain: known.plain,
                image: if known.authenticode.is_empty() {
                    Err(format!("the Authenticode digest of {path} is not known"))
                } else {
                    Ok(known.authenticode)
                },
            }),
            Some(Found::Bytes(source)) => {
                let bytes = read(source.as_ref(), u64::MAX)?;
                let plain = self.banks.iter().map(|bank| bank.hash(&bytes)).collect();
                let image = Err(format!("{path} is not a PE image"));
                Ok(FileDigests { size: Some(source.len()), plain, image })
            }
        }
    }
}

fn read(source: &dyn Source, limit: u64) -> Result<Vec<u8>, String> {
    let len = source.len();
    if len > limit {
        return Err(format!("{len} bytes, at most {limit} are read"));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|error| error.to_string())?];
    source.read_exact_at(0, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}
