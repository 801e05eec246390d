//! `vmseal reseal` where something stands in its way: no room, a TPM in lockout, a clock that is
//! wrong. It does its work or refuses; what opened before opens afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod guest;

use std::fs;
use std::process::Command;

use guest::*;
use serde_json::json;
use testkit::{Systemd, run};

const RESEAL: [&str; 2] = ["reseal", "--yes"];
/// Runs what follows while a folder is on a file system of its own, of so many KiB and with so many
/// left, and keeps what lies there afterwards.
const ON_A_SMALL_DISK: &str = r#"
    folder=$1 size=$2 left=$3 kept=$4; shift 4
    mkdir -p "$kept" && cp -a "$folder/." "$kept"
    mount -t tmpfs -o "size=${size}k" tmpfs "$folder" && cp -a "$kept/." "$folder"
    used=$(df --output=used -k "$folder" | tail -n 1)
    dd if=/dev/zero of="$folder/filler" bs=1k count=$((size - used - left)) status=none
    "$@"; code=$?
    rm "$folder/filler"; rm -rf "$kept"; cp -a "$folder" "$kept"
    exit $code"#;

/// An update that waits for its approval.
fn updated() -> Guest {
    let guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    guest
}

/// What was refused is approved later, and opens.
fn is_approved_later(mut guest: Guest) {
    guest.machine.unlock(&["-q"]).ok();
    run(&mut guest.command(&RESEAL)).ok();
    run(&mut guest.command(&["journal", "--verify"])).ok();
    guest.reboot();
    assert!(guest.boot_step());
}

#[test]
fn a_full_disk_refuses_and_changes_nothing() {
    let guest = updated();
    let folder = guest.path("var/lib/vmseal");
    let before = guest.machine.image.snapshot();
    let mut refused = 0;
    for left in [0, 4, 8, 12, 16, 24, 32, 64] {
        let kept = guest.machine.file("kept");
        let command = guest.command(&RESEAL);
        let mut small = Command::new("unshare");
        small.args(["--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh"]);
        small.arg(&folder).args(["128", &left.to_string()]).arg(&kept);
        small.arg(command.get_program()).args(command.get_args());
        let ran = run(&mut small);
        if ran.code == Some(0) {
            // What there was room for is what it is without a limit.
            fs::remove_dir_all(&folder).unwrap();
            fs::rename(&kept, &folder).unwrap();
            break;
        }
        let ran = ran.code(3);
        assert!(ran.stderr.contains("no storage space"), "{left}: {ran:#?}");
        assert_eq!(guest.machine.image.snapshot(), before, "{left}");
        refused += 1;
        // What was left lying there is no hindrance: it is put where the next run finds it.
        let aside = guest.machine.file("aside");
        let _ = fs::remove_dir_all(&aside);
        fs::rename(&folder, &aside).unwrap();
        fs::rename(&kept, &folder).unwrap();
        run(&mut guest.command(&["journal", "--verify"])).ok();
        guest.machine.unlock(&["-q"]).ok();
    }
    assert!(refused >= 2, "{refused}");
    is_approved_later(guest);
}

#[test]
fn a_full_header_refuses_and_changes_nothing() {
    let guest = updated();
    let filler = |length| json!({ "type": "filler", "keyslots": [], "x": "x".repeat(length) });
    let most = (1..).map(|kib| kib * 512).take_while(|length| {
        let copy = guest.machine.image.copy();
        copy.import_token(20, &filler(*length)).code == Some(0)
    });
    let most = most.last().unwrap();
    guest.machine.image.import_token(20, &filler(most)).ok();
    let (before, state) = (guest.machine.image.snapshot(), entries(&guest));
    run(&mut guest.command(&RESEAL)).code(3).says("JSON area is full");
    assert_eq!((guest.machine.image.snapshot(), entries(&guest)), (before, state));
    guest.machine.image.cryptsetup("token", &["remove", "--token-id", "20"], b"").ok();
    is_approved_later(guest);
}

fn entries(guest: &Guest) -> serde_json::Value {
    let state = fs::read(guest.path("var/lib/vmseal/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    state["volumes"].clone()
}

/// Nothing that a reseal asks of the TPM counts attempts.
#[test]
fn a_tpm_in_lockout_is_no_hindrance() {
    let mut guest = updated();
    guest.machine.lock_tpm_out();
    run(&mut guest.command(&RESEAL)).ok();
    assert!(guest.machine.tpm.lockout_counter() >= 3);
    guest.reboot();
    assert!(guest.boot_step());
}

/// The chain gives the order, not the clock.
#[test]
fn a_wrong_clock_is_no_hindrance() {
    for time in ["1970-01-01 00:00:07", "2105-06-15 12:00:00"] {
        let mut guest = updated();
        let command = guest.command(&RESEAL);
        let mut faketime = Command::new("faketime");
        faketime.arg(time).arg(command.get_program()).args(command.get_args());
        run(&mut faketime).ok();
        let lines = run(&mut guest.command(&["journal"])).ok().stdout;
        let year = time.split('-').next().unwrap();
        assert!(lines.lines().any(|line| line.contains(&format!(" {year}-"))), "{lines}");
        run(&mut guest.command(&["journal", "--verify"])).ok();
        guest.reboot();
        assert!(guest.boot_step());
    }
}

/// By the file of signatures that a reseal leaves.
#[test]
fn stock_systemd_opens_the_boot_that_was_resealed_for() {
    let mut guest = updated();
    let signatures = guest.path("var/lib/vmseal/tpm2-pcr-signature.json");
    let opens = |guest: &Guest| {
        let (tpm, image) = (&guest.machine.tpm, &guest.machine.image);
        [Systemd::Trixie, Systemd::Forky].map(|systemd| systemd.attaches(tpm, image, &signatures))
    };
    assert_eq!(opens(&guest), [true; 2]);
    let before = fs::read(&signatures).unwrap();
    run(&mut guest.command(&RESEAL)).ok();
    guest.reboot();
    assert_eq!(opens(&guest), [true; 2]);
    // Not by those from before.
    fs::write(&signatures, before).unwrap();
    assert_eq!(opens(&guest), [false; 2]);
}
