//! Volumes that open for what this machine's own key has signed, and what a rotation leaves of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;

use serde_json::{Value, json};
use testkit::image::{PASSPHRASE, UUID};
use testkit::machine::{BASE, OTHER_KERNEL};
use testkit::system::BY_OWN_KEY;
use testkit::{Image, Machine, System, Systemd, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");

fn booted() -> System {
    System::on(Machine::booted(VMSEAL))
}

#[test]
fn a_volume_opens_for_what_the_own_key_signed_and_stock_systemd_opens_it_too() {
    let mut system = booted();
    let ran = system.enroll(&["--json"]).ok();
    let enrolled = ran.says("made the authority key").json();
    assert_eq!(enrolled["proven"], true);
    assert_eq!(enrolled["authority"]["made"], true);
    let token = &system.machine.image.tokens("systemd-tpm2")[0].1;
    assert_eq!(token["tpm2-pcrs"], json!([15]));
    assert_eq!(token["tpm2_pubkey_pcrs"], json!([0, 4, 7, 11, 12, 13]));

    // The header carries the signature, and the file is the same.
    let record = &system.machine.image.tokens("vmseal-record")[0].1;
    let file = system.signed();
    assert_eq!(record["signatures"], file);
    assert_eq!(file["sha256"][0]["pkfp"], system.show()["pkfp"]);
    let signatures = system.signatures();
    let opens = |system: &System, systemd: Systemd| {
        systemd.attaches(&system.machine.tpm, &system.machine.image, &signatures)
    };
    system.machine.boot(BASE);
    system.machine.unlock(&[]).ok();
    for systemd in [Systemd::Backports, Systemd::Trixie, Systemd::Forky] {
        assert!(opens(&system, systemd), "{systemd:?}");
    }
    system.machine.boot(OTHER_KERNEL);
    system.machine.unlock(&[]).refused(19).says("pcr 4");
    assert!(!opens(&system, Systemd::Trixie));
    system.machine.boot(BASE);
    system.machine.tpm.extend(15, 1);
    system.machine.unlock(&[]).refused(12).says("PCR 15");
    assert!(!opens(&system, Systemd::Trixie));
}

#[test]
fn a_second_boot_is_approved_beside_the_first() {
    let mut system = booted();
    system.enroll(&[]).ok();
    system.machine.boot(OTHER_KERNEL);
    let again = system.enroll(&["--json"]).ok().json();
    assert_eq!((&again["authority"]["made"], &again["superseded"]), (&false.into(), &json!([1])));
    assert_eq!(system.machine.image.keyslots().len(), 2);
    system.machine.unlock(&[]).ok();
    system.machine.boot(BASE);
    system.machine.unlock(&[]).ok();
    // With the keyslot, what opens nothing more is gone.
    system.revoke(&["--keyslot", "2"]).ok();
    let record = &system.machine.image.tokens("vmseal-record")[0].1;
    assert_eq!(record.get("signatures"), None);
}

#[test]
fn a_latched_boot_is_signed_for_and_opens_the_next_time() {
    let mut system = booted();
    system.machine.tpm.extend(15, 7);
    let enrolled = system.enroll(&[]).ok().says("this boot is latched");
    assert!(!enrolled.stderr.contains("not proven to open"), "{enrolled:#?}");
    system.machine.boot(BASE);
    system.machine.unlock(&[]).ok();
}

#[test]
fn more_boots_than_the_record_holds_are_refused_before_anything_is_written() {
    let system = booted();
    system.enroll(&[]).ok();
    let next = |system: &System| {
        system.machine.tpm.extend(8, 1);
        let log = system.machine.file("no-log");
        let mut command = system.machine.vmseal_with(&system.machine.tpm.tcti(), &log, &["enroll"]);
        command.args(BY_OWN_KEY).args(["--pcrs", "0+4+7+8+9+11", "--unlock-key-file"]);
        command.arg(system.machine.key_file()).arg("--root").arg(system.machine.file("root"));
        command.args(["--allow-uncovered", "firmware,loader,kernel,initrd,cmdline"]);
        run(command.arg(system.machine.image.path()))
    };
    let mut boots = 1;
    let refused = loop {
        let (before, file) = (system.machine.state(), fs::read(system.signatures()).unwrap());
        let ran = next(&system);
        if ran.code != Some(0) {
            assert_eq!(system.machine.state(), before);
            assert_eq!(fs::read(system.signatures()).unwrap(), file);
            break ran;
        }
        boots += 1;
    };
    refused.code(3).says("eight boots are approved already");
    assert_eq!(boots, 8);
    let record = system.machine.image.tokens("vmseal-record").remove(0).1;
    assert!(record.to_string().len() <= 8192);
}

#[test]
fn a_forged_signature_in_the_header_does_not_get_into_the_file() {
    let system = booted();
    system.enroll(&[]).ok();
    let (id, record) = system.machine.image.tokens("vmseal-record").remove(0);
    system.machine.image.edit_token(id, |record| {
        record["signatures"]["sha256"][0]["pol"] = "ab".repeat(32).into();
    });
    system.enroll(&[]).ok();
    assert_eq!(
        system.machine.image.tokens("vmseal-record")[0].1["signatures"],
        record["signatures"]
    );
    let text = fs::read_to_string(system.signatures()).unwrap();
    assert!(!text.contains(&"ab".repeat(32)), "{text}");
}

#[test]
fn a_rotation_keeps_the_old_key_until_every_volume_is_enrolled_again() {
    let mut system = booted();
    system.enroll(&[]).ok();
    let first = fs::read(system.key()).unwrap();
    let old_signatures = fs::read(system.signatures()).unwrap();
    let rotated =
        system.authority(&["rotate", "--json"]).ok().says("until the volume is reencrypted");
    let rotated = rotated.json();
    assert_ne!(fs::read(system.key()).unwrap(), first);
    assert_eq!(fs::read(system.old_key()).unwrap(), first);
    assert_eq!(rotated["old"]["volumes"][0]["uuid"], UUID);
    assert_eq!(rotated["old"]["volumes"][0]["keyslots"], json!([1]));
    assert_eq!(system.show()["old"]["volumes"], rotated["old"]["volumes"]);
    system.authority(&["rotate"]).refused(3).says("the last rotation is not finished");
    system.machine.unlock(&[]).ok();

    // Where nothing is proven, the old keyslot stays, and the old key with it.
    system.machine.tpm.extend(15, 1);
    let ran = system.enroll(&[]).ok();
    assert!(ran.stdout.contains("opens for the old key by keyslot 1"), "{ran:#?}");
    assert_eq!(fs::read(system.old_key()).unwrap(), first);
    system.machine.boot(BASE);
    system.machine.unlock(&[]).ok();
    let ran = system.revoke(&["--keyslot", "1"]).ok();
    assert!(ran.stdout.contains("no volume needs it"), "{ran:#?}");
    assert!(!system.old_key().exists());
    system.machine.unlock(&[]).ok();

    // What the old key signed opens nothing more.
    let record = system.machine.image.tokens("vmseal-record").remove(0);
    system.machine.image.edit_token(record.0, |record| {
        record["signatures"] = serde_json::from_slice(&old_signatures).unwrap();
    });
    system.machine.unlock(&[]).refused(19);
    system.authority(&["rotate"]).ok();
}

#[test]
fn a_proven_enrolment_ends_the_rotation_once_no_pinned_volume_is_missing() {
    let system = booted();
    system.enroll(&[]).ok();
    system.authority(&["rotate"]).ok();
    let pins = fs::read_to_string(system.machine.pins()).unwrap();
    let other = "7b2d2c6f-3c80-4d4f-8e32-107d5a2b8ca1";
    let mut both: Value = serde_json::from_str(&pins).unwrap();
    both[other] = both[UUID].clone();
    fs::write(system.machine.pins(), both.to_string()).unwrap();
    let ran = system.enroll(&["--json"]).ok().json();
    assert_eq!(ran["superseded"], json!([1]));
    assert!(system.old_key().exists(), "one volume is not there to be looked at");
    fs::write(system.machine.pins(), pins).unwrap();
    system.enroll(&[]).ok();
    assert!(!system.old_key().exists());
    assert!(system.machine.image.opens_with(PASSPHRASE));
}

#[test]
fn a_pin_goes_with_it() {
    let mut system = booted();
    let pin = system.machine.file("pin");
    fs::write(&pin, "correct pin").unwrap();
    let pin = pin.to_str().unwrap();
    let options = ["--pin", "--pin-file", pin, "--json"];
    assert_eq!(system.enroll(&options).ok().json()["proven"], true);
    system.machine.boot(BASE);
    system.machine.unlock(&["--pin-file", pin]).ok();
    // Another volume is approved by the same file.
    system.machine.image = Image::create(system.machine.folder.path());
    system.enroll(&[]).ok();
    let file = system.signed();
    assert_eq!(file["sha256"].as_array().unwrap().len(), 1);
}
