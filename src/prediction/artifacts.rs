//! Digests of files, each file read once however often it is asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::layers::DigestTable;
use super::plan::{Planned, pcr};
use crate::artifact::{Files, Found, KnownDigests, Source, Volume};
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
    /// Whether only the log of the boot that ran speaks of it.
    pub(super) from_log: bool,
}

/// The files of one boot, as their digests.
pub(super) struct Artifacts<'a> {
    files: &'a dyn Files,
    evidence: &'a DigestTable,
    banks: Vec<PcrBank>,
    known: RefCell<BTreeMap<(Volume, String), Rc<Result<FileDigests, String>>>>,
}

impl<'a> Artifacts<'a> {
    /// The files, and what a log proves of those that are not among them.
    pub(super) fn new(
        files: &'a dyn Files,
        evidence: &'a DigestTable,
        banks: Vec<PcrBank>,
    ) -> Self {
        Self { files, evidence, banks, known: RefCell::default() }
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

    /// The measurement of a PE image into PCR 4.
    pub(super) fn image_measurement(&self, volume: Volume, path: &str) -> Planned {
        let found = self.digests(volume, path);
        let (digests, from_log) = match found.as_ref() {
            Ok(known) => (known.image.clone(), known.from_log),
            Err(why) => (Err(why.clone()), false),
        };
        let source = (!from_log).then(|| path.to_owned());
        Planned { pcr: pcr(4), what: format!("image {path}"), digests, source }
    }

    /// The digests of files one after the other.
    pub(super) fn joined(&self, volume: Volume, paths: &[String]) -> Result<FileDigests, String> {
        if let [path] = paths {
            let found = self.digests(volume, path);
            return match found.as_ref() {
                Ok(known) if known.plain.is_empty() => {
                    Err(format!("the digest of {path} is not known"))
                }
                other => other.clone(),
            };
        }
        Err("several initrds".to_owned())
    }

    /// The bytes of a small file; `None` where there is no such file or only its digest is known.
    pub(super) fn bytes(&self, volume: Volume, path: &str) -> Result<Option<Vec<u8>>, String> {
        match self.files.find(volume, path).map_err(|error| error.to_string())? {
            Some(Found::Bytes(source)) => read(source.as_ref(), MAX_TEXT).map(Some),
            Some(Found::Digests(_)) | None => Ok(None),
        }
    }

    fn find(&self, volume: Volume, path: &str) -> Result<FileDigests, String> {
        let logged = self.evidence.get(volume, path);
        match self.files.find(volume, path).map_err(|error| error.to_string())? {
            Some(Found::Bytes(source)) => self.read_digests(source.as_ref(), path),
            Some(Found::Digests(known)) => Ok(from_known(with_evidence(known, logged), path, false)),
            None => match logged {
                Some(known) => Ok(from_known(known.clone(), path, true)),
                None => Err(format!("{path} is not there")),
            },
        }
    }

    fn read_digests(&self, source: &dyn Source, path: &str) -> Result<FileDigests, String> {
        let bytes = read(source, u64::MAX)?;
        let plain = self.banks.iter().map(|bank| bank.hash(&bytes)).collect();
        let image = Err(format!("{path} is not a PE image"));
        Ok(FileDigests { size: Some(source.len()), plain, image, from_log: false })
    }
}

fn from_known(known: KnownDigests, path: &str, from_log: bool) -> FileDigests {
    let image = if known.authenticode.is_empty() {
        Err(format!("the Authenticode digest of {path} is not known"))
    } else {
        Ok(known.authenticode)
    };
    FileDigests { size: known.size, plain: known.plain, image, from_log }
}

/// Known digests, and those that the log has of the same bytes.
fn with_evidence(mut known: KnownDigests, logged: Option<&KnownDigests>) -> KnownDigests {
    let Some(logged) = logged else { return known };
    let same = |a: &[Digest], b: &[Digest]| {
        let mut common = a.iter().filter_map(|a| Some((a, b.iter().find(|b| b.bank() == a.bank())?)));
        common.next().is_some_and(|(a, b)| a == b) && common.all(|(a, b)| a == b)
    };
    if same(&known.plain, &logged.plain) || same(&known.authenticode, &logged.authenticode) {
        let add = |known: &mut Vec<Digest>, logged: &[Digest]| {
            let new = logged.iter().filter(|new| known.iter().all(|old| old.bank() != new.bank()));
            let new: Vec<Digest> = new.copied().collect();
            known.extend(new);
        };
        // The same plain digest means the same bytes; the same Authenticode digest does not.
        if same(&known.plain, &logged.plain) {
            add(&mut known.plain, &logged.plain);
            add(&mut known.authenticode, &logged.authenticode);
        } else {
            add(&mut known.authenticode, &logged.authenticode);
        }
    }
    known
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
