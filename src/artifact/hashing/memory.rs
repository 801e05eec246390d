//! Digests that are known already: two boots share files, and several events of one speak of the
//! same bytes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use super::{Piece, Recipe, digest};
use crate::artifact::files::Identity;
use crate::measurement::{Digest, PcrBank};

/// Computes digests, and keeps those of files that can be told apart.
#[derive(Debug, Default)]
pub struct Memory {
    known: RefCell<BTreeMap<Key, Vec<Digest>>>,
}

/// All that the digests of a recipe depend on.
type Key = (Vec<PcrBank>, Vec<KeyPiece>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum KeyPiece {
    Of { file: Identity, start: u64, len: u64 },
    Zeros(u64),
    Bytes(Vec<u8>),
}

impl Memory {
    /// As [`digest`], which is asked only for what is not known yet.
    ///
    /// # Errors
    /// Those of [`digest`].
    pub fn digest(
        &self,
        recipes: &[Recipe<'_>],
        banks: &[PcrBank],
    ) -> io::Result<Vec<Vec<Digest>>> {
        let keys: Vec<Option<Key>> = recipes.iter().map(|recipe| key(recipe, banks)).collect();
        let mut rows: Vec<Option<Vec<Digest>>> =
            keys.iter().map(|key| self.known.borrow().get(key.as_ref()?).cloned()).collect();
        let open = recipes.iter().zip(&rows).filter(|(_, row)| row.is_none());
        let open: Vec<Recipe<'_>> = open.map(|(recipe, _)| recipe.clone()).collect();
        if !open.is_empty() {
            let mut new = digest(&open, banks)?.into_iter();
            for (row, key) in rows.iter_mut().zip(keys).filter(|(row, _)| row.is_none()) {
                *row = new.next();
                if let (Some(row), Some(key)) = (row, key) {
                    self.known.borrow_mut().insert(key, row.clone());
                }
            }
        }
        Ok(rows.into_iter().map(Option::unwrap_or_default).collect())
    }
}

/// `None` where a source has no identity.
fn key(recipe: &Recipe<'_>, banks: &[PcrBank]) -> Option<Key> {
    let pieces = recipe.pieces().iter().map(|piece| {
        Some(match piece {
            Piece::Of { source, start, len } => {
                KeyPiece::Of { file: source.identity()?, start: *start, len: *len }
            }
            Piece::Zeros { len } => KeyPiece::Zeros(*len),
            Piece::Bytes(bytes) => KeyPiece::Bytes(bytes.clone()),
        })
    });
    Some((banks.to_vec(), pieces.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::artifact::Source;

    struct Numbered<'a> {
        file: Option<u64>,
        reads: &'a Cell<usize>,
    }

    impl Source for Numbered<'_> {
        fn len(&self) -> u64 {
            8
        }

        fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            self.reads.set(self.reads.get() + buffer.len());
            let first = self.file.unwrap_or_default() as u8;
            for (byte, at) in buffer.iter_mut().zip(offset..) {
                *byte = first + at as u8;
            }
            Ok(())
        }

        fn identity(&self) -> Option<Identity> {
            let inode = self.file?;
            let zero = (0, 0);
            let within = [0; 32];
            Some(Identity { device: 1, inode, len: 8, modified: zero, changed: zero, within })
        }
    }

    #[test]
    fn the_same_bytes_of_the_same_file_are_read_once() {
        let reads = Cell::new(0);
        let source = |file| Numbered { file, reads: &reads };
        let memory = Memory::default();
        let banks = [PcrBank::Sha256];
        let of = |source: &Numbered<'_>, start, len| {
            let recipe = Recipe::range(source, start, len);
            let rows = memory.digest(&[recipe], &banks).unwrap();
            (rows[0][0], reads.take())
        };
        let (first, again, other) = (source(Some(3)), source(Some(3)), source(Some(4)));
        assert_eq!(of(&first, 0, 8), (PcrBank::Sha256.hash(&[3, 4, 5, 6, 7, 8, 9, 10]), 8));
        assert_eq!(of(&again, 0, 8), (PcrBank::Sha256.hash(&[3, 4, 5, 6, 7, 8, 9, 10]), 0));
        assert_eq!(of(&again, 2, 3), (PcrBank::Sha256.hash(&[5, 6, 7]), 3));
        assert_eq!(of(&other, 2, 3), (PcrBank::Sha256.hash(&[6, 7, 8]), 3));
        for _ in 0..2 {
            assert_eq!(of(&source(None), 2, 1), (PcrBank::Sha256.hash(&[2]), 1));
        }
    }

    #[test]
    fn rows_keep_their_order_and_banks_are_told_apart() {
        let reads = Cell::new(0);
        let source = Numbered { file: Some(1), reads: &reads };
        let memory = Memory::default();
        let recipes = [Recipe::range(&source, 0, 1), Recipe::range(&source, 1, 1)];
        memory.digest(&recipes[1..], &[PcrBank::Sha256]).unwrap();
        let rows = memory.digest(&recipes, &[PcrBank::Sha256]).unwrap();
        assert_eq!(rows, [[PcrBank::Sha256.hash(&[1])], [PcrBank::Sha256.hash(&[2])]]);
        let rows = memory.digest(&recipes, &[PcrBank::Sha1]).unwrap();
        assert_eq!(rows, [[PcrBank::Sha1.hash(&[1])], [PcrBank::Sha1.hash(&[2])]]);
    }
}
