//! Logs of real boots: parsed, written back, replayed, and read beside `tpm2_eventlog`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use vmseal::measurement::{EventLog, PcrBank, PcrValues, UserspaceLog, differences, replay};

/// The recorded boots that have an event log: (family/case, folder), sorted.
fn boots() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/eventlogs");
    let children = |folder: &Path| -> Vec<PathBuf> {
        folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let cases = children(&root).iter().flat_map(|family| children(family)).collect::<Vec<_>>();
    let with_log = cases.into_iter().filter(|case| case.join("log.bin").exists());
    let mut boots: Vec<_> = with_log
        .map(|case| (case.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), case))
        .collect();
    boots.sort();
    assert!(boots.len() >= 40, "only {} recorded boots found", boots.len());
    boots
}

fn log_bytes(case: &Path) -> Vec<u8> {
    std::fs::read(case.join("log.bin")).unwrap()
}

fn parse(case: &Path) -> EventLog {
    EventLog::parse(&log_bytes(case)).unwrap()
}

/// The values that the guest read, by bank.
fn recorded_pcrs(case: &Path) -> Vec<PcrValues> {
    let json = std::fs::read(case.join("pcrs.json")).unwrap();
    let banks: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_slice(&json).unwrap();
    let values = |(bank, pcrs): (String, BTreeMap<String, String>)| {
        let bank: PcrBank = bank.parse().unwrap();
        let mut values = PcrValues::new(bank);
        for (pcr, value) in pcrs {
            let value = vmseal::measurement::Digest::from_hex(bank, &value).unwrap();
            values.set(pcr.parse().unwrap(), value);
        }
        values
    };
    banks.into_iter().map(values).collect()
}

#[test]
fn every_log_is_written_back_byte_for_byte() {
    for (name, case) in boots() {
        let bytes = log_bytes(&case);
        assert!(EventLog::parse(&bytes).unwrap().to_bytes() == bytes, "{name}");
    }
}

#[test]
fn replay_gives_the_pcrs_that_the_guest_read() {
    let mut compared = 0;
    for (name, case) in boots() {
        let userspace = std::fs::read(case.join("userspace.log"));
        let userspace = userspace.ok().map(|bytes| UserspaceLog::parse(&bytes).unwrap());
        let replayed = replay(&parse(&case), userspace.as_ref());
        for recorded in recorded_pcrs(&case) {
            let values = &replayed[&recorded.bank()];
            assert_eq!(values.iter().count(), 24, "{name}");
            // The recordings hold all PCRs, PCR 10 included, which is not compared.
            assert_eq!(recorded.iter().count(), 24, "{name}");
            assert_eq!(differences(values, &recorded), [], "{name}");
            compared += 1;
        }
    }
    assert!(compared >= 42, "only {compared} banks compared");
}

/// PCR, type and (bank, digest) of each event, as `tpm2_eventlog` prints them.
type Seen = (u32, String, Vec<(String, String)>);

fn seen_by_tpm2_eventlog(log: &Path) -> Vec<Seen> {
    let output = Command::new("tpm2_eventlog").arg(log).output().expect("tpm2_eventlog runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut events: Vec<Seen> = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if line == "pcrs:" {
            break;
        }
        // Decoded data is nested deeper than what is compared here.
        let (key, value) = match line.trim_start_matches([' ', '-']).split_once(": ") {
            Some((key, value)) if line.len() - line.trim_start_matches([' ', '-']).len() <= 4 => {
                (key, value.trim_matches('"').to_owned())
            }
            _ => continue,
        };
        match key {
            "EventNum" => events.push((0, String::new(), Vec::new())),
            "PCRIndex" => events.last_mut().unwrap().0 = value.parse().unwrap(),
            "EventType" => events.last_mut().unwrap().1 = value,
            "AlgorithmId" => events.last_mut().unwrap().2.push((value, String::new())),
            "Digest" => match events.last_mut().unwrap().2.last_mut() {
                Some(digest) => digest.1 = value,
                // The header has a digest without an algorithm.
                None => events.last_mut().unwrap().2.push(("sha1".to_owned(), value)),
            },
            _ => {}
        }
    }
    events
}

#[test]
fn tpm2_eventlog_agrees_event_by_event() {
    for (name, case) in boots() {
        let log = parse(&case);
        let expected = seen_by_tpm2_eventlog(&case.join("log.bin"));
        assert_eq!(log.events().len(), expected.len(), "{name}");
        for (event, expected) in log.events().iter().zip(expected) {
            let digests = event.known_digests().map(|d| (d.bank().to_string(), d.to_string()));
            let found: Seen = (event.pcr, event.event_type.to_string(), digests.collect());
            assert_eq!(found, expected, "{name}, event {}", event.number);
        }
    }
}
