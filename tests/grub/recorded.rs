//! Recorded boots: each derived again from its own files, and predicted from another's log.

use vmseal::artifact::Volume;
use vmseal::artifact::grub::{
    BootFiles, Choice, EntryName, Facts, Hashed, Lesson, Walk, entries, learn, walk,
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
            (event.pcr as u8, event.data().in_full(), digest)
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

fn listed(files: &MemoryFiles, facts: &Facts) -> Vec<EntryName> {
    let digests = Hashed::new(files, BANKS);
    entries(&BootFiles { files, digests: &digests, banks: BANKS }, facts).unwrap()
}

/// grubenv as the boot leaves it: what the guest found there afterwards.
#[test]
fn a_boot_rewrites_grubenv_as_grub_did() {
    for name in ["base", "next-older", "saved-base"] {
        let name = format!("grub-tpm-deb13/{name}");
        let files = files(&name);
        let walk = learned(&files, &log(&name)).walk;
        let after = std::fs::read(case(&name).join("inputs/grubenv.after-boot")).unwrap();
        let before = files.text(Volume::Boot, "/grub/grubenv").into_bytes();
        let written = walk.written.first().map_or(&before, |written| &written.bytes);
        assert!(*written == after, "{name}");
    }
}

/// The boot after the one with `next_entry`: the default entry again, and no further change.
#[test]
fn the_boot_after_next_entry_is_another_one() {
    let base = "grub-tpm-deb13/saved-base";
    let lesson = learned(&files(base), &log(base));
    let mut files = files("grub-tpm-deb13/next-older");
    let once = walked(&files, &lesson.facts, &Choice::Default);
    assert!(once.boot.unwrap().kernel.path.contains("6.1.0-56"));
    let written = once.written[0].clone();
    files.put(written.file.volume, &written.file.path, written.bytes);
    let after = walked(&files, &lesson.facts, &Choice::Default);
    let boot = after.boot.unwrap();
    assert!(boot.kernel.path.contains("6.12.107"));
    assert_eq!(after.written, []);
    // It differs from the boot before by the line that is left in grubenv, and by nothing else.
    let saved = measured(&log("grub-tpm-deb13/saved-base"));
    let after: Vec<_> =
        after.events.iter().map(|e| (e.words.clone(), *e.digest(BANKS[0]).unwrap())).collect();
    assert_eq!(after.len(), saved.len());
    let differing = after.iter().zip(&saved).filter(|((_, a), (_, _, b))| a != b);
    let differing: Vec<&str> = differing.map(|((words, _), _)| words.as_str()).collect();
    assert_eq!(differing, ["GRUB read (hd0,gpt2)/grub/grubenv"; 2]);
}

#[test]
fn every_entry_is_listed_and_walked() {
    let base = "grub-tpm-deb13/base";
    let lesson = learned(&files(base), &log(base));
    let files = files("grub-tpm-deb13/kernel3");
    let names = listed(&files, &lesson.facts);
    assert_eq!(names.len(), 8);
    assert_eq!(names[7].id_path(), "uefi-firmware");
    for name in &names {
        let walk = walked(&files, &lesson.facts, &Choice::Entry(name.positions.clone()));
        match walk.boot {
            Ok(boot) => {
                assert_eq!(boot.entry.as_ref(), Some(name));
                let version = boot.kernel.path.strip_prefix("/vmlinuz-").unwrap();
                assert!(boot.initrds[0].path.ends_with(version));
            }
            Err(why) => {
                assert_eq!(name.id_path(), "uefi-firmware", "{why}");
                assert!(why.why.contains("firmware"), "{why}");
            }
        }
    }
}

/// The older boot, as chosen by hand, teaches as well as the default one.
#[test]
fn a_boot_chosen_by_hand_teaches() {
    let name = "grub-tpm-deb13/next-older";
    let mut older = files(name);
    let hand = older.text(Volume::Boot, "/grub/grubenv").replacen("next_entry=", "other=", 1);
    older.put(Volume::Boot, "/grub/grubenv", hand);
    let lesson = learned(&files(name), &log(name));
    let names = listed(&older, &lesson.facts);
    let picked = walked(&older, &lesson.facts, &Choice::Entry(names[3].positions.clone()));
    assert!(picked.boot.as_ref().unwrap().kernel.path.contains("6.1.0-56"));
    let made = made_log(&picked);
    let again = learned(&older, &made);
    assert_eq!(predicted(&again.walk), predicted(&picked));
    assert!(
        walked(&older, &again.facts, &Choice::Default).boot.unwrap().kernel.path.contains("6.12")
    );
}

/// A log of what a walk measured.
fn made_log(walk: &Walk) -> EventLog {
    let template = log("grub-tpm-deb13/base");
    let model = template.events().iter().find(|e| e.pcr == 8).unwrap();
    let mut events = vec![template.events()[0].clone()];
    for (measured, label) in walk.events.iter().zip(&walk.labels) {
        let mut event = model.clone();
        event.number = events.len();
        event.pcr = measured.pcr.get().into();
        event.digests[0].bytes = measured.digest(BANKS[0]).unwrap().as_bytes().to_vec();
        event.raw = label.clone().into_bytes();
        event.raw.push(0);
        events.push(event);
    }
    EventLog::from_events(template.format().clone(), events)
}

/// The full guests have no files: their configuration is that of the log, digest by digest, the
/// rest is known by digest only.
#[test]
fn full_guests_are_derived_from_the_text_of_their_configuration() {
    for name in ["dracut", "initramfs-tools"] {
        let name = format!("full-grub/{name}");
        let log = log(&name);
        let label = |event: &vmseal::measurement::Event| {
            String::from_utf8(event.raw.clone()).unwrap().trim_end_matches('\0').to_owned()
        };
        let menu = log.events().iter().find(|e| e.raw.starts_with(b"grub_cmd: menuentry")).unwrap();
        let body = label(menu);
        let body = body.strip_prefix("grub_cmd: menuentry Debian ").unwrap();
        let config = format!(
            "set timeout=0\nserial --unit=0 --speed=115200\nterminal_output serial console\n\
             menuentry 'Debian' {body}\n"
        );
        let mut files = MemoryFiles::default();
        files.put(Volume::Esp, "/EFI/BOOT/grub.cfg", config);
        for event in log.events().iter().filter(|e| e.pcr == 9 && e.raw.starts_with(b"/deb/")) {
            files.put_digest(Volume::Esp, &label(event), event.digest(BANKS[0]).unwrap());
        }
        let lesson = learned(&files, &log);
        assert_is(&lesson.walk, &files, &name);
        assert_is(&walked(&files, &lesson.facts, &Choice::Default), &files, &name);
    }
}

/// No event log there: only what follows from files, the kernel's command line, can be compared.
#[test]
fn a_grub_of_debian_12_names_its_kernel() {
    let name = "grub-real-deb12/base";
    let files = files(name);
    let digests = Hashed::new(&files, BANKS);
    let facts = Facts::without_tpm(&BootFiles { files: &files, digests: &digests, banks: BANKS });
    let walk = walked(&files, &facts.unwrap(), &Choice::Default);
    let cmdline = std::fs::read_to_string(case(name).join("cmdline")).unwrap();
    assert_eq!(walk.boot.unwrap().kernel_sees(), cmdline.trim_end());
    assert_eq!(walk.events, []);
}

#[test]
fn what_does_not_reproduce_is_named() {
    let base = files("grub-tpm-deb13/base");
    let digests = Hashed::new(&base, BANKS);
    let boot = BootFiles { files: &base, digests: &digests, banks: BANKS };
    // The initrd alone: the last event but two.
    let error = learn(&boot, &log("grub-tpm-deb13/initrd")).unwrap_err();
    assert!(error.expected.contains("/initrd.img-6.12.107"), "{error}");
    assert_eq!((error.event, error.line), (Some(122), 108));
    let error = learn(&boot, &log("grub-tpm-deb13/next-older")).unwrap_err();
    assert!(error.expected.contains("grub.cfg"), "{error}");
    let error = learn(&boot, &log("shim-nosb-deb13/base")).unwrap_err();
    assert!(error.event.is_some(), "{error}");
}

/// A module whose place nothing tells leaves PCR 9 untold, and PCR 8 told.
#[test]
fn an_unknown_module_spoils_pcr_9_only() {
    let name = "grub-tpm-deb13/base";
    let mut files = files(name);
    let lesson = learned(&files, &log(name));
    let config = files.text(Volume::Boot, "/grub/grub.cfg");
    files.put(Volume::Boot, "/grub/grub.cfg", format!("{config}\ninsmod serial\n"));
    let walk = walked(&files, &lesson.facts, &Choice::Default);
    assert!(walk.boot.is_ok());
    let gap = &walk.gaps[0];
    assert_eq!(gap.pcrs.iter().map(|pcr| pcr.get()).collect::<Vec<_>>(), [9]);
    assert_eq!(
        (gap.file.as_str(), gap.line),
        ("(hd0,gpt2)/grub/grub.cfg", config.lines().count() + 2)
    );
    assert!(gap.why.contains("serial"), "{gap}");
}
