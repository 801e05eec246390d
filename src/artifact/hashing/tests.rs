use std::cell::Cell;

use proptest::prelude::*;

use super::*;

/// Bytes that count how many of them were read.
struct Counted {
    bytes: Vec<u8>,
    read: Cell<u64>,
}

impl Counted {
    fn new(len: usize) -> Self {
        let bytes = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
        Self { bytes, read: Cell::new(0) }
    }
}

impl Source for Counted {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read.set(self.read.get() + buffer.len() as u64);
        let from = usize::try_from(offset).unwrap();
        let bytes =
            self.bytes.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

fn concatenation(recipe: &Recipe<'_>) -> Vec<u8> {
    let mut all = vec![];
    for piece in recipe.pieces() {
        match piece {
            Piece::Bytes(bytes) => all.extend(bytes),
            Piece::Zeros { len } => all.resize(all.len() + *len as usize, 0),
            Piece::Of { source, start, len } => {
                let mut bytes = vec![0; *len as usize];
                source.read_exact_at(*start, &mut bytes).unwrap();
                all.extend(bytes);
            }
        }
    }
    all
}

fn check(recipes: &[Recipe<'_>], banks: &[PcrBank]) {
    let digests = digest(recipes, banks).unwrap();
    assert_eq!(digests.len(), recipes.len());
    for (recipe, digests) in recipes.iter().zip(&digests) {
        let bytes = concatenation(recipe);
        let expected: Vec<Digest> = banks.iter().map(|bank| bank.hash(&bytes)).collect();
        assert_eq!(*digests, expected);
    }
}

#[test]
fn many_digests_of_a_source_read_it_once() {
    let file = Counted::new(5 << 20);
    let mut padded = Recipe::range(&file, 100, (3 << 20) + 1);
    padded.pad4();
    padded.append(Recipe::bytes("trailer"));
    let mut with_a_hole = Recipe::range(&file, 0, 216);
    with_a_hole.append(Recipe::range(&file, 220, (5 << 20) - 220));
    let recipes = [
        Recipe::whole(&file),
        with_a_hole,
        Recipe::range(&file, 100, (3 << 20) + 1),
        padded,
        Recipe::range(&file, 4 << 20, 77),
        Recipe::default(),
        Recipe::bytes("no file"),
    ];
    digest(&recipes, &[PcrBank::Sha256]).unwrap();
    assert_eq!(file.read.get(), 5 << 20);
    check(&recipes, &PcrBank::ALL);
}

#[test]
fn sources_and_orders_mix() {
    let (one, two) = (Counted::new(3 << 20), Counted::new(700_001));
    let mut mixed = Recipe::range(&two, 5, 600_000);
    mixed.append(Recipe::range(&one, 2 << 20, 1 << 20));
    mixed.append(Recipe::range(&one, 0, 1 << 20));
    mixed.push(Piece::Zeros { len: 10_000 });
    mixed.append(Recipe::whole(&two));
    check(&[mixed, Recipe::whole(&one), Recipe::whole(&two)], &[PcrBank::Sha1, PcrBank::Sha384]);
}

#[test]
fn a_short_source_is_an_error() {
    let file = Counted::new(3 << 20);
    let recipes = [Recipe::whole(&file), Recipe::range(&file, 1 << 20, 4 << 20)];
    let error = digest(&recipes, &[PcrBank::Sha256]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_recipes_give_the_digests_of_their_bytes(
        shape in prop::collection::vec(
            prop::collection::vec((0_u8..4, 0_u64..900_000, 0_u64..400_000), 0..5), 0..5),
    ) {
        let files = [Counted::new(1_300_000), Counted::new(1_300_000)];
        let recipes: Vec<Recipe<'_>> = shape.iter().map(|pieces| {
            let mut recipe = Recipe::default();
            for (kind, start, len) in pieces {
                recipe.push(match kind {
                    0 => Piece::Zeros { len: len % 9000 },
                    1 => Piece::Bytes(vec![7; (len % 9000) as usize]),
                    n => Piece::Of { source: &files[*n as usize % 2], start: *start, len: *len },
                });
            }
            recipe
        }).collect();
        check(&recipes, &[PcrBank::Sha256]);
    }
}
