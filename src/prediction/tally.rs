//! From accounts to PCR values.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::account::{Account, Fate};
use crate::measurement::replay::pcr0_start;
use crate::measurement::{Digest, EventLog, PcrBank, PcrIndex, PcrValues};

/// The PCRs that are predicted: all that firmware, loader, kernel and initrd extend. PCR 10 is the
/// kernel's own, 16 and above are no evidence.
pub const PREDICTED_PCRS: [u8; 15] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15];

/// A PCR whose value cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unpredictable {
    /// The PCR.
    pub pcr: PcrIndex,
    /// The event that cannot be told.
    pub event: String,
    /// Why not.
    pub why: String,
}

/// The values that `events` give, bank by bank, and the PCRs that they leave open. `known` are
/// PCRs that are open for another reason.
pub(super) fn tally(
    log: &EventLog,
    events: &[Account],
    mut open: Vec<Unpredictable>,
) -> (BTreeMap<PcrBank, PcrValues>, Vec<Unpredictable>) {
    for account in events {
        if let Err(why) = &account.new {
            let (pcr, event, why) = (account.pcr, account.what.clone(), why.clone());
            open.push(Unpredictable { pcr, event, why });
        }
    }
    let predicted: BTreeSet<PcrIndex> =
        PREDICTED_PCRS.iter().filter_map(|pcr| PcrIndex::new((*pcr).into()).ok()).collect();
    open.retain(|unpredictable| predicted.contains(&unpredictable.pcr));
    // The first event of each reason says enough.
    let mut known = BTreeSet::new();
    open.retain(|found| known.insert((found.pcr, found.why.clone())));
    open.sort_by_key(|unpredictable| unpredictable.pcr);
    let mut banks = BTreeMap::new();
    for bank in log.banks() {
        banks.insert(bank, tally_bank(log, events, bank, &predicted, &open));
    }
    // A PCR that no bank can tell is open too.
    for pcr in predicted {
        let told = banks.values().any(|values| values.get(pcr).is_some());
        if !told && open.iter().all(|unpredictable| unpredictable.pcr != pcr) {
            let of_pcr = events.iter().filter(|account| account.pcr == pcr);
            let mut lacking = of_pcr.filter(|account| account.fate != Fate::Gone).filter(|account| {
                let known = account.new.as_ref().is_ok_and(|new| {
                    log.banks().iter().any(|bank| new.iter().any(|digest| digest.bank() == *bank))
                });
                !known
            });
            let event = lacking.next().map(|account| account.what.clone()).unwrap_or_default();
            let why = "its digest is not known in any bank of the log".to_owned();
            open.push(Unpredictable { pcr, event, why });
        }
    }
    (banks, open)
}

fn tally_bank(
    log: &EventLog,
    events: &[Account],
    bank: PcrBank,
    predicted: &BTreeSet<PcrIndex>,
    open: &[Unpredictable],
) -> PcrValues {
    let mut values = PcrValues::new(bank);
    for pcr in predicted.iter().filter(|pcr| open.iter().all(|found| found.pcr != **pcr)) {
        let start =
            if pcr.get() == 0 { pcr0_start(log.events(), bank) } else { pcr.reset_value(bank) };
        let extended = |value: Option<Digest>, account: &Account| {
            let new = account.new.as_ref().ok()?;
            match new.iter().find(|digest| digest.bank() == bank) {
                Some(digest) => Some(value?.extended_with(digest.as_bytes())),
                // The log itself has no digest there, so nothing was extended.
                None if account.fate == Fate::CarriedOver => value,
                None => None,
            }
        };
        let of_pcr = events.iter().filter(|event| event.pcr == *pcr && event.fate != Fate::Gone);
        let value = of_pcr.fold(Some(start), extended);
        // Nothing is released once the latch has moved this PCR.
        let value = if *pcr == PcrIndex::LATCH { Some(Digest::zero(bank)) } else { value };
        if let Some(value) = value {
            values.set(*pcr, value);
        }
    }
    values
}
