//! Recorded boots: each derived again from its own files, and predicted from another's log.

use vmseal::artifact::Volume;
use vmseal::artifact::grub::{
    BootFiles, Choice, Facts, FileRef, Hashed, Lesson, Walk, entries, learn, walk,
};
use vmseal::measurement::{Digest, EventLog, EventType, PcrBank, Tag};

use crate::fixture::{MemoryFiles, case, files, log};

const BANKS: &[PcrBank] = &[PcrBank::Sha256];

/// What GRUB measured: PCR, words and digest of each event.
fn measured(log: &EventLog) -> Vec<(u8, String, Digest)> {
    let events = log
        .events()
        .iter()
        .filter(|event| matches!(event.pcr, 8 | 9) && event.event_type == EventType::Ipl);
    events
        .map(|event| {
            let digest = event.digest(PcrBank::Sha256).unwrap();
            (event.pcr as u8, event.data().to_string(), digest)
        })
        .collect()
}

fn predicted(walk: &Walk) -> Vec<(u8, String, Digest)> {
    let events = walk.events.iter();
    events.map(|e| (e.pcr.get(), e.words.clone(), *e.digest(PcrBank::Sha256).unwrap())).collect()
}

fn learned(files: &MemoryFiles, log: &EventLog) -> Lesson {
    let digests = Hashed::new(files, BANKS);
    learn(&BootFiles { files, digests: &digests, banks: BANKS }, log)
        .unwrap_or_else(|e| panic!("{e}"))
}

fn walked(files: &MemoryFiles, facts: &Facts, choice: &Choice) -> Walk {
    let digests = Hashed::new(files, BANKS);
    walk(&BootFiles { files, digests: &digests, banks: BANKS }, facts, choice)
}

/// The walk is the boot that the log and the guest's command line tell of.
fn assert_is(walk: &Walk, files: &MemoryFiles, name: &str) {
    let log = log(name);
    assert_eq!(predicted(walk), measured(&log), "{name}");
    assert_eq!(walk.gaps, [], "{name}");
    let boot = walk.boot.as_ref().unwrap_or_else(|why| panic!("{name}: {why}"));
    let cmdline = std::fs::read_to_string(case(name).join("cmdline")).unwrap();
    assert_eq!(boot.kernel_sees(), cmdline.trim_end(), "{name}");
    let digests = Hashed::new(files, BANKS);
    let digests: &dyn vmseal::artifact::grub::FileDigests = &digests;
    let initrd = digests.digests(&boot.initrds).unwrap().unwrap();
    let mut tags = 0;
    for event in log.events().iter().filter(|event| event.pcr == 9) {
        if event.data().has_tag(Tag::LoadOptions) {
            assert!(event.measures(&boot.load_options()), "{name}");
            tags += 1;
        }
        if event.data().has_tag(Tag::LinuxInitrd) {
            assert_eq!(event.digest(PcrBank::Sha256).unwrap(), initrd[0], "{name}");
            tags += 1;
        }
    }
    assert_eq!(tags, 2, "{name}");
}

/// Learns from `base` and predicts each of the others, and itself.
fn family(base: &str, others: &[&str]) {
    let base_files = files(base);
    let lesson = learned(&base_files, &log(base));
    assert_is(&lesson.walk, &base_files, base);
    for other in others.iter().chain([&base]) {
        let files = files(other);
        assert_is(&walked(&files, &lesson.facts, &Choice::Default), &files, other);
        let own = learned(&files, &log(other));
        assert_is(&own.walk, &files, other);
    }
}

#[test]
fn a_standalone_grub_is_predicted() {
    family("grub/base", &["grub/cmdline", "grub/initrd"]);
}

#[test]
fn grub_with_the_tpm_module_is_predicted() {
    let case = |name| format!("grub-tpm-deb13/{name}");
    let cases = ["base", "cmdline", "initrd", "kernel3", "next-older", "saved-base"].map(case);
    let cases = cases.each_ref().map(String::as_str);
    for base in cases {
        family(base, &cases);
    }
}

#[test]
fn shim_and_signed_grub_are_predicted() {
    family("shim-nosb-deb13/base", &["shim-nosb-deb13/cmdline"]);
    family("shim-nosb-deb13/cmdline", &["shim-nosb-deb13/base"]);
}

#[test]
fn plain_grub_measures_nothing_and_still_names_its_kernel() {
    family("grub-real-deb13/base", &["grub-real-deb13/kernel3"]);
    family("grub-real-deb13/kernel3", &["grub-real-deb13/base"]);
}
