//! File trees on top of each other, and files of which only digests are known.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use super::spelled::Spelled;
use crate::artifact::hashing::{Recipe, digest};
use crate::artifact::{Files, FilesError, Found, KnownDigests, Source, Volume};

/// No files at all.
#[derive(Debug, Clone, Copy)]
pub struct NoFiles;

impl Files for NoFiles {
    fn find(&self, _: Volume, _: &str) -> Result<Option<Found>, FilesError> {
        Ok(None)
    }

    fn names(&self, _: Volume, _: &str) -> Result<Vec<String>, FilesError> {
        Ok(Vec::new())
    }
}

/// Trees on top of each other: the first that has a file gives it.
#[derive(Default)]
pub struct Layers<'a>(pub Vec<&'a dyn Files>);

impl Files for Layers<'_> {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        for layer in &self.0 {
            if let Some(found) = layer.find(volume, path)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError> {
        let mut names = Vec::new();
        for layer in &self.0 {
            names.extend(layer.names(volume, folder)?);
        }
        names.sort();
        match volume {
            Volume::Esp => names.dedup_by(|a, b| a.eq_ignore_ascii_case(b)),
            Volume::Boot => names.dedup(),
        }
        Ok(names)
    }
}

/// Files that may be known by digests alone, given their bytes where a tree has the very same.
pub struct Filled<'a> {
    files: &'a dyn Files,
    bytes: &'a dyn Files,
    same: RefCell<BTreeMap<(Volume, String), bool>>,
}

impl<'a> Filled<'a> {
    /// `files`, with the bytes that `bytes` has of them.
    pub fn new(files: &'a dyn Files, bytes: &'a dyn Files) -> Self {
        Self { files, bytes, same: RefCell::default() }
    }

    /// Whether the bytes are those that the digests are of.
    fn is_same(&self, key: (Volume, String), known: &KnownDigests, source: &dyn Source) -> bool {
        let [first, ..] = known.plain.as_slice() else { return false };
        if known.size.is_some_and(|size| size != source.len()) {
            return false;
        }
        let compare = || {
            let rows = digest(&[Recipe::whole(source)], &[first.bank()]);
            rows.is_ok_and(|rows| rows.iter().flatten().eq([first]))
        };
        *self.same.borrow_mut().entry(key).or_insert_with(compare)
    }
}

impl Files for Filled<'_> {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        let found = self.files.find(volume, path)?;
        if let Some(Found::Digests(known)) = &found
            && let Some(Found::Bytes(source)) = self.bytes.find(volume, path)?
            && self.is_same((volume, path.to_owned()), known, source.as_ref())
        {
            return Ok(Some(Found::Bytes(source)));
        }
        Ok(found)
    }

    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError> {
        self.files.names(volume, folder)
    }
}

/// Files known by their digests, in any spelling of their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DigestTable {
    files: Vec<(Spelled, KnownDigests)>,
    listed: bool,
}

impl DigestTable {
    /// A table of files that are there: folders list them.
    pub fn listed(files: impl IntoIterator<Item = (Spelled, KnownDigests)>) -> Self {
        Self { files: files.into_iter().collect(), listed: true }
    }

    /// A table of files that were there: no folder lists them.
    pub fn unlisted(files: impl IntoIterator<Item = (Spelled, KnownDigests)>) -> Self {
        Self { files: files.into_iter().collect(), listed: false }
    }

    /// The paths, absolute.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.files.iter().map(|(path, _)| path.path())
    }

    /// What is known of the file at `path`.
    pub fn get(&self, volume: Volume, path: &str) -> Option<&KnownDigests> {
        let mut files = self.files.iter();
        files.find(|(spelled, _)| spelled.is_of(volume, path)).map(|(_, known)| known)
    }
}

impl Files for DigestTable {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        Ok(self.get(volume, path).map(|known| Found::Digests(known.clone())))
    }

    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError> {
        let files = self.files.iter().filter(|_| self.listed);
        let mut names: Vec<String> = files
            .filter_map(|(spelled, _)| spelled.name_in(volume, folder).map(str::to_owned))
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }
}

/// Files that a boot rewrites, with what they hold then.
#[derive(Debug, Clone, Default)]
pub struct Overwritten(Vec<(Volume, String, Vec<u8>)>);

impl Overwritten {
    /// Files by volume and path.
    pub fn new(files: impl IntoIterator<Item = (Volume, String, Vec<u8>)>) -> Self {
        Self(files.into_iter().collect())
    }
}

impl Files for Overwritten {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        let path = Spelled::parse(path);
        let mut files = self.0.iter();
        let found = files.find(|(on, own, _)| *on == volume && path.is_of(volume, own));
        Ok(found.map(|(_, _, bytes)| Found::Bytes(Box::new(InMemory(bytes.clone())))))
    }

    fn names(&self, _: Volume, _: &str) -> Result<Vec<String>, FilesError> {
        // They were there before.
        Ok(Vec::new())
    }
}

/// Bytes that lie in no file.
pub struct InMemory(pub Vec<u8>);

impl Source for InMemory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let end = start.and_then(|start| start.checked_add(buffer.len()));
        let bytes = start.zip(end).and_then(|(start, end)| self.0.get(start..end));
        let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}
