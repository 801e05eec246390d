//! `vmseal reseal` and `vmseal confirm` after power loss: `kill -9` at each system call by which
//! anything changes. The disk opens for the boot that runs, and running again completes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod guest;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use guest::*;
use testkit::image::PASSPHRASE;
use testkit::run;
use testkit::run::is_killed;

/// System calls by which files change, and those by which the TPM is asked. strace counts each of
/// them by itself.
const CALLS: [&str; 9] =
    ["write", "pwrite64", "fsync", "ftruncate", "mkdir", "rename", "renameat2", "unlink", "poll"];

/// What of a guest changes: the disk, and the files below `/var` and `/boot`.
struct Before {
    image: testkit::image::Snapshot,
    copy: tempfile::TempDir,
}

impl Before {
    fn of(guest: &Guest) -> Self {
        let copy = tempfile::tempdir().unwrap();
        for folder in ["var", "boot/vmseal", "run"] {
            let from = guest.path(folder);
            if from.exists() {
                let to = copy.path().join(folder);
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                run(Command::new("cp").arg("-a").arg(from).arg(to)).ok();
            }
        }
        Self { image: guest.machine.image.snapshot(), copy }
    }

    fn restore(&self, guest: &Guest) {
        guest.machine.image.restore(&self.image);
        for folder in ["var", "boot/vmseal", "run"] {
            let _ = fs::remove_dir_all(guest.path(folder));
            let from = self.copy.path().join(folder);
            if from.exists() {
                run(Command::new("cp").arg("-a").arg(from).arg(guest.path(folder))).ok();
            }
        }
        guest.machine.tpm.flush();
    }
}

/// Kills `verb` everywhere, and runs it again each time. Returns the number of points.
fn kill_everywhere(guest: &Guest, verb: &[&str], check: impl Fn(&str)) -> usize {
    let before = Before::of(guest);
    let command = guest.command(verb);
    let mut points = BTreeMap::new();
    for call in CALLS {
        for nth in 1.. {
            before.restore(guest);
            if !is_killed(&command, call, nth) {
                break;
            }
            points.insert(call, nth);
            guest.machine.tpm.flush();
            let point = format!("{verb:?} {call} {nth}");
            assert!(guest.machine.image.opens_with(PASSPHRASE), "{point}");
            guest.machine.unlock(&["-q"]).ok();
            let again = run(&mut guest.command(verb));
            assert_eq!(again.code, Some(0), "{point}: {again:#?}");
            guest.machine.unlock(&["-q"]).ok();
            run(&mut guest.command(&["journal", "--verify"])).ok();
            check(&point);
        }
    }
    for call in ["write", "fsync", "rename"] {
        assert!(points.contains_key(call), "{points:?}");
    }
    points.values().sum()
}

fn header_and_slots(guest: &Guest) -> (usize, usize) {
    let signatures = guest.verdicts().len();
    (guest.machine.image.keyslots().len(), signatures)
}

#[test]
fn reseal_and_confirm_may_be_killed_at_any_instant() {
    let mut guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    let slots = header_and_slots(&guest);
    let ended = |guest: &Guest, approved: usize, point: &str| {
        let state = fs::read(guest.path("var/lib/vmseal/state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        let volume = state["volumes"].as_object().unwrap().values().next().unwrap();
        assert_eq!(volume["entries"].as_array().unwrap().len(), approved, "{point}");
        assert_eq!(header_and_slots(guest), slots, "{point}");
    };
    let resealing = kill_everywhere(&guest, &["reseal", "--yes"], |point| ended(&guest, 2, point));
    run(&mut guest.command(&["reseal", "--yes"])).ok();
    guest.reboot();
    assert!(guest.boot_step());
    let confirming = kill_everywhere(&guest, &["confirm"], |point| ended(&guest, 1, point));
    assert!(resealing + confirming > 50, "{resealing} + {confirming}");
}

/// Literal values: a boot loses approval with the keyslot that opens for it alone.
#[test]
fn withdrawing_a_keyslot_may_be_killed_at_any_instant() {
    let mut guest = Guest::with_hook(SDBOOT);
    guest.enroll(&["--policy", "pcr"]).ok();
    guest.reboot();
    assert!(guest.boot_step());
    run(&mut guest.command(&["confirm"])).ok();
    guest.update_initrd();
    let file = guest.machine.key_file();
    let file = file.to_str().unwrap().to_owned();
    run(&mut guest.command(&["reseal", "--yes", "--unlock-key-file", &file])).ok();
    assert_eq!(guest.machine.image.keyslots().len(), 3);
    guest.reboot();
    assert!(guest.boot_step());
    let points = kill_everywhere(&guest, &["confirm"], |point| {
        assert_eq!(guest.machine.image.keyslots().len(), 2, "{point}");
        assert_eq!(guest.verdicts(), ["fits"], "{point}");
    });
    assert!(points > 20, "{points}");
}
