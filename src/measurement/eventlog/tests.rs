use super::*;

/// A header declaring SHA-256 and an algorithm that nobody knows, then one event.
fn agile() -> Vec<u8> {
    let mut spec_id = SPEC_ID_03.to_vec();
    spec_id.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    spec_id.extend(2u32.to_le_bytes());
    spec_id.extend([0x0b, 0, 32, 0, 0xcd, 0xab, 3, 0]);
    spec_id.push(0);
    let mut log = [0u32.to_le_bytes(), 3u32.to_le_bytes()].concat();
    log.extend([0; 20]);
    log.extend((spec_id.len() as u32).to_le_bytes());
    log.extend(spec_id);
    for word in [4u32, 4, 2] {
        log.extend(word.to_le_bytes());
    }
    log.extend([0x0b, 0]);
    log.extend([7; 32]);
    log.extend([0xcd, 0xab, 1, 2, 3]);
    log.extend(4u32.to_le_bytes());
    log.extend([0; 4]);
    log
}

#[test]
fn unknown_algorithms_round_trip() {
    let log = EventLog::parse(&agile()).unwrap();
    assert_eq!(log.to_bytes(), agile());
    assert_eq!(log.banks(), [PcrBank::Sha256]);
    assert_eq!(log.events().len(), 2);
    assert_eq!(log.events()[1].digests[1], EventDigest { alg_id: 0xabcd, bytes: vec![1, 2, 3] });
    assert_eq!(log.events()[1].digest(PcrBank::Sha256).unwrap().as_bytes(), [7; 32]);
}

#[test]
fn sha1_only_logs_round_trip() {
    let mut bytes = Vec::new();
    for word in [7u32, 5] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([9; 20]);
    bytes.extend(2u32.to_le_bytes());
    bytes.extend(b"ab");
    let twice = bytes.repeat(2);
    let log = EventLog::parse(&twice).unwrap();
    assert_eq!(log.format(), &LogFormat::Sha1Only);
    assert_eq!((log.events().len(), log.to_bytes()), (2, twice));
    assert_eq!(log.banks(), [PcrBank::Sha1]);
}

#[test]
fn every_proper_prefix_but_the_event_borders_is_truncated() {
    let whole = agile();
    let border = EventLog::parse(&whole).unwrap().events()[0].raw.len() + 32;
    for len in 1..whole.len() {
        match EventLog::parse(&whole[..len]) {
            Ok(_) => assert_eq!(len, border),
            Err(EventLogError::Truncated { event, offset, .. }) => {
                assert_eq!(event, usize::from(len > border), "prefix of {len} bytes");
                assert!(offset <= len);
            }
            Err(other) => panic!("prefix of {len} bytes: {other}"),
        }
    }
    assert_eq!(EventLog::parse(&[]), Err(EventLogError::Empty));
}

#[test]
fn an_unused_log_area_is_padding_and_a_few_bytes_are_not() {
    for fill in [0x00, 0xff] {
        let padded = [agile(), vec![fill; 100]].concat();
        let log = EventLog::parse(&padded).unwrap();
        assert_eq!((log.events().len(), log.to_bytes()), (2, padded));
    }
    let cut = [agile(), vec![0; 15]].concat();
    assert!(matches!(EventLog::parse(&cut), Err(EventLogError::Truncated { event: 2, .. })));
}

#[track_caller]
fn malformed(change: impl Fn(&mut Vec<u8>), wanted: &str) {
    let mut bytes = agile();
    change(&mut bytes);
    let error = EventLog::parse(&bytes).unwrap_err().to_string();
    assert!(error.contains(wanted), "{error}");
}

#[test]
fn what_cannot_be_is_named_with_event_and_offset() {
    malformed(|log| log[56] = 0, "event 0: number of algorithms at byte 56 is 0, expected 1 to 16");
    malformed(|log| log[62] = 20, "event 0: digest size at byte 60 is 20, expected 32 to 32");
    malformed(|log| log[66] = 0, "event 0: digest size at byte 64 is 0, expected 1 to 64");
    malformed(|log| log[64..66].copy_from_slice(&[0x0b, 0]), "0x000b again");
    malformed(|log| log[69] = 24, "event 1: PCR index at byte 69 is 24, expected 0 to 23");
    malformed(|log| log[77] = 3, "event 1: digest count at byte 77 is 3, expected at most 2");
    malformed(|log| log[81] = 4, "event 1: digest algorithm at byte 81 is 0x0004");
    malformed(|log| log[115..117].copy_from_slice(&[0x0b, 0]), "digest algorithm at byte 115");
    malformed(
        |log| log[120..124].fill(0xff),
        "truncated in event 1: event data at byte 124 has 4294967295 bytes, 4 are left",
    );
    let long = vec![0; EventLog::MAX_LEN + 1];
    assert_eq!(EventLog::parse(&long), Err(EventLogError::TooLong { found: long.len() }));
}

#[test]
fn events_are_counted() {
    let event = [5u32.to_le_bytes(), 5u32.to_le_bytes()].concat();
    let event = [event, vec![1; 20], vec![0; 4]].concat();
    let many = event.repeat(EventLog::MAX_EVENTS);
    assert_eq!(EventLog::parse(&many).unwrap().events().len(), EventLog::MAX_EVENTS);
    let more = event.repeat(EventLog::MAX_EVENTS + 1);
    assert_eq!(EventLog::parse(&more), Err(EventLogError::TooManyEvents));
}

#[test]
fn the_start_of_a_log_is_read_whatever_follows_it() {
    let log = EventLog::parse(&agile()).unwrap();
    for rest in [&[][..], &[0; 4096], &[0xff; 4096], &[0x55; 7], &[3; 4096], b"Spec ID Event03"] {
        let bytes = [&agile()[..], rest].concat();
        assert_eq!(EventLog::parse_start(&bytes), Ok(log.clone()), "{rest:x?}");
    }
    let twice = [agile(), agile().split_off(agile().len() - 59)].concat();
    assert_eq!(EventLog::parse_start(&twice).unwrap().events().len(), 3);
    for len in 0..agile().len() {
        let events = EventLog::parse_start(&agile()[..len]).map(|log| log.events().len());
        // The header alone, or not even that.
        assert!(matches!(events, Ok(1) | Err(_)), "{len}: {events:?}");
    }
}
