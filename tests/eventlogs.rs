//! Logs of real boots: parsed, written back, replayed, and read beside `tpm2_eventlog`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use vmseal::coverage::{BootPath, Component, Coverage, SecureBoot};
use vmseal::measurement::pcr::{join_pcrs, parse_pcrs};
use vmseal::measurement::{
    Event, EventLog, EventType, LogFormat, PcrBank, PcrIndex, PcrValues, UserspaceLog, differences,
    replay,
};

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

/// Boot path and recommended PCRs of each family; every component must be covered.
const COVERAGE: [(&str, BootPath, &str); 15] = [
    ("banks/", BootPath::Uki, "0+4+7+11+12+13+15"),
    ("direct-", BootPath::DirectKernel, "0+4+7+9+15"),
    ("full-grub/", BootPath::GrubMeasured, "0+4+7+8+9+15"),
    ("full-sdboot/", BootPath::SystemdBootEntry, "0+4+7+9+12+15"),
    ("full-uki/", BootPath::Uki, "0+4+7+11+12+13+15"),
    ("grub-real-", BootPath::Grub, "0+4+7+9+15"),
    ("grub-tpm-", BootPath::GrubMeasured, "0+4+7+8+9+15"),
    ("grub/", BootPath::GrubMeasured, "0+4+7+8+9+15"),
    ("machine/", BootPath::Uki, "0+4+7+11+12+13+15"),
    ("sdboot-deb13/uki-", BootPath::SystemdBootUki, "0+4+7+11+12+13+15"),
    ("sdboot-uki/", BootPath::SystemdBootUki, "0+4+7+11+12+13+15"),
    ("sdboot/", BootPath::SystemdBootEntry, "0+4+7+9+12+15"),
    ("shim-nosb-", BootPath::GrubMeasured, "0+4+7+8+9+14+15"),
    ("uki-secureboot-", BootPath::Uki, "0+4+7+11+12+13+15"),
    ("uki/", BootPath::Uki, "0+4+7+11+12+13+15"),
];

#[test]
fn every_recorded_boot_is_covered_by_the_set_of_its_path() {
    for (name, case) in boots() {
        let coverage = Coverage::of(&parse(&case));
        let (_, path, pcrs) = COVERAGE.iter().find(|row| name.starts_with(row.0)).unwrap();
        assert_eq!(coverage.boot_path(), *path, "{name}");
        assert_eq!(join_pcrs(&coverage.recommended_pcrs()), *pcrs, "{name}");
        assert_eq!(coverage.uncovered(&coverage.pcrs()), [], "{name}");
        let on = name.starts_with("uki-secureboot-");
        let expected = if on { SecureBoot::On } else { SecureBoot::Off };
        assert_eq!(coverage.secure_boot(), expected, "{name}");
    }
}

/// Every binding of a component names only PCRs that its events extended, except 12 and 13, which
/// may be required as constants.
#[test]
fn bindings_rest_on_events_in_their_pcrs() {
    for (name, case) in boots() {
        let log = parse(&case);
        let coverage = Coverage::of(&log);
        for binding in Component::ALL.iter().flat_map(|component| coverage.bindings(*component)) {
            let shown: Vec<u32> =
                binding.events.iter().map(|number| log.events()[*number].pcr).collect();
            for pcr in &binding.pcrs {
                let pcr = u32::from(pcr.get());
                let stub_in_pcr_4 = pcr == 4 && shown.contains(&11);
                assert!(shown.contains(&pcr) || pcr > 11 || stub_in_pcr_4, "{name}: PCR {pcr}");
            }
        }
    }
}

#[test]
fn nothing_is_covered_without_its_events() {
    for (name, case) in boots() {
        let whole = parse(&case);
        for component in Component::ALL {
            // A component may be bound twice over, as GRUB's kernel by image and by file.
            let mut log = whole.clone();
            for rounds in 0.. {
                let coverage = Coverage::of(&log);
                let dropped: Vec<usize> = coverage
                    .bindings(component)
                    .iter()
                    .flat_map(|binding| binding.events.clone())
                    .collect();
                if dropped.is_empty() {
                    assert!((1..=2).contains(&rounds), "{name}: {component}");
                    let uncovered = coverage.uncovered(&PcrIndex::all().collect());
                    assert!(uncovered.iter().any(|found| found.component == component), "{name}");
                    break;
                }
                let kept = log.events().iter().filter(|event| !dropped.contains(&event.number));
                log = renumbered(log.format().clone(), kept.cloned());
            }
        }
    }
}

fn renumbered(format: LogFormat, events: impl Iterator<Item = Event>) -> EventLog {
    let events = events.enumerate().map(|(number, event)| Event { number, ..event });
    EventLog::from_events(format, events.collect())
}

fn fixture(name: &str) -> EventLog {
    let (_, case) = boots().into_iter().find(|(found, _)| found == name).unwrap();
    parse(&case)
}

/// The log of a boot with some events changed or, by returning `None`, left out.
fn changed(name: &str, change: impl Fn(Event) -> Option<Event>) -> Coverage {
    let log = fixture(name);
    let events: Vec<Event> = log.events().iter().cloned().filter_map(change).collect();
    Coverage::of(&renumbered(log.format().clone(), events.into_iter()))
}

#[track_caller]
fn assert_uncovered(coverage: &Coverage, expected: &[Component]) {
    let uncovered = coverage.uncovered(&coverage.recommended_pcrs());
    let components: Vec<Component> = uncovered.iter().map(|found| found.component).collect();
    assert_eq!(components, expected);
    assert!(uncovered.iter().all(|found| !found.reason.is_empty()));
}

#[test]
fn logs_without_evidence_are_refused() {
    use Component::{Cmdline, Firmware, Initrd, Kernel, Loader};
    let all = [Firmware, Loader, Kernel, Initrd, Cmdline];
    let separators = |event: Event| {
        (event.number == 0 || event.event_type == EventType::Separator).then_some(event)
    };
    assert_uncovered(&changed("uki/base", separators), &all);
    // A boot that leaves the firmware's sight: the log ends with the separators.
    let firmware_only = |event: Event| (event.number < 27).then_some(event);
    for name in ["uki/base", "grub-real-deb13/base", "shim-nosb-deb13/base"] {
        assert_uncovered(&changed(name, firmware_only), &[Loader, Kernel, Initrd, Cmdline]);
    }
    // The loader is there, but not what it started.
    let up_to_loader = |event: Event| (event.number < 28).then_some(event);
    let grub = changed("grub-real-deb13/base", up_to_loader);
    assert_eq!(grub.boot_path(), BootPath::Unknown);
    assert_uncovered(&grub, &[Loader, Kernel, Initrd, Cmdline]);
}

#[test]
fn a_kernel_that_nobody_measured_vouches_for_nothing() {
    use Component::{Cmdline, Initrd, Kernel, Loader};
    // GRUB without words, and its kernel in no PCR 4: the kernel's own words do not count.
    let no_kernel = |event: Event| (event.number != 28).then_some(event);
    assert_uncovered(
        &changed("grub-real-deb13/base", no_kernel),
        &[Loader, Kernel, Initrd, Cmdline],
    );
    let no_kernel = |event: Event| (event.number != 29).then_some(event);
    assert_uncovered(&changed("sdboot/base", no_kernel), &[Loader, Kernel, Initrd, Cmdline]);
    let no_kernel = |event: Event| (event.number != 14).then_some(event);
    assert_uncovered(
        &changed("direct-qemu10.0.13-ovmf2025.02/base", no_kernel),
        &[Loader, Kernel, Initrd, Cmdline],
    );
}

#[test]
fn without_secure_boot_shim_leaves_the_kernel_to_grubs_words() {
    let coverage = Coverage::of(&fixture("shim-nosb-deb13/base"));
    for pcrs in ["0+4+7", "0+4+7+9", "0+4+7+8", "0+4+7+8+14"] {
        let uncovered = coverage.uncovered(&parse_pcrs(pcrs).unwrap());
        let kernel = uncovered.iter().find(|found| found.component == Component::Kernel).unwrap();
        assert_eq!(kernel.to_string(), "kernel: it takes PCR 8+9, which the set leaves out");
    }
    let name = |event: &Event| event.data().to_string();
    let no_file =
        |event: Event| (!name(&event).starts_with("GRUB read /boot/vmlinuz")).then_some(event);
    assert_uncovered(&changed("shim-nosb-deb13/base", no_file), &[Component::Kernel]);
    // A command whose text is not what was measured names no file.
    let forged = |mut event: Event| {
        if name(&event).starts_with("GRUB ran linux ") {
            event.digests[0].bytes[0] ^= 1;
        }
        Some(event)
    };
    let forged = changed("shim-nosb-deb13/base", forged);
    assert!(forged.bindings(Component::Kernel).is_empty());
}

#[test]
fn a_chosen_set_is_judged_component_by_component() {
    let uki = Coverage::of(&fixture("uki/base"));
    let uncovered = |coverage: &Coverage, pcrs| {
        let found = coverage.uncovered(&parse_pcrs(pcrs).unwrap());
        found.into_iter().map(|found| found.component.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(uncovered(&uki, "0+4+7+11+12+13"), "");
    assert_eq!(uncovered(&uki, "0+4+9+11"), "");
    assert_eq!(uncovered(&uki, "4+9+11"), "firmware");
    assert_eq!(uncovered(&uki, "0+4+7+11"), "initrd cmdline");
    assert_eq!(uncovered(&uki, "0+7+11+12+13"), "loader kernel");
    assert_eq!(uncovered(&uki, "1+2+3+15"), "firmware loader kernel initrd cmdline");
    let entry = Coverage::of(&fixture("sdboot/base"));
    assert_eq!(uncovered(&entry, "0+4+7+12"), "initrd");
    assert_eq!(uncovered(&entry, "0+4+7+9"), "");
    let grub = Coverage::of(&fixture("grub-tpm-deb13/base"));
    assert_eq!(uncovered(&grub, "0+4+7+8"), "initrd");
    assert_eq!(uncovered(&grub, "0+4+9"), "");
}

#[test]
fn another_image_after_the_stub_shows_that_it_returned() {
    let log = fixture("sdboot-uki/base");
    let vmlinuz = fixture("sdboot/base").events()[29].clone();
    let mut events = log.events().to_vec();
    // In the place of the inner kernel, an image from a file.
    events[42] = vmlinuz;
    let coverage = Coverage::of(&renumbered(log.format().clone(), events.into_iter()));
    assert_eq!(coverage.boot_path(), BootPath::Unknown);
    // A section whose content was not measured is none.
    let no_content = |event: Event| (event.number != 29).then_some(event);
    assert_ne!(changed("uki/base", no_content).boot_path(), BootPath::Uki);
    // Nor is a kernel that got another command line than systemd-boot measured.
    let other = |mut event: Event| {
        if event.number == 31 {
            event.digests[0].bytes[0] ^= 1;
        }
        Some(event)
    };
    assert_eq!(changed("sdboot/base", other).boot_path(), BootPath::Unknown);
}

#[test]
fn a_boot_option_that_returned_is_no_evidence() {
    let log = fixture("uki/base");
    let mut returning = log.events()[18].clone();
    returning.raw = b"Returning from EFI Application from Boot Option".to_vec();
    returning.digests[0].bytes = PcrBank::Sha256.hash(&returning.raw).as_bytes().to_vec();
    let mut events = log.events().to_vec();
    events.insert(41, returning.clone());
    let coverage = Coverage::of(&renumbered(log.format().clone(), events.clone().into_iter()));
    assert_eq!(coverage.boot_path(), BootPath::Unknown);
    // In a bank without its digest an event shows nothing.
    let bare = |mut event: Event| {
        if event.pcr == 4 {
            event.digests.clear();
        }
        Some(event)
    };
    assert_eq!(changed("uki/base", bare).boot_path(), BootPath::Unknown);
}

/// A boot by shim with Secure Boot on: shim measures each kernel that GRUB asks it to verify, with
/// no device path, between the `linux` command and what comes after it.
fn with_kernel_verified_by_shim(log: &EventLog, times: usize, kernel_speaks: bool) -> EventLog {
    let mut image = log.events()[32].clone();
    image.raw = vec![0; 32];
    image.digests[0].bytes = vec![0x5a; 32];
    let mut events = log.events().to_vec();
    let is_linux = |event: &Event| event.data().to_string().starts_with("GRUB ran linux ");
    let linux = events.iter().position(is_linux).unwrap();
    for _ in 0..times {
        events.insert(linux + 1, image.clone());
    }
    events.retain(|event| kernel_speaks || event.event_type != EventType::EventTag);
    renumbered(log.format().clone(), events.into_iter())
}

#[test]
fn with_secure_boot_shim_puts_the_kernel_into_pcr_4() {
    let log = fixture("shim-nosb-deb13/base");
    let uncovered = |coverage: &Coverage, pcrs| {
        let found = coverage.uncovered(&parse_pcrs(pcrs).unwrap());
        found.into_iter().map(|found| found.component.to_string()).collect::<Vec<_>>().join(" ")
    };
    // GRUB 2.12, whose kernel speaks for itself; then 2.06: twice in PCR 4, and no word of it.
    let new = Coverage::of(&with_kernel_verified_by_shim(&log, 1, true));
    let old = Coverage::of(&with_kernel_verified_by_shim(&log, 2, false));
    for coverage in [&new, &old] {
        assert_eq!(coverage.boot_path(), BootPath::GrubMeasured);
        assert_eq!(join_pcrs(&coverage.pcrs()), "0+4+7+8+9+14");
        assert_eq!(uncovered(coverage, "0+4+7+8+9+14"), "");
        let kernel = &coverage.bindings(Component::Kernel)[0];
        assert_eq!(join_pcrs(&kernel.pcrs), "4");
    }
    assert_eq!(uncovered(&new, "0+4+7+9"), "");
    assert_eq!(uncovered(&old, "0+4+7+9"), "initrd cmdline");
    assert_eq!(uncovered(&old, "0+4+7+8"), "initrd");
}

/// The log of a BIOS: SHA-1 only, separators, the boot sector, and nothing of the kernel.
#[test]
fn a_bios_boot_is_refused() {
    use vmseal::measurement::EventDigest;
    let event = |(number, (pcr, event_type, raw)): (usize, (u32, EventType, &[u8]))| {
        let bytes = PcrBank::Sha1.hash(raw).as_bytes().to_vec();
        let digests = vec![EventDigest { alg_id: 4, bytes }];
        Event { number, pcr, event_type, digests, raw: raw.to_vec() }
    };
    let events: [(u32, EventType, &[u8]); 7] = [
        (0, EventType::Separator, &[0xff; 4]),
        (1, EventType::EfiHandoffTables, &[0; 8]),
        (2, EventType::OmitBootDeviceEvents, b"ROM"),
        (4, EventType::Separator, &[0xff; 4]),
        (4, EventType::Action, b"Calling INT 19h"),
        (4, EventType::Ipl, b"IPL"),
        (5, EventType::IplPartitionData, b"IPL Partition Data"),
    ];
    let events = events.into_iter().enumerate().map(event);
    let log = EventLog::from_events(LogFormat::Sha1Only, events.collect());
    assert_eq!(EventLog::parse(&log.to_bytes()).unwrap(), log);
    let coverage = Coverage::of(&log);
    assert_eq!(coverage.boot_path(), BootPath::Bios);
    assert_uncovered(&coverage, &Component::ALL);
}
