//! File trees on top of each other, and files of which only digests are known.

use super::spelled::Spelled;
use crate::artifact::{Files, FilesError, Found, KnownDigests, Volume};

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
