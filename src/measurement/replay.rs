//! From logs to the PCR values that they claim, and from those to what the TPM really holds.

use std::collections::BTreeMap;
use std::fmt;

use super::data::EventData;
use super::digest::{Digest, PcrBank};
use super::event::{Event, EventType};
use super::eventlog::EventLog;
use super::pcr::{PcrIndex, PcrValues};
use super::userspace::UserspaceLog;

/// The PCR of the kernel's own measurements (IMA), which no log here records.
const IMA: u8 = 10;

/// All 24 PCRs in every known bank of the log, after its events and then those of `userspace`.
///
/// PCR 0 starts at the locality of `TPM2_Startup` where the log records one, and at 4 where an
/// H-CRTM event comes first (PFP 10.4.5.3; TPM 2.0 part 1, 34.2). `EV_NO_ACTION` extends nothing.
pub fn replay(log: &EventLog, userspace: Option<&UserspaceLog>) -> BTreeMap<PcrBank, PcrValues> {
    log.banks().into_iter().map(|bank| (bank, replay_bank(log, userspace, bank))).collect()
}

fn replay_bank(log: &EventLog, userspace: Option<&UserspaceLog>, bank: PcrBank) -> PcrValues {
    // By number: a log has thousands of events, each of which looks its PCR up.
    let mut registers: Vec<Digest> = PcrIndex::all().map(|pcr| pcr.reset_value(bank)).collect();
    if let Some(first) = registers.first_mut() {
        *first = pcr0_start(log.events(), bank);
    }
    let mut extend = |pcr: usize, digest: &[u8]| {
        if let Some(value) = registers.get_mut(pcr) {
            *value = value.extended_with(digest);
        }
    };
    for event in log.events().iter().filter(|event| event.extends()) {
        let logged = event.digests.iter().find(|digest| digest.alg_id == bank.alg_id());
        let logged = logged.filter(|digest| digest.bytes.len() == bank.digest_len());
        if let Some(digest) = logged {
            extend(event.pcr as usize, &digest.bytes);
        }
    }
    for event in userspace.iter().flat_map(|log| log.events()) {
        if let (Some(pcr), Some(digest)) = (event.pcr, event.digests.get(&bank)) {
            extend(pcr.get().into(), digest.as_bytes());
        }
    }
    let mut values = PcrValues::new(bank);
    PcrIndex::all().zip(registers).for_each(|(pcr, value)| values.set(pcr, value));
    values
}

/// The value of PCR 0 before its first event. Only records before that event count.
pub(crate) fn pcr0_start(events: &[Event], bank: PcrBank) -> Digest {
    let mut locality = 0;
    for event in events {
        if event.extends() && event.pcr == 0 {
            if event.event_type == EventType::EfiHcrtmEvent {
                locality = 4;
            }
            break;
        }
        if let EventData::StartupLocality { locality: found @ 0..=4 } = event.data() {
            locality = found;
        }
    }
    let mut bytes = vec![0; bank.digest_len()];
    if let Some(last) = bytes.last_mut() {
        *last = locality;
    }
    Digest::from_bytes(bank, &bytes).unwrap_or(Digest::zero(bank))
}

/// A PCR whose replayed value is not the TPM's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The PCR.
    pub pcr: PcrIndex,
    /// What the log gives.
    pub replayed: Digest,
    /// What the TPM holds.
    pub live: Digest,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pcr, replayed, live } = self;
        write!(f, "PCR {pcr} ({}) is {live}, but the log gives {replayed}", live.bank())
    }
}

/// The PCRs that differ, ascending. Compared are those that both sides know, without PCR 10:
/// the kernel extends it by a log of its own.
pub fn differences(replayed: &PcrValues, live: &PcrValues) -> Vec<Difference> {
    let compared = replayed.iter().filter(|(pcr, _)| pcr.get() != IMA);
    let pairs = compared.filter_map(|(pcr, value)| Some((pcr, *value, *live.get(pcr)?)));
    pairs
        .filter(|(_, replayed, live)| replayed != live)
        .map(|(pcr, replayed, live)| Difference { pcr, replayed, live })
        .collect()
}

/// The first of [`differences`].
pub fn first_difference(replayed: &PcrValues, live: &PcrValues) -> Option<Difference> {
    differences(replayed, live).into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::event::EventDigest;
    use crate::measurement::eventlog::{Algorithm, LogFormat};

    fn event(pcr: u32, event_type: EventType, raw: &[u8]) -> Event {
        let bytes = PcrBank::Sha256.hash(raw).as_bytes().to_vec();
        let digests = vec![EventDigest { alg_id: 0xb, bytes }];
        Event { number: 0, pcr, event_type, digests, raw: raw.to_vec() }
    }

    fn pcr0(events: Vec<Event>) -> Digest {
        let format = LogFormat::CryptoAgile(vec![Algorithm { id: 0xb, digest_len: 32 }]);
        let log = EventLog::from_events(format, events);
        let values = replay(&log, None);
        *values[&PcrBank::Sha256].get(PcrIndex::new(0).unwrap()).unwrap()
    }

    fn start(locality: u8) -> Digest {
        let mut bytes = [0; 32];
        bytes[31] = locality;
        Digest::from_bytes(PcrBank::Sha256, &bytes).unwrap()
    }

    fn locality(locality: u8) -> Event {
        event(0, EventType::NoAction, &[b"StartupLocality\0".as_slice(), &[locality]].concat())
    }

    #[test]
    fn startup_locality_is_the_first_value_of_pcr_0() {
        assert_eq!(pcr0(vec![]), start(0));
        assert_eq!(pcr0(vec![locality(3)]), start(3));
        let version = event(0, EventType::SCrtmVersion, b"v");
        let digest = PcrBank::Sha256.hash(b"v");
        assert_eq!(
            pcr0(vec![locality(3), version.clone()]),
            start(3).extended_with(digest.as_bytes())
        );
        assert_eq!(pcr0(vec![version, locality(3)]), start(0).extended_with(digest.as_bytes()));
    }

    #[test]
    fn h_crtm_starts_at_locality_4() {
        let hcrtm = event(0, EventType::EfiHcrtmEvent, b"HCRTM");
        let expected = start(4).extended_with(PcrBank::Sha256.hash(b"HCRTM").as_bytes());
        assert_eq!(pcr0(vec![hcrtm.clone()]), expected);
        assert_eq!(pcr0(vec![locality(4), hcrtm]), expected);
    }

    #[test]
    fn names_the_first_pcr_that_disagrees_and_leaves_out_ima() {
        let replayed = PcrValues::after_reset(PcrBank::Sha256);
        let mut live = replayed.clone();
        assert_eq!(first_difference(&replayed, &live), None);
        for pcr in [10, 4, 7] {
            live.extend(PcrIndex::new(pcr).unwrap(), &[1; 32]);
        }
        let differing: Vec<u8> =
            differences(&replayed, &live).iter().map(|found| found.pcr.get()).collect();
        assert_eq!(differing, [4, 7]);
        let first = first_difference(&replayed, &live).unwrap().to_string();
        assert!(first.starts_with("PCR 4 (sha256) is "), "{first}");
    }
}
