//! Measurements to come, as the models of the loaders give them, and how they are told apart from
//! those of the log.

use super::account::{Account, Fate};
use crate::measurement::{Digest, Event, PcrIndex};

/// One measurement to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) pcr: PcrIndex,
    pub(super) what: String,
    pub(super) digests: Result<Vec<Digest>, String>,
    /// The artifact it is measured from; none where only the log speaks of it.
    pub(super) source: Option<String>,
}

/// A PCR number that is written in the code.
pub(super) fn pcr(number: u8) -> PcrIndex {
    PcrIndex::new(number.into()).unwrap_or(PcrIndex::LATCH)
}

impl Planned {
    /// An event of the log, as it is.
    pub(super) fn carried(event: &Event, pcr: PcrIndex) -> Self {
        Self {
            pcr,
            what: event.data().to_string(),
            digests: Ok(event.known_digests().collect()),
            source: None,
        }
    }

    /// The account of this measurement in the place of `old`.
    pub(super) fn against(self, old: Option<&Event>) -> Account {
        let Self { pcr, what, digests, source } = self;
        let before: Vec<Digest> =
            old.map(|event| event.known_digests().collect()).unwrap_or_default();
        let fate = match (old, &digests) {
            (None, _) => Fate::New,
            (Some(event), Ok(after)) if agrees(event, after) => match source {
                Some(_) => Fate::Remeasured,
                None => Fate::CarriedOver,
            },
            (Some(_), _) => Fate::Replaced,
        };
        Account { pcr, what, fate, old: before, new: digests, source }
    }

    /// The account of an event that the boot to come does not make.
    pub(super) fn gone(event: &Event, pcr: PcrIndex) -> Account {
        Account {
            pcr,
            what: event.data().to_string(),
            fate: Fate::Gone,
            old: event.known_digests().collect(),
            new: Ok(Vec::new()),
            source: None,
        }
    }
}

/// Whether every digest that both know is the same, and there is one.
pub(super) fn agrees(event: &Event, digests: &[Digest]) -> bool {
    let common = digests.iter().filter_map(|new| Some((new, event.digest(new.bank())?)));
    let mut count = 0;
    let same = common.inspect(|_| count += 1).all(|(new, old)| *new == old);
    same && count > 0
}

/// Most pairs of old and new measurements that are compared to tell which is which.
const MAX_PAIRS: usize = 4 << 20;

/// Pairs what the boot to come measures with what the log has in the same PCRs. The order of `new`
/// is kept, which is all that the PCR values depend on; the pairing only says what became of what.
pub(super) fn align(old: &[(&Event, PcrIndex)], new: Vec<Planned>) -> Vec<Account> {
    let pairs = pair(old, &new);
    let mut used = vec![false; old.len()];
    let mut accounts: Vec<Account> = Vec::new();
    for (planned, partner) in new.into_iter().zip(pairs) {
        let event = partner.and_then(|index| {
            if let Some(flag) = used.get_mut(index) {
                *flag = true;
            }
            old.get(index).map(|(event, _)| *event)
        });
        accounts.push(planned.against(event));
    }
    let left = old.iter().zip(used).filter(|(_, used)| !used);
    accounts.extend(left.map(|((event, pcr), _)| Planned::gone(event, *pcr)));
    accounts
}

/// For each new measurement the old one that it takes the place of: first the longest common
/// subsequence of each PCR, then, between its members, those of the same name in order.
fn pair(old: &[(&Event, PcrIndex)], new: &[Planned]) -> Vec<Option<usize>> {
    let mut partners = vec![None; new.len()];
    for pcr in PcrIndex::all() {
        let old: Vec<(usize, &Event)> = old
            .iter()
            .enumerate()
            .filter(|(_, (_, found))| *found == pcr)
            .map(|(index, (event, _))| (index, *event))
            .collect();
        let new: Vec<(usize, &Planned)> =
            new.iter().enumerate().filter(|(_, planned)| planned.pcr == pcr).collect();
        let same = |(_, event): &(usize, &Event), (_, planned): &(usize, &Planned)| {
            planned.digests.as_ref().is_ok_and(|digests| agrees(event, digests))
        };
        let mut anchors = common_subsequence(&old, &new, same);
        anchors.push((old.len(), new.len()));
        let (mut from_old, mut from_new) = (0, 0);
        for (to_old, to_new) in anchors {
            let mut olds = old.get(from_old..to_old).unwrap_or_default().iter();
            for (index, planned) in new.get(from_new..to_new).unwrap_or_default() {
                let found = olds.clone().position(|(_, event)| is_alike(event, planned));
                if let Some(skipped) = found {
                    let partner = olds.nth(skipped).map(|(index, _)| *index);
                    set(&mut partners, *index, partner);
                }
            }
            if let (Some((partner, _)), Some((index, _))) = (old.get(to_old), new.get(to_new)) {
                set(&mut partners, *index, Some(*partner));
            }
            (from_old, from_new) = (to_old + 1, to_new + 1);
        }
    }
    partners
}

fn set(partners: &mut [Option<usize>], index: usize, partner: Option<usize>) {
    if let Some(slot) = partners.get_mut(index) {
        *slot = partner;
    }
}

/// Whether a measurement is the successor of an event: its first word is the same.
fn is_alike(event: &Event, planned: &Planned) -> bool {
    let kind = |text: &str| {
        let mut words = text.split(' ');
        // `image, 7 bytes` where a prediction has no device path for it.
        let first = words.next().unwrap_or_default().trim_end_matches(',').to_owned();
        // `GRUB ran linux`, `GRUB read`: the command tells them apart, its arguments do not.
        if first == "GRUB" {
            words.take(2).fold(first, |all, word| all + " " + word)
        } else {
            first
        }
    };
    kind(&event.data().to_string()) == kind(&planned.what)
}

fn common_subsequence<A, B>(
    old: &[A],
    new: &[B],
    same: impl Fn(&A, &B) -> bool,
) -> Vec<(usize, usize)> {
    let start = old.iter().zip(new).take_while(|(a, b)| same(a, b)).count();
    let (old_rest, new_rest) =
        (old.get(start..).unwrap_or_default(), new.get(start..).unwrap_or_default());
    let mut pairs: Vec<(usize, usize)> = (0..start).map(|index| (index, index)).collect();
    let width = new_rest.len() + 1;
    if (old_rest.len() + 1).saturating_mul(width) > MAX_PAIRS {
        return pairs;
    }
    // lengths[i * width + j]: of the longest common subsequence of what follows i and j.
    let mut lengths = vec![0_u32; (old_rest.len() + 1) * width];
    let at = |lengths: &[u32], i: usize, j: usize| lengths.get(i * width + j).copied().unwrap_or(0);
    for (i, a) in old_rest.iter().enumerate().rev() {
        for (j, b) in new_rest.iter().enumerate().rev() {
            let length = if same(a, b) {
                at(&lengths, i + 1, j + 1) + 1
            } else {
                at(&lengths, i + 1, j).max(at(&lengths, i, j + 1))
            };
            if let Some(slot) = lengths.get_mut(i * width + j) {
                *slot = length;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    while let (Some(a), Some(b)) = (old_rest.get(i), new_rest.get(j)) {
        if same(a, b) {
            pairs.push((start + i, start + j));
            (i, j) = (i + 1, j + 1);
        } else if at(&lengths, i + 1, j) >= at(&lengths, i, j + 1) {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}
