//! A machine's own words of the command line in GRUB's environment block, where its disk is else a
//! copy of the template's.

use std::cell::RefCell;

use crate::artifact::grub::EnvironmentBlock;
use crate::artifact::{Files, FilesError, Found, Volume};
use crate::measurement::diff::Note;
use crate::prediction::InMemory;
use crate::reseal::CommandLine;

/// Where GRUB looks for its environment block: `$prefix/grubenv`.
const BLOCK: &str = "/grubenv";

/// The files of a disk, with words in a variable of its environment blocks as `grub-editenv` sets it.
pub(super) struct OwnWords<'a> {
    files: &'a dyn Files,
    variable: &'a str,
    words: &'a str,
    /// A loader goes on without a block that it cannot read.
    refused: RefCell<Option<FilesError>>,
}

impl<'a> OwnWords<'a> {
    pub(super) fn new(files: &'a dyn Files, variable: &'a str, words: &'a str) -> Self {
        Self { files, variable, words, refused: RefCell::default() }
    }

    /// The block that could not be given the words, once files were looked for.
    pub(super) fn refused(&self) -> Option<FilesError> {
        self.refused.borrow().clone()
    }

    /// Whether the kernel is given all of the words, one after the other.
    pub(super) fn are_given(&self, notes: &[Note]) -> bool {
        let CommandLine::Text(_, line) = CommandLine::of(notes) else { return false };
        let [line, words] = [line, self.words]
            .map(|text| text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>());
        words.is_empty() || line.windows(words.len()).any(|there| there == words)
    }

    fn edited(&self, bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
        let block = EnvironmentBlock::parse(bytes);
        let mut block = block.ok_or("it is no environment block of GRUB")?;
        match block.set(self.variable, self.words) {
            true => Ok(block.as_bytes().to_vec()),
            false => Err("it has no room for a machine's own words"),
        }
    }
}

impl Files for OwnWords<'_> {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        let found = self.files.find(volume, path)?;
        let Some(Found::Bytes(source)) = &found else { return Ok(found) };
        if !path.ends_with(BLOCK) {
            return Ok(found);
        }
        let refused = |cause: String| {
            let error = FilesError { path: path.to_owned(), cause };
            *self.refused.borrow_mut() = Some(error.clone());
            error
        };
        let len = Some(source.len()).filter(|len| *len <= EnvironmentBlock::MAX_LEN);
        let len = len.and_then(|len| usize::try_from(len).ok());
        let mut bytes = vec![0; len.ok_or_else(|| refused("it is too long".to_owned()))?];
        source.read_exact_at(0, &mut bytes).map_err(|error| refused(error.to_string()))?;
        let edited = self.edited(&bytes).map_err(|cause| refused(cause.to_owned()))?;
        Ok(Some(Found::Bytes(Box::new(InMemory(edited)))))
    }

    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError> {
        self.files.names(volume, folder)
    }
}
