//! Enrol in one boot, open in the next, refuse another: the main job.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use testkit::image::{PASSPHRASE, UUID};
use testkit::machine::{BASE, OTHER_CMDLINE, OTHER_KERNEL};
use testkit::{Image, Machine, Swtpm, run, tool};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");

#[test]
fn an_enrolled_volume_opens_in_the_next_boot() {
    let mut machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine.boot(BASE);
    machine.unlock(&[]).ok();
    machine.status(&[]).ok();
    assert_eq!(machine.image.keyslots(), [0, 1]);
    assert_eq!(machine.image.tokens("systemd-tpm2").len(), 1);
    assert_eq!(machine.image.tokens("vmseal-record").len(), 1);
    assert!(machine.image.opens_with(PASSPHRASE), "the passphrase still opens");
    assert_eq!(machine.tpm.loaded(), 0, "nothing is left in the TPM");
}

#[test]
fn the_seal_binds_the_pcrs_of_a_uki_boot_and_pcr_15_as_zero() {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    let (_, token) = machine.image.tokens("systemd-tpm2").remove(0);
    assert_eq!(token["tpm2-pcrs"], serde_json::json!([0, 4, 7, 11, 12, 13, 15]));
    assert_eq!(token["tpm2-pcr-bank"], "sha256");
    let pbkdf = &machine.image.metadata()["keyslots"]["1"]["kdf"];
    assert_eq!((&pbkdf["type"], &pbkdf["iterations"]), (&"pbkdf2".into(), &1000.into()));
}

#[test]
fn another_boot_is_refused_and_the_refusal_names_pcr_and_event() {
    let mut machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    for (boot, pcr) in [(OTHER_KERNEL, "PCR 4"), (OTHER_CMDLINE, "11"), ("uki/initrd", "11")] {
        machine.boot(boot);
        let before = machine.state();
        let ran = machine.unlock(&[]).refused(12);
        assert!(ran.stderr.contains(pcr), "{boot}: {}", ran.stderr);
        // The event, told from the log at hand.
        assert!(ran.stderr.contains(": "), "{boot}: {}", ran.stderr);
        assert!(ran.stderr.contains("do not type the passphrase"), "{boot}: {}", ran.stderr);
        assert_eq!(machine.state(), before, "{boot}");
    }
    machine.boot(BASE);
    machine.unlock(&[]).ok();
}

#[test]
fn a_refusal_without_a_log_still_names_the_pcr() {
    let mut machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine.boot(OTHER_KERNEL);
    let tcti = machine.tpm.tcti();
    let mut unlock = machine.vmseal_with(&tcti, "/nonexistent".as_ref(), &["unlock", "--test"]);
    run(unlock.arg(machine.image.path())).refused(12).says("PCR");
}

#[test]
fn after_the_latch_nothing_is_released_before_the_next_boot() {
    let mut machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine.tpm.extend(15, 7);
    machine.unlock(&[]).refused(12).says("PCR 15");
    machine.boot(BASE);
    machine.unlock(&[]).ok();
}

#[test]
fn a_booted_and_latched_system_can_enroll_for_its_next_boot() {
    let mut machine = Machine::booted(VMSEAL);
    machine.tpm.extend(15, 7);
    machine.enroll(&[]).ok();
    machine.unlock(&[]).refused(12);
    machine.boot(BASE);
    machine.unlock(&[]).ok();
}

#[test]
fn a_full_guest_is_sealed_at_the_point_where_its_initrd_opens_the_volume() {
    let mut machine = Machine::with_tpm(VMSEAL, Swtpm::start(), "full-sdboot/a");
    machine.enroll(&[]).ok();
    machine.boot("full-sdboot/a");
    machine.unlock(&[]).ok();
}

#[test]
fn every_bank_can_be_sealed_to() {
    for bank in ["sha1", "sha384"] {
        let tpm = Swtpm::with_banks(&["sha1", "sha256", "sha384"]);
        let mut machine = Machine::with_tpm(VMSEAL, tpm, "banks/all-four");
        machine.enroll(&["--bank", bank]).ok();
        assert_eq!(machine.image.tokens("systemd-tpm2")[0].1["tpm2-pcr-bank"], bank);
        machine.boot("banks/all-four");
        machine.unlock(&[]).ok();
        machine.tpm.extend(7, 1);
        machine.unlock(&[]).refused(12);
    }
}

#[test]
fn the_recovery_key_opens_by_stock_cryptsetup_and_is_shown_once() {
    let machine = Machine::booted(VMSEAL);
    let ran = machine.enroll(&["--recovery-key"]).ok();
    let is_key = |word: &&str| {
        let groups: Vec<&str> = word.split('-').collect();
        groups.len() == 8 && groups.iter().all(|group| group.len() == 8)
    };
    let keys: Vec<&str> = ran.stdout.split_whitespace().filter(is_key).collect();
    assert_eq!(keys.len(), 1, "{}", ran.stdout);
    assert!(!ran.stderr.contains(keys[0]));
    assert!(machine.image.opens_with(keys[0]));
    assert_eq!(machine.image.keyslots().len(), 3);
    assert_eq!(machine.image.tokens("systemd-recovery").len(), 1);
    machine.status(&[]).ok();
}

#[test]
fn enrolling_again_for_the_same_boot_leaves_one_token_that_opens() {
    let mut machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine.enroll(&[]).ok();
    machine.boot(BASE);
    machine.unlock(&[]).ok();
    assert!(machine.image.tokens("systemd-tpm2").len() <= 2);
}

#[test]
fn enrolling_for_a_second_boot_keeps_the_first() {
    let mut machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine.boot(OTHER_KERNEL);
    machine.enroll(&[]).ok();
    machine.unlock(&[]).ok();
    machine.boot(BASE);
    machine.unlock(&[]).ok();
    machine.boot(OTHER_CMDLINE);
    machine.unlock(&[]).refused(12);
}

#[test]
fn revoking_removes_what_the_tpm_opens_and_nothing_else() {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&["--recovery-key"]).ok();
    let recovery = machine.image.tokens("systemd-recovery");
    machine.revoke(&["--tpm"]).ok();
    assert_eq!(machine.image.tokens("systemd-tpm2"), []);
    assert_eq!(machine.image.tokens("systemd-recovery"), recovery);
    assert_eq!(machine.image.keyslots().len(), 2);
    assert!(machine.image.opens_with(PASSPHRASE));
    machine.unlock(&[]).refused(10);
    let after = machine.state();
    machine.revoke(&["--tpm"]).refused(3);
    assert_eq!(machine.state(), after);
}

#[test]
fn one_keyslot_can_be_revoked() {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine.revoke(&["--keyslot", "1"]).ok();
    assert_eq!(machine.image.keyslots(), [0]);
    assert_eq!(machine.image.tokens("systemd-tpm2"), []);
    machine.revoke(&["--keyslot", "7"]).refused(3);
}

#[test]
fn a_dry_run_says_what_it_would_seal_to_and_changes_nothing() {
    let machine = Machine::booted(VMSEAL);
    let before = machine.state();
    let nv = machine.tpm.wire().handles(0x8100_0000);
    let ran = machine.enroll(&["--dry-run"]).ok();
    for pcr in [0, 4, 7, 11, 15] {
        assert!(ran.stdout.contains(&pcr.to_string()), "{}", ran.stdout);
    }
    assert_eq!(machine.state(), before);
    assert_eq!(machine.tpm.wire().handles(0x8100_0000), nv, "nor does the TPM");
    // It needs no passphrase.
    run(machine.vmseal(&["enroll", "--dry-run"]).arg(machine.image.path())).ok();
}

#[test]
fn json_output_is_one_object() {
    let machine = Machine::booted(VMSEAL);
    for ran in [
        machine.enroll(&["--json", "--dry-run"]),
        machine.enroll(&["--json"]),
        machine.unlock(&["--json"]),
        machine.status(&["--json"]),
        run(&mut machine.vmseal(&["eventlog", "--json"])),
        machine.revoke(&["--json", "--tpm"]),
    ] {
        let json = ran.ok().json();
        assert!(json.is_object(), "{json}");
    }
}

#[test]
fn json_output_has_the_documented_members() {
    let machine = Machine::booted(VMSEAL);
    let enrolled = machine.enroll(&["--json", "--recovery-key"]).ok().json();
    assert_eq!(enrolled["keyslot"], 1);
    assert_eq!(enrolled["proven"], true);
    assert_eq!(enrolled["plan"]["bank"], "sha256");
    assert_eq!(enrolled["plan"]["pcrs"]["15"], "0".repeat(64));
    assert!(machine.image.opens_with(enrolled["recovery_key"].as_str().unwrap()));
    let unlocked = machine.unlock(&["--json"]).ok().json();
    assert_eq!((&unlocked["opens"], &unlocked["pinned"]), (&true.into(), &true.into()));
    assert_eq!(unlocked["keyslot"], enrolled["keyslot"]);
    assert_eq!(unlocked["token"], enrolled["token"]);
    let status = machine.status(&["--json"]).ok().json();
    assert_eq!(status["seal_point"], "event log");
    let volume = &status["volumes"][0];
    assert_eq!(volume["uuid"], UUID);
    assert_eq!((&volume["pinned"], &volume["recovery_key"]), (&"yes".into(), &true.into()));
    assert_eq!(volume["tokens"][0]["verdict"], "fits");
    let words: Vec<_> =
        volume["keyslots"].as_array().unwrap().iter().map(|slot| slot["use"].clone()).collect();
    assert_eq!(words, ["passphrase", "TPM", "recovery key"]);
    let revoked = machine.revoke(&["--json", "--tpm"]).ok().json();
    assert_eq!(revoked["keyslots"], serde_json::json!([1]));
}

#[test]
fn status_tells_of_another_boot_what_differs() {
    let mut machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine.boot(OTHER_KERNEL);
    let status = machine.status(&["--json"]).ok().json();
    let token = &status["volumes"][0]["tokens"][0];
    assert_eq!(token["verdict"], "differs");
    assert_eq!(token["pcrs"], serde_json::json!([4, 11]));
    // A latched boot is judged by what it was at its seal point.
    machine.boot(BASE);
    machine.tpm.extend(15, 1);
    let status = machine.status(&["--json"]).ok().json();
    assert_eq!(status["volumes"][0]["tokens"][0]["verdict"], "fits");
}

#[test]
fn a_slow_typist_does_not_use_up_the_patience_with_the_tpm() {
    let machine = Machine::booted(VMSEAL);
    let fifo = machine.file("fifo");
    tool("mkfifo", &[fifo.to_str().unwrap()]);
    let typed = fifo.clone();
    let typist = std::thread::spawn(move || {
        let mut line = std::fs::File::options().write(true).open(typed).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(3));
        std::io::Write::write_all(&mut line, PASSPHRASE.as_bytes()).unwrap();
    });
    let mut enroll = machine.vmseal(&["enroll", "--timeout", "2"]);
    run(enroll.arg("--unlock-key-file").arg(fifo).arg(machine.image.path())).ok();
    typist.join().unwrap();
}

#[test]
fn the_pin_is_written_at_enrolment_and_compared_at_unlock() {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    let pins: serde_json::Value =
        serde_json::from_slice(&machine.pins_bytes().expect("a pins file")).unwrap();
    assert!(pins[UUID].is_object(), "{pins}");
    let record = &machine.image.tokens("vmseal-record")[0].1;
    assert_eq!(record["pin"], pins[UUID], "for a boot step that knows the digest alone");
    let word = format!("vmseal.pin={UUID}:");
    let status = machine.status(&["--json"]).ok().json();
    let told = status["volumes"][0]["cmdline_word"].as_str().unwrap();
    let script = format!("jq -cS '.[]' {} | tr -d '\\n' | sha256sum", machine.pins().display());
    let hex = tool("sh", &["-c", &script]);
    assert_eq!(Some(told.trim_start_matches(&word)), hex.split_whitespace().next());
    let mode = tool("stat", &["-c", "%a", machine.pins().to_str().unwrap()]);
    assert!(["600", "644"].contains(&mode.trim()), "{mode}");

    // The same UUID on another volume, with the tokens copied over: not the pinned one.
    let other = Image::format(machine.folder.path(), &[]);
    for (number, mut token) in machine.image.tokens("systemd-tpm2") {
        token["keyslots"] = serde_json::json!(["0"]);
        other.import_token(number, &token).ok();
    }
    let before = other.snapshot();
    run(machine.vmseal(&["unlock", "--test"]).arg(other.path())).refused(17);
    assert_eq!(other.snapshot(), before);
}

#[test]
fn a_header_edited_to_no_encryption_is_not_the_pinned_volume() {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine.image.edit_metadata(|metadata| {
        metadata["segments"]["0"]["encryption"] = "cipher_null-ecb".into();
    });
    machine.unlock(&[]).refused(17);
    machine.status(&[]);
}

/// Each boot takes a keyslot, a token and an entry of the record: five fit into a header of the usual
/// size. The first boot that does not fit is refused, and changes nothing.
#[test]
fn five_boots_fit_into_a_header() {
    let mut machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    let entries = |machine: &Machine| {
        machine.image.tokens("vmseal-record")[0].1["entries"].as_array().unwrap().len()
    };
    // Without a log, a further measurement is all that another boot takes.
    let tcti = machine.tpm.tcti();
    let next = |machine: &Machine| {
        machine.tpm.extend(8, 1);
        let mut command = machine.vmseal_with(&tcti, &machine.file("no-log"), &["enroll"]);
        command.args(["--pcrs", "0+4+7+8+9+11", "--unlock-key-file"]).arg(machine.key_file());
        command.args(["--allow-uncovered", "firmware,loader,kernel,initrd,cmdline"]);
        run(command.arg(machine.image.path()))
    };
    while entries(&machine) < 5 {
        next(&machine).ok();
    }
    let mut before = machine.state();
    let refused = loop {
        let ran = next(&machine);
        if ran.code != Some(0) {
            break ran;
        }
        before = machine.state();
    };
    refused.code(3).says("JSON area is full");
    assert!(machine.state() == before, "a refusal changed something");
    machine.boot("uki/base");
    machine.unlock(&[]).ok();
}
