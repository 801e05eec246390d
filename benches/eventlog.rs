//! Parsing and replaying a log of 1 MiB: under 10 ms, and explaining one beside another as well.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use vmseal::measurement::diff::{explain, notes};
use vmseal::measurement::{EventLog, PcrBank, replay};

const RUNS: u32 = 50;

/// The events of a recorded boot, again and again until the log has 1 MiB.
fn large(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/eventlogs").join(name);
    let log = EventLog::parse(&std::fs::read(path.join("log.bin")).unwrap()).unwrap();
    let (header, rest) = log.events().split_first().unwrap();
    let mut events = vec![header.clone()];
    let mut len = 0;
    while len < 1 << 20 {
        events.extend_from_slice(rest);
        len = EventLog::from_events(log.format().clone(), events.clone()).to_bytes().len();
    }
    EventLog::from_events(log.format().clone(), events).to_bytes()
}

/// The processor time of a run, from many: on an idle machine, the time that passes.
fn one(mut run: impl FnMut()) -> Duration {
    let start = processor_time();
    (0..RUNS).for_each(|_| run());
    (processor_time() - start) / RUNS
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let of = |time: TimeVal| Duration::from_micros(time.num_microseconds().try_into().unwrap());
    of(usage.user_time()) + of(usage.system_time())
}

fn main() {
    for name in ["grub-tpm-deb13/base", "uki/base", "banks/all-four"] {
        let bytes = large(name);
        let read = one(|| assert!(EventLog::parse(&bytes).is_ok()));
        let parsed = one(|| {
            let log = EventLog::parse(&bytes).unwrap();
            assert!(!replay(&log, None).is_empty());
        });
        let log = EventLog::parse(&bytes).unwrap();
        let mut other = notes(&log, None, PcrBank::Sha256, None);
        other.truncate(other.len() - 1);
        let explained =
            one(|| assert!(!explain(&notes(&log, None, PcrBank::Sha256, None), &other).is_empty()));
        println!(
            "{name}, {} bytes: parsed in {read:.1?}, and replayed in {parsed:.1?}, explained in {explained:.1?}",
            bytes.len()
        );
        assert!(parsed < Duration::from_millis(10), "{name}: {parsed:?}, budget 10 ms");
    }
}
