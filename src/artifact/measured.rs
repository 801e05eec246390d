//! One measurement that a boot to come will make.

use std::io;

use super::Found;
use super::hashing::{Memory, Recipe};
use super::pe::{Pe, PeError};
use crate::measurement::{Digest, PcrBank, PcrIndex};

/// What will be extended into a PCR, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The PCR.
    pub pcr: PcrIndex,
    /// The digests that are known, at most one a bank.
    pub digests: Vec<Digest>,
    /// What is measured, in words, as [`crate::measurement::EventData`] would say it of the event.
    pub words: String,
}

impl Measured {
    /// The measurement of bytes that are at hand.
    pub fn of_bytes(pcr: PcrIndex, banks: &[PcrBank], bytes: &[u8], words: String) -> Self {
        Self { pcr, digests: banks.iter().map(|bank| bank.hash(bytes)).collect(), words }
    }

    /// The digest for a bank, where it is known.
    pub fn digest(&self, bank: PcrBank) -> Option<&Digest> {
        self.digests.iter().find(|digest| digest.bank() == bank)
    }
}

/// A measurement whose bytes are still to be digested, so that those of a whole boot are digested
/// while each file is read once.
#[derive(Clone)]
pub struct Pending<'a> {
    /// The PCR.
    pub pcr: PcrIndex,
    /// What is measured, in words.
    pub words: String,
    /// The bytes, or what is known of them.
    pub content: Content<'a>,
}

/// The bytes of a measurement.
#[derive(Clone)]
pub enum Content<'a> {
    /// These.
    Recipe(Recipe<'a>),
    /// Unknown, but their digests are known for some banks, or for none.
    Digests(Vec<Digest>),
}

impl<'a> Content<'a> {
    /// All bytes of a file, or the digests that are known of it.
    pub fn of_file(found: &'a Found) -> Self {
        match found {
            Found::Bytes(source) => Self::Recipe(Recipe::whole(source.as_ref())),
            Found::Digests(known) => Self::Digests(known.plain.clone()),
        }
    }

    /// What Authenticode covers of a PE image, or the digests that are known of that.
    ///
    /// # Errors
    /// [`PeError`].
    pub fn of_image(found: &'a Found) -> Result<Self, PeError> {
        match found {
            Found::Bytes(source) => {
                let source = source.as_ref();
                Ok(Self::Recipe(Pe::parse(source)?.authenticode(source)))
            }
            Found::Digests(known) => Ok(Self::Digests(known.authenticode.clone())),
        }
    }
}

impl<'a> Pending<'a> {
    /// The firmware's measurement of a PE image of `len` bytes in the file.
    pub fn image(len: u64, content: Content<'a>) -> Self {
        Self { pcr: PcrIndex::BOOT_LOADER_CODE, words: format!("image, {len} bytes"), content }
    }
}

impl Pending<'_> {
    /// Digests all of them for every bank, each file read once.
    ///
    /// # Errors
    /// Those of [`super::hashing::digest`].
    pub fn measure(pending: &[Self], banks: &[PcrBank]) -> io::Result<Vec<Measured>> {
        Self::measure_with(pending, banks, &Memory::default())
    }

    /// The same, but for what `memory` knows.
    ///
    /// # Errors
    /// Those of [`super::hashing::digest`].
    pub fn measure_with(
        pending: &[Self],
        banks: &[PcrBank],
        memory: &Memory,
    ) -> io::Result<Vec<Measured>> {
        let recipe = |pending: &Self| match &pending.content {
            Content::Recipe(recipe) => recipe.clone(),
            Content::Digests(_) => Recipe::default(),
        };
        let recipes: Vec<Recipe<'_>> = pending.iter().map(recipe).collect();
        let digests = memory.digest(&recipes, banks)?;
        let measured = pending.iter().zip(digests).map(|(pending, digests)| Measured {
            pcr: pending.pcr,
            words: pending.words.clone(),
            digests: match &pending.content {
                Content::Recipe(_) => digests,
                Content::Digests(known) => known.clone(),
            },
        });
        Ok(measured.collect())
    }
}
