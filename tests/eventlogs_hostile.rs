//! Logs that nobody honest wrote: whatever the bytes, an answer or an error, in printable ASCII.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;

use proptest::prelude::*;
use vmseal::coverage::{Coverage, story};
use vmseal::measurement::{EventLog, PcrIndex, UserspaceLog, replay};

fn fixture(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/eventlogs");
    std::fs::read(root.join(name)).unwrap()
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// Everything that the commands do with a log.
fn digest_it(bytes: &[u8]) {
    let log = match EventLog::parse(bytes) {
        Ok(log) => log,
        Err(error) => return assert!(is_printable(&error.to_string()), "{error}"),
    };
    assert!(log.to_bytes() == bytes);
    for event in log.events() {
        let data = event.data();
        let shown = data.to_string();
        assert!(is_printable(&shown) && shown.len() < 8192, "{shown}");
        assert!(is_printable(&serde_json::to_string(&data).unwrap()));
    }
    replay(&log, None);
    let coverage = Coverage::of(&log);
    for chosen in [coverage.recommended_pcrs(), PcrIndex::all().collect()] {
        for uncovered in coverage.uncovered(&chosen) {
            assert!(is_printable(&uncovered.to_string()));
        }
    }
    for line in story(&log, None) {
        assert!(is_printable(&line.text), "{}", line.text);
    }
}

/// Small logs of four boot paths.
const LOGS: [&str; 4] = [
    "direct-qemu10.0.2-ovmf2022.11/base/log.bin",
    "grub-real-deb13/base/log.bin",
    "sdboot-deb13/uki-addon/log.bin",
    "sdboot/base/log.bin",
];

#[test]
fn every_prefix() {
    for name in LOGS {
        let bytes = fixture(name);
        for len in 0..bytes.len() {
            digest_it(&bytes[..len]);
        }
    }
}

#[test]
fn every_byte_of_a_small_log() {
    let mut bytes = fixture(LOGS[0]);
    for offset in 0..bytes.len() {
        let original = bytes[offset];
        for value in [0, 0xff, original ^ 1, original ^ 0x80] {
            bytes[offset] = value;
            digest_it(&bytes);
        }
        bytes[offset] = original;
    }
}

/// A truncated log must not pass for a whole one: only at the border of an event does it parse, and
/// nothing is covered before the kernel itself has spoken.
#[test]
fn no_prefix_is_covered_unless_the_kernel_had_started() {
    for name in LOGS {
        let bytes = fixture(name);
        let whole = EventLog::parse(&bytes).unwrap();
        let first_word = whole.events().iter().position(|event| event.pcr == 9).unwrap();
        let mut parsed = 0;
        for len in 0..=bytes.len() {
            if let Ok(log) = EventLog::parse(&bytes[..len]) {
                parsed += 1;
                let coverage = Coverage::of(&log);
                let covered = coverage.uncovered(&coverage.recommended_pcrs()).is_empty();
                assert!(!covered || log.events().len() > first_word, "{name}, {len} bytes");
                assert!(covered || len < bytes.len(), "{name}");
            }
        }
        assert_eq!(parsed, whole.events().len(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_byte_of_any_log(
        name in prop::sample::select(&LOGS[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = fixture(name);
        for (index, value) in changes {
            let offset = index.index(bytes.len());
            bytes[offset] = value;
        }
        digest_it(&bytes);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        digest_it(&bytes);
    }

    #[test]
    fn any_data_in_any_event(
        pcr in 0u32..24,
        event_type in prop_oneof![0u32..0x14, 0x8000_0001u32..0x8000_0011, Just(0x8000_00e0)],
        data in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            // Small numbers make lengths that fit.
            prop::collection::vec(0u8..40, 0..200),
        ],
    ) {
        let mut bytes = [pcr.to_le_bytes(), event_type.to_le_bytes()].concat();
        bytes.extend([1; 20]);
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        digest_it(&bytes);
    }

    #[test]
    fn any_userspace_log(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = fixture("full-uki/a/userspace.log");
        for (index, value) in changes {
            let offset = index.index(bytes.len());
            bytes[offset] = value;
        }
        match UserspaceLog::parse(&bytes) {
            Ok(log) => log.events().iter().for_each(|event| assert!(is_printable(&event.to_string()))),
            Err(error) => assert!(is_printable(&error.to_string()), "{error}"),
        }
    }
}
