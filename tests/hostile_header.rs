//! Headers that somebody edited, and writes that fail: no key is lost, none is counted that nobody
//! has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::{self, File};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use testkit::image::PASSPHRASE;
use testkit::machine::{BASE, OTHER_CMDLINE, OTHER_KERNEL};
use testkit::{Machine, Ran, Systemd, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
const SECOND: &str = "another passphrase";

fn enrolled() -> Machine {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine
}

/// Adds a keyslot for [`SECOND`], as cryptsetup makes it with further options.
#[track_caller]
fn add_keyslot(machine: &Machine, options: &[&str]) {
    let new = machine.file("new");
    fs::write(&new, SECOND).unwrap();
    let mut add = Command::new("cryptsetup");
    add.args(["luksAddKey", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
    add.args(options).arg("--key-file").arg(machine.key_file());
    run(add.arg(machine.image.path()).arg(new)).ok();
}

/// Adds a keyslot of the shape that systemd and vmseal make, for [`SECOND`].
#[track_caller]
fn add_machine_made(machine: &Machine) {
    add_keyslot(machine, &["--hash", "sha512"]);
}

fn remove_tokens(machine: &Machine, kind: &str) {
    machine.image.edit_metadata(|metadata| {
        metadata["tokens"].as_object_mut().unwrap().retain(|_, token| token["type"] != kind);
    });
}

fn uses(machine: &Machine) -> Vec<String> {
    let json = machine.status(&["--json"]).ok().json();
    let keyslots = json["volumes"][0]["keyslots"].as_array().unwrap().clone();
    keyslots.iter().map(|slot| slot["use"].as_str().unwrap().to_owned()).collect()
}

/// `vmseal enroll --recovery-key` whose standard output is `sh`'s redirection.
fn recovery_into(machine: &Machine, options: &[&str], redirection: &str) -> Ran {
    let mut enroll = machine.vmseal(&["enroll", "--recovery-key"]);
    enroll.args(options).arg("--unlock-key-file").arg(machine.key_file());
    enroll.arg(machine.image.path());
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {redirection}")]);
    run(shell.arg(enroll.get_program()).args(enroll.get_args()))
}

#[test]
fn a_recovery_key_that_nobody_saw_is_no_recovery_key() {
    for redirection in [">/dev/full", ">&-", ">/dev/null"] {
        for options in [&[][..], &["--json"], &["--quiet"]] {
            let machine = Machine::booted(VMSEAL);
            recovery_into(&machine, options, redirection).code(1).says("recovery key");
            assert_eq!(uses(&machine), ["passphrase", "TPM"], "{redirection} {options:?}");
            assert_eq!(machine.image.tokens("systemd-recovery"), []);
            assert_eq!(machine.image.tokens("vmseal-recovery-unseen"), []);
            machine.unlock(&[]).ok();
            machine.revoke(&["--keyslot", "0"]).refused(3);
        }
    }
}

#[test]
fn a_reader_that_went_away_saw_no_recovery_key() {
    let machine = Machine::booted(VMSEAL);
    let mut enroll = machine.vmseal(&["enroll", "--recovery-key"]);
    enroll.arg("--unlock-key-file").arg(machine.key_file()).arg(machine.image.path());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = enroll.stdout(writer).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(uses(&machine), ["passphrase", "TPM"]);
    // A file is no terminal, and will do.
    let shown = File::create(machine.file("shown")).unwrap();
    assert!(enroll.stdout(shown).status().unwrap().success());
    let shown = fs::read_to_string(machine.file("shown")).unwrap();
    let key = shown.lines().find(|line| line.len() == 71).expect("a recovery key");
    assert!(machine.image.opens_with(key));
}

#[test]
fn a_pinned_volume_whose_header_was_edited_is_not_enrolled_again() {
    let machine = enrolled();
    let good = machine.image.snapshot();
    for cipher in ["aes-cbc-plain64", "aes-ecb"] {
        machine.image.edit_metadata(|metadata| {
            metadata["segments"]["0"]["encryption"] = cipher.into();
        });
        machine.refuses(17, |m| m.enroll(&[])).says("pins file");
        // Before a passphrase is asked for: there is none to be had here.
        machine.refuses(17, |m| run(m.vmseal(&["enroll"]).arg(m.image.path())));
        machine.image.restore(&good);
    }
    machine.unlock(&[]).ok();
    // Another key behind the same header.
    let mut pins: Value = serde_json::from_slice(&machine.pins_bytes().unwrap()).unwrap();
    let genuine = pins.clone();
    pins.as_object_mut().unwrap().values_mut().for_each(|pin| {
        pin["volume_key"] = "00".repeat(32).into();
    });
    fs::write(machine.pins(), pins.to_string()).unwrap();
    machine.refuses(17, |m| m.enroll(&[])).says("volume key");
    fs::write(machine.pins(), genuine.to_string()).unwrap();
    machine.enroll(&[]).ok();
    machine.unlock(&[]).ok();
}

/// A record that announces keyslot `keyslot`, over what record there is.
fn announce(machine: &Machine, keyslot: u32) {
    remove_tokens(machine, "vmseal-record");
    machine.image.edit_metadata(|metadata| {
        metadata["tokens"]["9"] = json!({
            "type": "vmseal-record",
            "keyslots": [],
            "version": 1,
            "generation": 1,
            "entries": [],
            "pending": { "keyslot": keyslot.to_string(), "mac": "00".repeat(32) },
        });
    });
}

#[test]
fn a_keyslot_that_somebody_else_announced_is_not_swept() {
    let machine = Machine::booted(VMSEAL);
    add_machine_made(&machine);
    for keyslot in [0, 1] {
        announce(&machine, keyslot);
        machine.enroll(&[]).ok();
        assert!(machine.image.opens_with(PASSPHRASE), "announced {keyslot}");
        assert!(machine.image.opens_with(SECOND), "announced {keyslot}");
    }
    // The keyslot that was opened with, of the shape that is swept.
    fs::write(machine.key_file(), SECOND).unwrap();
    announce(&machine, 1);
    machine.enroll(&[]).ok();
    assert!(machine.image.opens_with(SECOND));
}

#[test]
fn a_recovery_keyslot_without_its_token_is_not_swept() {
    let machine = Machine::booted(VMSEAL);
    let ran = machine.enroll(&["--recovery-key"]).ok();
    let key = ran.stdout.lines().find(|line| line.len() == 71).expect("a recovery key").to_owned();
    let recovery = machine.image.tokens("systemd-recovery")[0].1["keyslots"][0].clone();
    remove_tokens(&machine, "systemd-recovery");
    announce(&machine, recovery.as_str().unwrap().parse().unwrap());
    machine.enroll(&[]).ok();
    assert!(machine.image.opens_with(&key));
}

#[test]
fn revoking_the_tpm_believes_no_token_that_names_a_passphrase() {
    let machine = enrolled();
    let good = machine.image.snapshot();
    let (number, token) = machine.image.tokens("systemd-tpm2").remove(0);
    for keyslots in [json!(["0"]), json!(["0", "1"]), json!(["1", "2"])] {
        machine.image.restore(&good);
        add_machine_made(&machine);
        // A keyslot that opens for nobody counts as a passphrase's, so that 0 is not the last one.
        add_keyslot(&machine, &[]);
        machine.image.edit_metadata(|metadata| {
            metadata["tokens"][number.to_string()]["keyslots"] = keyslots.clone();
        });
        machine.refuses(3, |m| m.revoke(&["--tpm"])).says("names keyslot");
    }
    // A second token on a recovery keyslot.
    machine.image.restore(&good);
    machine.enroll(&["--recovery-key"]).ok();
    let recovery = machine.image.tokens("systemd-recovery")[0].1["keyslots"].clone();
    machine.image.edit_metadata(|metadata| {
        metadata["tokens"]["20"] = token.clone();
        metadata["tokens"]["20"]["keyslots"] = recovery.clone();
    });
    machine.refuses(3, |m| m.revoke(&["--tpm"])).says("names keyslot");
}

#[test]
fn a_sealed_keyslot_without_its_token_is_no_way_in() {
    let machine = enrolled();
    remove_tokens(&machine, "systemd-tpm2");
    assert_eq!(uses(&machine)[0], "passphrase");
    assert!(uses(&machine)[1].contains("no token"), "{:?}", uses(&machine));
    machine.refuses(3, |m| m.revoke(&["--keyslot", "0"])).says("without a TPM");
    machine.revoke(&["--keyslot", "1"]).ok();
    assert_eq!(machine.image.keyslots(), [0]);
}

#[test]
fn where_no_keyslot_is_known_to_open_without_a_tpm_none_goes() {
    let machine = Machine::booted(VMSEAL);
    add_machine_made(&machine);
    fs::write(machine.key_file(), SECOND).unwrap();
    machine.image.cryptsetup("luksKillSlot", &["0"], b"");
    let image = machine.image.path().to_str().unwrap();
    testkit::tool("cryptsetup", &["luksKillSlot", "-q", image, "0"]);
    machine.enroll(&[]).ok();
    let ran = machine.refuses(3, |m| m.revoke(&["--tpm"])).says("no keyslot is known");
    assert!(!ran.stderr.contains("without keyslot"), "{ran:#?}");
    // Removing tokens alone takes no way in.
    remove_tokens(&machine, "systemd-tpm2");
    machine.revoke(&["--tpm"]).ok();
    let record = &machine.image.tokens("vmseal-record")[0].1;
    assert_eq!((&record["entries"], record["pin"].is_object()), (&json!([]), true));
    machine.refuses(3, |m| m.revoke(&["--tpm"])).says("nothing to revoke");
}

#[test]
fn a_token_of_several_keyslots_outlives_one_of_them() {
    let machine = Machine::booted(VMSEAL);
    add_keyslot(&machine, &[]);
    machine.image.import_token(3, &json!({"type": "systemd-fido2", "keyslots": ["0", "1"]})).ok();
    machine.revoke(&["--keyslot", "1"]).ok();
    assert_eq!(machine.image.tokens("systemd-fido2")[0].1["keyslots"], json!(["0"]));
}

#[test]
fn entries_that_no_sealed_keyslot_bears_out_are_forgotten() {
    let mut machine = enrolled();
    let record = machine.image.tokens("vmseal-record")[0].0.to_string();
    machine.image.edit_metadata(|metadata| {
        let entries = metadata["tokens"][&record]["entries"].as_array_mut().unwrap();
        let mut forged = entries[0].clone();
        forged["keyslot"] = "0".into();
        forged.as_object_mut().unwrap().remove("events");
        *entries = vec![];
        for number in 0..8 {
            forged["policy_hash"] = format!("{number:064x}").into();
            entries.push(forged.clone());
        }
    });
    machine.boot(OTHER_KERNEL);
    machine.enroll(&[]).ok();
    let record = machine.image.tokens("vmseal-record")[0].1.clone();
    assert_eq!(record["entries"].as_array().unwrap().len(), 1, "{record}");
    machine.unlock(&[]).ok();
    machine.boot(BASE);
    machine.unlock(&[]).ok();
}

#[test]
fn one_entry_for_each_boot_however_often_it_is_enrolled() {
    let mut machine = enrolled();
    // Latched, so that no keyslot is proven and none superseded.
    machine.tpm.extend(15, 7);
    for _ in 0..3 {
        machine.enroll(&[]).ok();
    }
    assert_eq!(machine.image.tokens("systemd-tpm2").len(), 4);
    let record = machine.image.tokens("vmseal-record")[0].1.clone();
    assert_eq!(record["entries"].as_array().unwrap().len(), 1, "{record}");
    machine.boot(BASE);
    let json = machine.enroll(&["--json"]).ok().json();
    assert_eq!(json["superseded"].as_array().unwrap().len(), 4, "{json}");
    machine.unlock(&[]).ok();
    machine.boot(OTHER_CMDLINE);
    let json = machine.enroll(&["--json"]).ok().json();
    assert_eq!(json["kept"].as_array().unwrap().len(), 1, "{json}");
}

#[test]
fn an_unreadable_record_is_replaced_and_a_newer_one_left_alone() {
    let machine = enrolled();
    let record = machine.image.tokens("vmseal-record")[0].0;
    machine.image.edit_token(record, |token| token["version"] = 2.into());
    machine.refuses(3, |m| m.enroll(&[])).says("later version");
    machine.image.edit_token(record, |token| {
        *token = json!({ "type": "vmseal-record", "keyslots": [], "version": 1 });
    });
    machine.enroll(&[]).ok();
    let records = machine.image.tokens("vmseal-record");
    assert_eq!((records.len(), records[0].0), (1, record));
    assert_eq!(records[0].1["entries"].as_array().unwrap().len(), 1);
}

#[test]
fn a_keyslot_that_cannot_be_removed_does_not_keep_the_recovery_key_away() {
    let machine = Machine::booted(VMSEAL);
    // The only passphrase's keyslot looks like a sealed one whose token is gone.
    add_machine_made(&machine);
    let image = machine.image.path().to_str().unwrap();
    fs::write(machine.key_file(), SECOND).unwrap();
    testkit::tool("cryptsetup", &["luksKillSlot", "-q", image, "0"]);
    machine.enroll(&[]).ok();
    let json = machine.enroll(&["--json", "--recovery-key"]).ok().json();
    assert_eq!(json["superseded"], json!([]), "{json}");
    assert_eq!(json["kept"].as_array().unwrap().len(), 1, "{json}");
    assert!(machine.image.opens_with(json["recovery_key"].as_str().unwrap()));
}

#[test]
fn a_refused_enrolment_sweeps_nothing() {
    let machine = enrolled();
    let number = machine.image.tokens("systemd-tpm2")[0].0;
    machine.image.edit_token(number, |token| token["keyslots"] = json!([]));
    for number in 0..32 {
        machine.image.import_token(number, &json!({"type": "t", "keyslots": []}));
    }
    machine.refuses(3, |m| m.enroll(&[]));
}

/// Fails `times` writes to the disk from the `nth` on.
fn enroll_with_failing_writes(machine: &Machine, nth: usize, times: usize) -> Ran {
    let mut enroll = machine.vmseal(&["enroll"]);
    enroll.arg("--unlock-key-file").arg(machine.key_file()).arg(machine.image.path());
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(machine.image.path());
    strace.arg("--trace=write,pwrite64");
    let last = nth + times - 1;
    strace.arg(format!("--inject=write,pwrite64:error=EIO:when={nth}..{last}"));
    run(strace.arg(enroll.get_program()).args(enroll.get_args()))
}

#[test]
fn what_a_failing_disk_left_is_taken_back() {
    for (boot, times) in [(BASE, 1), (OTHER_KERNEL, 6)] {
        let mut machine = enrolled();
        machine.boot(boot);
        let slots = if boot == BASE { 2 } else { 3 };
        let before = machine.image.snapshot();
        let mut failures = 0;
        for nth in 1..200 {
            machine.image.restore(&before);
            let ran = enroll_with_failing_writes(&machine, nth, times);
            assert_ne!(ran.code, Some(2), "{ran:#?}");
            machine.tpm.flush();
            let point = format!("{times} writes from {nth} fail: {ran:#?}");
            assert!(machine.image.opens_with(PASSPHRASE), "{point}");
            if ran.code == Some(1) && times == 1 {
                assert_eq!(machine.image.keyslots(), [0, 1], "{point}");
                assert_eq!(machine.image.tokens("systemd-tpm2").len(), 1, "{point}");
            }
            failures += usize::from(ran.code == Some(1));
            let again = machine.enroll(&[]);
            assert_eq!(again.code, Some(0), "{point}; {again:#?}");
            assert_eq!(machine.unlock(&[]).code, Some(0), "{point}");
            assert_eq!(machine.image.keyslots().len(), slots, "{point}: an orphan");
            assert_eq!(machine.image.tokens("systemd-tpm2").len(), slots - 1, "{point}");
            if ran.code == Some(0) && nth > 20 {
                break;
            }
        }
        assert!(failures > 5, "{failures} failures");
    }
}

#[test]
fn what_systemd_sealed_is_of_the_shape_that_is_revoked() {
    for systemd in [Systemd::Host, Systemd::Trixie] {
        let machine = Machine::booted(VMSEAL);
        systemd.enroll(&machine.tpm, &machine.image, &["--tpm2-pcrs=7"]).ok();
        machine.enroll(&[]).ok();
        machine.revoke(&["--tpm"]).ok();
        assert_eq!(machine.image.keyslots(), [0], "{systemd:?}");
        // Without its token it is no way in.
        systemd.enroll(&machine.tpm, &machine.image, &["--tpm2-pcrs=7"]).ok();
        remove_tokens(&machine, "systemd-tpm2");
        machine.revoke(&["--keyslot", "0"]).refused(3);
    }
}

/// The file of pins may be gone: no key goes to a header that does not even promise encryption.
#[test]
fn a_header_without_encryption_gets_no_key_without_a_pin_either() {
    let machine = enrolled();
    fs::remove_file(machine.pins()).unwrap();
    machine.unlock(&[]).ok();
    machine.image.edit_metadata(|metadata| {
        metadata["segments"]["0"]["encryption"] = "cipher_null-ecb".into();
    });
    machine.refuses(17, |machine| machine.unlock(&[])).says("cipher_null-ecb");
}
