//! Which events of two boots are the same, and which take each other's place. Both sides may be
//! hostile: work and memory are bounded whatever they hold.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use super::super::pcr::PcrIndex;
use super::note::{Note, Role};

/// Most pairs of events of one PCR that are compared one by one.
const MAX_PAIRS: usize = 1 << 20;

/// An event that is not the same in both boots: another one, gone, or new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// What was expected.
    pub old: Option<&'a Note>,
    /// What was seen.
    pub new: Option<&'a Note>,
}

impl<'a> Change<'a> {
    /// The note that says most.
    pub(super) fn note(&self) -> Option<&'a Note> {
        self.new.filter(|note| note.role != Role::Unknown).or(self.old).or(self.new)
    }

    /// What the event stands for.
    pub(super) fn role(&self) -> Role {
        self.note().map_or(Role::Unknown, |note| note.role)
    }

    /// The PCR.
    pub fn pcr(&self) -> Option<PcrIndex> {
        self.note().map(|note| note.pcr)
    }

    /// Both sides, where both are known.
    pub(super) fn both(&self) -> Option<(&'a Note, &'a Note)> {
        self.old.zip(self.new).filter(|(old, _)| old.role != Role::Unknown)
    }
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |note: Option<&Note>| match note {
            None => "-".to_owned(),
            Some(note) => format!("{} {}", note.short_digest(), note.shown(100)),
        };
        let pcr = self.pcr().map(|pcr| pcr.to_string()).unwrap_or_default();
        write!(f, "  PCR {pcr}: {} => {}", side(self.old), side(self.new))
    }
}

/// Every change between two boots, PCR by PCR, in the order of the events.
pub fn changes<'a>(expected: &'a [Note], seen: &'a [Note]) -> Vec<Change<'a>> {
    // A record keeps four bytes of each digest, a log all of them.
    let lengths = expected.iter().chain(seen).map(|note| note.digest.len());
    let len = lengths.min().unwrap_or_default();
    let mut pcrs = BTreeMap::<PcrIndex, (Vec<&Note>, Vec<&Note>)>::new();
    expected.iter().for_each(|note| pcrs.entry(note.pcr).or_default().0.push(note));
    seen.iter().for_each(|note| pcrs.entry(note.pcr).or_default().1.push(note));
    let mut found = vec![];
    for (old, new) in pcrs.values() {
        let (gone, fresh) = unmatched(old, new, len);
        found.extend(paired(gone, fresh));
    }
    found
}

/// The events of each side that have no counterpart of the same digest in order.
fn unmatched<'a>(
    mut old: &[&'a Note],
    mut new: &[&'a Note],
    len: usize,
) -> (Vec<&'a Note>, Vec<&'a Note>) {
    let same = |a: &Note, b: &Note| a.digest.get(..len) == b.digest.get(..len);
    while let (Some((a, old_rest)), Some((b, new_rest))) = (old.split_first(), new.split_first()) {
        if !same(a, b) {
            break;
        }
        (old, new) = (old_rest, new_rest);
    }
    while let (Some((a, old_rest)), Some((b, new_rest))) = (old.split_last(), new.split_last()) {
        if !same(a, b) {
            break;
        }
        (old, new) = (old_rest, new_rest);
    }
    if old.len().saturating_mul(new.len()) > MAX_PAIRS {
        return unordered(old, new, len);
    }
    // lengths[i][j]: longest common subsequence of old[i..] and new[j..].
    let columns = new.len() + 1;
    let mut lengths = vec![0u32; (old.len() + 1) * columns];
    let at = |lengths: &[u32], i: usize, j: usize| {
        lengths.get(i * columns + j).copied().unwrap_or_default()
    };
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            let best = if same(a, b) {
                at(&lengths, i + 1, j + 1) + 1
            } else {
                at(&lengths, i + 1, j).max(at(&lengths, i, j + 1))
            };
            if let Some(cell) = lengths.get_mut(i * columns + j) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    let (mut gone, mut fresh) = (vec![], vec![]);
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if same(a, b) => (i, j) = (i + 1, j + 1),
            (Some(a), b) if b.is_none() || at(&lengths, i + 1, j) >= at(&lengths, i, j + 1) => {
                gone.push(*a);
                i += 1;
            }
            (_, Some(b)) => {
                fresh.push(*b);
                j += 1;
            }
            _ => break,
        }
    }
    (gone, fresh)
}

/// As [`unmatched`], for more events than can be compared one by one: order is not looked at.
fn unordered<'a>(old: &[&'a Note], new: &[&'a Note], len: usize) -> (Vec<&'a Note>, Vec<&'a Note>) {
    let start = |note: &'a Note| note.digest.get(..len).unwrap_or_default();
    let beyond = |notes: &[&'a Note], others: &[&'a Note]| -> Vec<&'a Note> {
        let mut counts = HashMap::<&[u8], usize>::new();
        others.iter().for_each(|note| *counts.entry(start(note)).or_default() += 1);
        let left = notes.iter().filter(|note| match counts.get_mut(start(note)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        });
        left.copied().collect()
    };
    (beyond(old, new), beyond(new, old))
}

/// Puts what took each other's place together: first the same kind and name, then whatever took the
/// place of an event of which only the digest is known.
fn paired<'a>(gone: Vec<&'a Note>, fresh: Vec<&'a Note>) -> Vec<Change<'a>> {
    let mut waiting = HashMap::<(Role, &str), VecDeque<usize>>::new();
    for (index, note) in gone.iter().enumerate() {
        waiting.entry((note.role, note.key())).or_default().push_back(index);
    }
    let mut partners = vec![None; gone.len()];
    let mut alone = vec![];
    for note in fresh {
        let mut take = |key| waiting.get_mut(&key).and_then(VecDeque::pop_front);
        let found = take((note.role, note.key())).or_else(|| take((Role::Unknown, "")));
        match found.and_then(|index| partners.get_mut(index)) {
            Some(partner) => *partner = Some(note),
            None => alone.push(Change { old: None, new: Some(note) }),
        }
    }
    let pairs = gone.into_iter().zip(partners);
    let pairs = pairs.map(|(old, new)| Change { old: Some(old), new });
    pairs.chain(alone).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn notes(digests: &[u8]) -> Vec<Note> {
        let pcr = PcrIndex::new(4).unwrap();
        digests.iter().map(|digest| Note::unknown(pcr, &[*digest; 32])).collect()
    }

    fn told(found: &[Change<'_>]) -> (Vec<u8>, Vec<u8>) {
        let first = |note: Option<&Note>| note.map(|note| note.digest[0]);
        let old = found.iter().filter_map(|change| first(change.old)).collect();
        (old, found.iter().filter_map(|change| first(change.new)).collect())
    }

    #[test]
    fn insertions_and_removals_do_not_shift_the_rest() {
        let (old, new) = (notes(&[1, 2, 3, 4, 5]), notes(&[1, 9, 3, 5, 6]));
        assert_eq!(told(&changes(&old, &new)), (vec![2, 4], vec![9, 6]));
        assert_eq!(changes(&old, &old), []);
        assert_eq!(told(&changes(&[], &new)).1.len(), 5);
    }

    #[test]
    fn a_longer_digest_equals_its_own_start() {
        let mut short = notes(&[1, 2]);
        short.iter_mut().for_each(|note| note.digest.truncate(4));
        assert_eq!(changes(&short, &notes(&[1, 2])), []);
        assert_eq!(changes(&short, &notes(&[1, 3])).len(), 1);
    }

    proptest! {
        #[test]
        fn both_ways_of_comparing_account_for_every_event(old in prop::collection::vec(0u8..6, 0..40),
                                                         new in prop::collection::vec(0u8..6, 0..40)) {
            let (old, new) = (notes(&old), notes(&new));
            let (old, new) = (old.iter().collect::<Vec<_>>(), new.iter().collect::<Vec<_>>());
            let digest = |note: &&Note| note.digest[0];
            for (gone, fresh) in [unmatched(&old, &new, 32), unordered(&old, &new, 32)] {
                let rest = |all: &[&Note], left: &[&Note]| {
                    let mut all: Vec<u8> = all.iter().map(digest).collect();
                    for note in left {
                        let at = all.iter().position(|found| *found == digest(note)).unwrap();
                        all.swap_remove(at);
                    }
                    all.sort_unstable();
                    all
                };
                prop_assert_eq!(rest(&old, &gone), rest(&new, &fresh));
            }
        }
    }
}
