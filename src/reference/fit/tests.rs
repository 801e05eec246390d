use proptest::prelude::*;

use super::*;
use crate::measurement::{Algorithm, LogFormat};

const BANK: PcrBank = PcrBank::Sha256;

fn digests(text: &str) -> Vec<EventDigest> {
    let bytes = BANK.hash(text.as_bytes()).as_bytes().to_vec();
    vec![EventDigest { alg_id: BANK.alg_id(), bytes }]
}

fn extend(pcr: u8, text: &str) -> Extend {
    Extend { pcr: PcrIndex::new(pcr.into()).unwrap(), digests: digests(text) }
}

/// Event 0 is the header, and between the others one that extends nothing.
fn log(told: &[(u8, &str)]) -> EventLog {
    let event = |number, pcr, event_type, text: &str| Event {
        number,
        pcr,
        event_type,
        digests: digests(text),
        raw: text.as_bytes().to_vec(),
    };
    let mut events = vec![event(0, 0, EventType::NoAction, "Spec")];
    for (pcr, text) in told {
        events.push(event(events.len(), 0, EventType::NoAction, "StartupLocality"));
        events.push(event(events.len(), (*pcr).into(), EventType::EfiAction, text));
    }
    let format = LogFormat::CryptoAgile(vec![Algorithm { id: 0xb, digest_len: 32 }]);
    EventLog::from_events(format, events)
}

const TOLD: [(u8, &str); 4] = [(0, "firmware"), (7, "keys"), (4, "kernel"), (9, "initrd")];

fn seen() -> Vec<Extend> {
    TOLD.iter().map(|(pcr, text)| extend(*pcr, text)).collect()
}

fn fits(log: EventLog, extends: &[Extend]) -> Result<Fitted, Unfit> {
    fit([log], extends, BANK)
}

#[test]
fn a_log_that_tells_all_is_taken_to_its_last_event_that_was_seen() {
    let garbage = [&TOLD[..], &[(3, "what lies behind it in memory")]].concat();
    let fitted = fits(log(&garbage), &seen()).unwrap();
    assert_eq!(fitted.log, log(&TOLD));
    assert_eq!(fitted.userspace, UserspaceLog::default());
    let shorter = log(&TOLD[..2]);
    assert_eq!(fit([shorter, log(&TOLD)], &seen(), BANK).unwrap().log, log(&TOLD));
}

#[test]
fn what_comes_after_the_log_is_known_by_its_digest() {
    let [invoked, done, _] = ACTIONS;
    let after =
        [extend(10, "ima"), extend(5, invoked), extend(5, done), extend(11, "enter-initrd")];
    let extends = [seen(), after.to_vec()].concat();
    let fitted = fits(log(&TOLD), &extends).unwrap();
    let [.., first, second] = fitted.log.events() else { panic!() };
    assert!(first.data_is_measured() && second.data_is_measured());
    assert_eq!((second.number, second.raw.as_slice()), (10, done.as_bytes()));
    assert_eq!(fitted.userspace.events().len(), 1);
    assert_eq!(fitted.userspace.events()[0].to_string(), "phase enter-initrd");
    // A log that has them itself tells the same.
    let own = log(&[&TOLD[..], &[(5, invoked), (5, done)]].concat());
    let whole = fits(own, &extends).unwrap();
    let digests = |log: &EventLog| {
        let events = log.events().iter().filter(|event| event.extends());
        events.map(|event| (event.pcr, event.digest(BANK))).collect::<Vec<_>>()
    };
    assert_eq!(digests(&whole.log), digests(&fitted.log));
}

/// systemd 261 and later measure these in an initrd; their digests are in its own `pcrlock.d`.
#[test]
fn the_separators_of_an_initrd_are_known_in_any_order() {
    let separated = [0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14];
    let os = separated.map(|pcr| extend(pcr, "os-separator"));
    let rest = [extend(9, "nvpcr-separator"), extend(11, "enter-initrd")];
    for after in [[&os[..], &rest].concat(), [&rest[..], &os].concat()] {
        let fitted = fits(log(&TOLD), &[seen(), after.clone()].concat()).unwrap();
        assert_eq!(fitted.log, log(&TOLD));
        let told: Vec<_> = fitted.userspace.events().iter().map(|it| it.pcr).collect();
        assert_eq!(told, after.iter().map(|it| Some(it.pcr)).collect::<Vec<_>>());
    }
}

#[test]
fn a_word_before_its_time_and_one_that_is_not_known_are_refused() {
    for (more, pcr) in [
        (vec![extend(11, "leave-initrd")], 11),
        (vec![extend(4, "another loader")], 4),
        (vec![extend(8, "os-separator")], 8),
        (vec![extend(11, "nvpcr-separator")], 11),
        // It holds a secret of the machine's: no two measure the same.
        (vec![extend(9, "nvpcr-init:hardware:0x1d10200:sha256:de38")], 9),
        (vec![extend(11, ACTIONS[0])], 11),
        (vec![extend(11, "enter-initrd"), extend(5, ACTIONS[0])], 5),
    ] {
        let extends = [seen(), more].concat();
        let Unfit::Differs { told, pcr: found, logged, .. } =
            fits(log(&TOLD), &extends).unwrap_err()
        else {
            panic!()
        };
        assert_eq!((told, found.get(), logged), (4, pcr, None));
    }
}

#[test]
fn a_forged_log_is_refused_by_the_first_event_that_was_not_seen() {
    for index in 0..TOLD.len() {
        let mut forged = TOLD;
        forged[index].1 = "forged";
        let unfit = fits(log(&forged), &seen()).unwrap_err();
        let Unfit::Differs { told, pcr, logged: Some(logged), .. } = &unfit else { panic!() };
        assert_eq!((*told, pcr.get()), (index, TOLD[index].0), "{unfit}");
        assert!(logged.ends_with("(EV_EFI_ACTION)"), "{logged}");
        forged = TOLD;
        forged[index].0 += 1;
        assert!(fits(log(&forged), &seen()).is_err());
        let others = TOLD.iter().enumerate().filter(|(at, _)| *at != index);
        let left_out: Vec<_> = others.map(|(_, event)| *event).collect();
        assert!(fits(log(&left_out), &seen()).is_err());
        let mut one_more = TOLD.to_vec();
        one_more.insert(index, (0, "one more"));
        assert!(fits(log(&one_more), &seen()).is_err());
    }
    assert_eq!(fit([], &seen(), BANK), Err(Unfit::NoLog));
    assert_eq!(fit([log(&TOLD)], &seen(), PcrBank::Sha384), Err(Unfit::NoLog));
}

proptest! {
    /// Whatever a log says: taken, it says what was seen.
    #[test]
    fn a_log_that_is_taken_replays_to_what_was_seen(
        said in proptest::collection::vec((0_u8..16, 0_u8..3), 0..8),
        happened in proptest::collection::vec((0_u8..16, 0_u8..3), 0..8),
    ) {
        let words = ["one", "two", "three"];
        let said: Vec<_> = said.iter().map(|(pcr, at)| (*pcr, words[usize::from(*at)])).collect();
        let seen: Vec<_> =
            happened.iter().map(|(pcr, at)| extend(*pcr, words[usize::from(*at)])).collect();
        if let Ok(fitted) = fits(log(&said), &seen) {
            let told = fitted.log.events().iter().filter(|event| event.extends());
            let told: Vec<_> = told.map(|event| event.pcr).filter(|pcr| *pcr != 10).collect();
            let pcrs: Vec<_> = seen.iter().map(|extend| u32::from(extend.pcr.get())).collect();
            let pcrs: Vec<_> = pcrs.into_iter().filter(|pcr| *pcr != 10).collect();
            prop_assert_eq!(told, pcrs);
        }
    }
}
