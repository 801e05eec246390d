//! Digests while reading: each source is read once, in chunks, however many digests want its bytes.

mod job;
mod memory;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::Source;
use crate::measurement::{Digest, PcrBank};
use job::{Jobs, Part};
pub use memory::Memory;

/// Bytes that are read at a time.
const CHUNK: u64 = 256 << 10;
/// Chunks that wait for the second thread: with [`CHUNK`], the bound of memory.
const WAITING: usize = 8;
/// Bytes below which a second thread costs more than it gains.
const WORTH_A_THREAD: u64 = 1 << 20;

/// A run of bytes.
#[derive(Clone)]
pub enum Piece<'a> {
    /// From a source.
    Of {
        /// The source.
        source: &'a dyn Source,
        /// Where the run begins.
        start: u64,
        /// Its bytes.
        len: u64,
    },
    /// Zeros.
    Zeros {
        /// Their number.
        len: u64,
    },
    /// These.
    Bytes(Vec<u8>),
}

impl Piece<'_> {
    /// Bytes in it.
    pub fn len(&self) -> u64 {
        match self {
            Self::Of { len, .. } | Self::Zeros { len } => *len,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one digest covers: the concatenation of pieces.
#[derive(Clone, Default)]
pub struct Recipe<'a> {
    pieces: Vec<Piece<'a>>,
}

impl<'a> Recipe<'a> {
    /// Of all bytes of a source.
    pub fn whole(source: &'a dyn Source) -> Self {
        Self::range(source, 0, source.len())
    }

    /// Of some bytes of a source.
    pub fn range(source: &'a dyn Source, start: u64, len: u64) -> Self {
        Self { pieces: vec![Piece::Of { source, start, len }] }
    }

    /// Of these bytes.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self { pieces: vec![Piece::Bytes(bytes.into())] }
    }

    /// Adds a piece at the end.
    pub fn push(&mut self, piece: Piece<'a>) {
        self.pieces.push(piece);
    }

    /// Adds the pieces of another recipe.
    pub fn append(&mut self, other: Self) {
        self.pieces.extend(other.pieces);
    }

    /// Adds zeros up to the next multiple of four.
    pub fn pad4(&mut self) {
        let len = self.len().wrapping_neg() % 4;
        self.pieces.push(Piece::Zeros { len });
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.len()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> &[Piece<'a>] {
        &self.pieces
    }
}

/// The digests of every recipe: one row for each, in it one digest for each bank.
///
/// Every source is read once from its first to its last wanted byte, unless a recipe wants its bytes
/// in another order. A recipe that begins with all of another one goes on from the other's digest.
/// Large work is shared by two threads.
///
/// # Errors
/// Those of [`Source::read_exact_at`].
pub fn digest(recipes: &[Recipe<'_>], banks: &[PcrBank]) -> io::Result<Vec<Vec<Digest>>> {
    let mut sources: Vec<&dyn Source> = vec![];
    let parts: Vec<Vec<Part>> = recipes.iter().map(|recipe| parts(recipe, &mut sources)).collect();
    let reading = Jobs::planning(&parts);
    let (mut mine, mut others) = Jobs::digesting(&parts, banks);
    if others.work() < WORTH_A_THREAD {
        mine.extend(others);
        read(&sources, reading, |source, at, chunk| mine.feed(source, at, chunk))?;
        return Ok(rows(&mine.finish(), recipes.len(), banks));
    }
    let digests = thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<(usize, u64, Arc<Vec<u8>>)>(WAITING);
        let helper = thread::Builder::new().spawn_scoped(scope, move || {
            for (source, at, chunk) in receiver {
                others.feed(source, at, &chunk);
            }
            others.finish()
        })?;
        let outcome = read(&sources, reading, |source, at, chunk| {
            // Fails only if the helper ended, which joining it tells.
            let _ = sender.send((source, at, Arc::clone(chunk)));
            mine.feed(source, at, chunk);
        });
        drop(sender);
        let helped = helper.join().map_err(|_| io::Error::other("a digesting thread ended"))?;
        outcome.map(|()| [mine.finish(), helped].concat())
    })?;
    Ok(rows(&digests, recipes.len(), banks))
}

/// Reads what is wanted, and hands on every chunk with its source and place.
fn read(
    sources: &[&dyn Source],
    mut wanted: Jobs,
    mut hand_on: impl FnMut(usize, u64, &Arc<Vec<u8>>),
) -> io::Result<()> {
    // One for each chunk that waits, one that the helper digests, one to read into.
    let mut buffers: [Arc<Vec<u8>>; WAITING + 2] = Default::default();
    let mut turn = 0..;
    while let Some((number, mut from)) = wanted.next_pass() {
        let source = sources.get(number).ok_or(io::ErrorKind::NotFound)?;
        while let Some((at, len)) = wanted.next_read(number, from, CHUNK) {
            let slot = turn.next().unwrap_or(0) % buffers.len();
            let buffer = buffers.get_mut(slot).ok_or(io::ErrorKind::NotFound)?;
            if Arc::get_mut(buffer).is_none() {
                *buffer = Arc::default();
            }
            if let Some(bytes) = Arc::get_mut(buffer) {
                bytes.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
                source.read_exact_at(at, bytes)?;
            }
            hand_on(number, at, buffer);
            wanted.feed(number, at, buffer);
            from = at.saturating_add(len);
        }
    }
    Ok(())
}

fn parts<'a>(recipe: &Recipe<'a>, sources: &mut Vec<&'a dyn Source>) -> Vec<Part> {
    let used = recipe.pieces.iter().filter(|piece| !piece.is_empty());
    used.map(|piece| match piece {
        Piece::Zeros { len } => Part::Zeros(*len),
        Piece::Bytes(bytes) => Part::Bytes(bytes.as_slice().into()),
        Piece::Of { source, start, len } => {
            let known = sources.iter().position(|known| std::ptr::addr_eq(*known, *source));
            let number = known.unwrap_or_else(|| {
                sources.push(*source);
                sources.len() - 1
            });
            Part::Read { source: number, start: *start, end: start.saturating_add(*len) }
        }
    })
    .collect()
}

fn rows(digests: &[(usize, Digest)], recipes: usize, banks: &[PcrBank]) -> Vec<Vec<Digest>> {
    let of = |recipe: usize, bank: &PcrBank| {
        digests.iter().find(|(of, digest)| *of == recipe && digest.bank() == *bank)
    };
    (0..recipes)
        .map(|recipe| banks.iter().filter_map(|bank| of(recipe, bank)).map(|(_, d)| *d).collect())
        .collect()
}

#[cfg(test)]
mod tests;
