//! `vmseal adopt`: the pin and the record of a volume that systemd enrolled; its tokens stay.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use serde_json::Value;
use testkit::image::{PASSPHRASE, UUID};
use testkit::machine::{BASE, OTHER_KERNEL};
use testkit::{Authority, Machine, Ran, Systemd, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");

/// A machine whose disk systemd 257 enrolled.
fn enrolled(options: &[&str]) -> Machine {
    let machine = Machine::booted(VMSEAL);
    Systemd::Trixie.enroll(&machine.tpm, &machine.image, options).ok();
    machine
}

fn literal() -> Machine {
    enrolled(&["--tpm2-pcrs=4+7", "--tpm2-public-key="])
}

fn adopt(machine: &Machine, options: &[&str]) -> Ran {
    let mut command = machine.vmseal(&["adopt"]);
    command.arg("--unlock-key-file").arg(machine.key_file()).args(options);
    run(command.arg(machine.image.path()))
}

fn pins(machine: &Machine) -> Value {
    serde_json::from_slice(&machine.pins_bytes().expect("pins")).unwrap()
}

#[test]
fn a_volume_is_pinned_and_its_token_stays_and_explains_itself() {
    let mut machine = literal();
    let token = machine.image.tokens("systemd-tpm2");
    let keyslots = machine.image.keyslots();
    machine.unlock(&[]).ok().says("has no pin");

    let ran = adopt(&machine, &[]).ok();
    let ran =
        ran.says("token 0 is not known to cover the firmware").says("is not sealed to pcr 15");
    assert!(ran.stdout.contains(&format!("pinned volume {UUID}")), "{ran:#?}");
    assert!(pins(&machine)[UUID].is_object());
    assert_eq!(machine.image.tokens("systemd-tpm2"), token);
    assert_eq!(machine.image.keyslots(), keyslots);
    let unlocked = machine.unlock(&[]).ok();
    assert!(!unlocked.stderr.contains("has no pin"), "{unlocked:#?}");
    Systemd::Trixie.opens(&machine.tpm, &machine.image).ok();

    machine.boot(OTHER_KERNEL);
    // Without the record it would be "PCR 4+7 or one of them".
    machine.unlock(&[]).refused(12).says("pcr 4 differs; pcr 4: ");
}

#[test]
fn adopting_again_changes_nothing() {
    let machine = literal();
    adopt(&machine, &[]).ok();
    let before = machine.state();
    let ran = adopt(&machine, &["--json"]).ok().json();
    assert_eq!(machine.state(), before);
    assert_eq!(ran["pinned"], true);
    let token = &ran["tokens"][0];
    assert_eq!(token["verdict"], "fits");
    assert_eq!(token["recorded"], true);
    assert_eq!(token["latchable"], false);
    assert_eq!(token["uncovered"], serde_json::json!(["firmware", "kernel", "initrd", "cmdline"]));
}

#[test]
fn a_volume_of_vmseal_lacks_nothing() {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    std::fs::remove_file(machine.pins()).unwrap();
    let snapshot = machine.image.snapshot();
    let ran = adopt(&machine, &[]).ok();
    assert!(!ran.stderr.contains("WARNING"), "{ran:#?}");
    assert_eq!(machine.image.snapshot(), snapshot, "the record was there");
    machine.unlock(&["--quiet"]).ok();
}

#[test]
fn a_signed_token_is_recorded_with_the_values_that_were_signed() {
    let machine = Machine::booted(VMSEAL);
    let authority = Authority::new(machine.folder.path(), "authority");
    let key = format!("--tpm2-public-key={}", authority.public().display());
    let options = ["--tpm2-pcrs=", &key, "--tpm2-public-key-pcrs=4+9"];
    Systemd::Trixie.enroll(&machine.tpm, &machine.image, &options).ok();
    let signature = machine.file("signature.json");
    std::fs::write(&signature, authority.sign(&machine.tpm, "sha256", &[4, 9]).to_string())
        .unwrap();
    let signature = ["--signature", signature.to_str().unwrap()];
    adopt(&machine, &signature).ok().says("is not known to cover the firmware");
    machine.unlock(&signature).ok();
    machine.tpm.extend(9, 1);
    machine.unlock(&signature).refused(19).says("this boot is not the sealed one: pcr 9 differs");
}

#[test]
fn a_token_for_another_boot_is_left_unrecorded() {
    let mut machine = literal();
    machine.boot(OTHER_KERNEL);
    let ran = adopt(&machine, &["--json"]).ok().json();
    assert_eq!(ran["tokens"][0]["verdict"], "differs");
    assert_eq!(ran["tokens"][0]["recorded"], false);
    assert_eq!(ran["tokens"][0]["uncovered"], Value::Null);
    let record = &machine.image.tokens("vmseal-record")[0].1;
    assert_eq!((&record["entries"], record["pin"].is_object()), (&serde_json::json!([]), true));
    machine.boot(BASE);
    adopt(&machine, &[]).ok();
    assert_eq!(machine.image.tokens("vmseal-record").len(), 1);
}

#[test]
fn what_cannot_be_adopted_is_refused_and_nothing_changes() {
    let mut machine = literal();
    std::fs::write(machine.file("wrong"), "not the passphrase").unwrap();
    let wrong = machine.file("wrong");
    let with_file = |machine: &Machine, file: &std::path::Path, options: &[&str]| {
        let mut command = machine.vmseal(&["adopt"]);
        command.arg("--unlock-key-file").arg(file).args(options);
        run(command.arg(machine.image.path()))
    };
    machine.refuses(16, |machine| with_file(machine, &wrong, &["--quiet"]));
    machine.tpm.extend(4, 1);
    machine.refuses(12, |machine| adopt(machine, &[])).says("pcr 4");
    machine.boot(BASE);
    let before = machine.state();
    adopt(&machine, &["--dry-run"]).ok().says("is not known to cover the firmware");
    assert_eq!(machine.state(), before);

    adopt(&machine, &[]).ok();
    machine
        .image
        .edit_metadata(|json| json["segments"]["0"]["encryption"] = "aes-cbc-plain64".into());
    machine.refuses(17, |machine| adopt(machine, &[])).says("not the pinned volume");

    let plain = Machine::booted(VMSEAL);
    plain.refuses(10, |machine| adopt(machine, &[])).says("no tpm token");
    let mut foreign = literal();
    foreign.tpm.replace_owner();
    foreign.boot(BASE);
    foreign.refuses(13, |machine| adopt(machine, &[]));
    let bad = literal();
    bad.image.edit_metadata(|json| json["tokens"]["0"]["tpm2-blob"] = "AAAA".into());
    bad.refuses(15, |machine| adopt(machine, &[])).says("tpm2-blob");
    assert!(bad.image.opens_with(PASSPHRASE));
}

#[test]
fn without_a_log_the_pin_is_made_and_the_doubt_is_told() {
    let machine = literal();
    let mut command = machine.vmseal_with(&machine.tpm.tcti(), &machine.file("no.log"), &["adopt"]);
    command.arg("--unlock-key-file").arg(machine.key_file()).arg("--json");
    let ran = run(command.arg(machine.image.path())).ok();
    assert_eq!(ran.says("no event log").json()["tokens"][0]["uncovered"], Value::Null);
    assert!(pins(&machine)[UUID].is_object());
}
