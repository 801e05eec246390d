//! Files that were named one by one: `--set PATH=FILE`.

use std::cell::Cell;
use std::path::PathBuf;

use super::folder::FileSource;
use crate::artifact::{Files, FilesError, Found, KnownDigests, Volume};
use crate::prediction::Spelled;

/// What stands for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedFile {
    /// The bytes of another.
    File(PathBuf),
    /// Digests.
    Digests(KnownDigests),
}

/// Files under the paths by which the boot will find them.
#[derive(Debug, Default)]
pub struct Named {
    files: Vec<(Spelled, NamedFile, Cell<bool>)>,
}

impl Named {
    /// Adds a file; the first of several for the same path counts.
    pub fn add(&mut self, path: Spelled, file: NamedFile) {
        self.files.push((path, file, Cell::new(false)));
    }

    /// The paths that nobody asked for.
    pub fn unused(&self) -> impl Iterator<Item = &Spelled> {
        self.files.iter().filter(|(_, _, used)| !used.get()).map(|(path, _, _)| path)
    }
}

impl Files for Named {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        let mut files = self.files.iter();
        let Some((_, file, used)) = files.find(|(spelled, _, _)| spelled.is_of(volume, path)) else {
            return Ok(None);
        };
        used.set(true);
        match file {
            NamedFile::Digests(known) => Ok(Some(Found::Digests(known.clone()))),
            NamedFile::File(file) => {
                let failed = |error: std::io::Error| FilesError {
                    path: file.display().to_string(),
                    cause: error.to_string(),
                };
                Ok(Some(Found::Bytes(Box::new(FileSource::open(file).map_err(failed)?))))
            }
        }
    }

    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError> {
        let files = self.files.iter();
        let mut names: Vec<String> = files
            .filter_map(|(spelled, _, _)| spelled.name_in(volume, folder).map(str::to_owned))
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }
}
