//! Every refusal: its exit code, one line of cause and one of remedy, and nothing changed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use testkit::image::{METADATA_SIZE, PASSPHRASE, UUID};
use testkit::machine::{BASE, OTHER_KERNEL};
use testkit::proxy::Mode;
use testkit::virtual_boot::log_before;
use testkit::{Image, Machine, Proxy, Ran, Swtpm, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");

fn enrolled() -> Machine {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine
}

fn unlock(machine: &Machine) -> Ran {
    machine.unlock(&[])
}

fn enroll(machine: &Machine) -> Ran {
    machine.enroll(&[])
}

/// A command with another TPM or log than the machine's.
fn with(machine: &Machine, tcti: &str, log: &Path, verb: &[&str]) -> Ran {
    let mut command = machine.vmseal_with(tcti, log, verb);
    if verb[0] == "enroll" {
        command.arg("--unlock-key-file").arg(machine.key_file());
    }
    run(command.arg(machine.image.path()))
}

#[test]
fn wrong_pcr() {
    let mut machine = enrolled();
    machine.boot(OTHER_KERNEL);
    machine.refuses(12, unlock).says("do not type the passphrase here");
}

#[test]
fn other_tpm() {
    let mut machine = enrolled();
    machine.tpm = Swtpm::start();
    machine.boot(BASE);
    machine.refuses(13, unlock).says("tpm");
    // The same chip with another owner, whose key lies where ours did.
    let mut machine = enrolled();
    machine.tpm.replace_owner();
    machine.refuses(13, unlock);
    let second = Image::create(machine.folder.path());
    let first = std::mem::replace(&mut machine.image, second);
    machine.enroll(&[]).ok();
    machine.image = first;
    machine.refuses(13, unlock);
    // Not to be taken for changed PCRs even where these changed too.
    machine.tpm.extend(4, 1);
    machine.refuses(13, unlock);
}

#[test]
fn tpm_absent() {
    let machine = enrolled();
    for tcti in ["device:/dev/no-such-tpm", "swtpm:host=127.0.0.1,port=9"] {
        let log = machine.log().to_owned();
        machine.refuses(11, |m| with(m, tcti, &log, &["unlock", "--test"]));
        machine.refuses(11, |m| with(m, tcti, &log, &["enroll"]));
    }
}

#[test]
fn tpm_that_never_answers() {
    let machine = enrolled();
    let log = machine.log().to_owned();
    for mode in [Mode::Silent, Mode::StallAfter(0), Mode::StallAfter(3)] {
        let proxy = Proxy::with_mode(&machine.tpm, mode);
        let unlock = ["unlock", "--test", "--timeout", "2"];
        let ran = machine.refuses(11, |m| with(m, &proxy.tcti(), &log, &unlock));
        assert!(ran.took < Duration::from_secs(6), "{mode:?}: {:?}", ran.took);
        machine.tpm.flush();
    }
}

#[test]
fn tpm_in_lockout() {
    let machine = enrolled();
    machine.lock_tpm_out();
    // Neither the sealed object nor its parent counts attempts: a lockout does not touch them.
    machine.unlock(&[]).ok();
    machine.enroll(&[]).ok();
}

#[test]
fn malformed_token() {
    let machine = enrolled();
    let good = machine.image.snapshot();
    let text = |token: &serde_json::Value, field: &str| token[field].as_str().unwrap().to_owned();
    for (what, field, value) in [
        ("truncated", "tpm2-blob", None),
        ("oversized", "tpm2-blob", Some(json!("A".repeat(9000)))),
        ("wrong type", "tpm2-pcrs", Some(json!("0+4+7"))),
        ("wrong type", "tpm2-policy-hash", Some(json!({"sha256": 1}))),
        ("absurd number", "tpm2-pcrs", Some(json!([4_294_967_303_u64]))),
        ("absurd number", "tpm2-pcrs", Some(json!([-7, 1e99]))),
        ("no base64", "tpm2_srk", Some(json!("\u{1b}[31mred\u{1b}[0m"))),
        ("a field of kilobytes", "tpm2-pcr-bank", Some(json!("x".repeat(2000)))),
        ("letters that turn the line", "tpm2-pcr-bank", Some(json!("\u{202e}652ahs\u{1b}[2J"))),
    ] {
        machine.image.restore(&good);
        let number = machine.image.tokens("systemd-tpm2")[0].0;
        // The record would leave no room for the large ones.
        machine.image.edit_metadata(|metadata| {
            metadata["tokens"].as_object_mut().unwrap().retain(|_, t| t["type"] == "systemd-tpm2");
            let token = &mut metadata["tokens"][number.to_string()];
            token[field] = value.clone().unwrap_or_else(|| text(token, field)[..64].into());
        });
        let ran = machine.refuses(15, unlock);
        assert!(ran.stderr.contains(field), "{what}: {}", ran.stderr);
        // The text of a hostile token never reaches the terminal.
        assert!(
            !ran.stderr.contains(&"x".repeat(20)) && !ran.stderr.contains('\u{1b}'),
            "{ran:#?}"
        );
        machine.status(&[]).ok();
    }
}

#[test]
fn no_token() {
    let machine = Machine::booted(VMSEAL);
    machine.refuses(10, unlock).says("enroll");
}

#[test]
fn log_absent_or_malformed() {
    let machine = Machine::booted(VMSEAL);
    let tcti = machine.tpm.tcti();
    let whole = fs::read(machine.log()).unwrap();
    machine.refuses(3, |m| with(m, &tcti, &m.file("none"), &["enroll"])).says("log");
    for (name, bytes) in [
        ("empty", &[][..]),
        ("cut", &whole[..whole.len() - 7]),
        ("garbage", &[0xff; 4096]),
        ("first entry only", &whole[..40]),
    ] {
        let log = machine.file("log.bin");
        fs::write(&log, bytes).unwrap();
        let ran = machine.refuses(3, |m| with(m, &tcti, &log, &["enroll"]));
        assert!(ran.stderr.contains("log"), "{name}: {}", ran.stderr);
    }
    // Whole events missing: it parses, and does not replay to the PCRs.
    let other = testkit::virtual_boot::fixture_folder(OTHER_KERNEL).join("log.bin");
    machine.refuses(12, |m| with(m, &tcti, &other, &["enroll"])).says("PCR");
}

#[test]
fn boot_not_covered() {
    /// `EV_EFI_BOOT_SERVICES_APPLICATION`, which a firmware that starts a loader measures.
    const APPLICATION: u32 = 0x8000_0003;
    let mut machine = Machine::booted(VMSEAL);
    let log = machine.file("unmeasured.bin");
    fs::write(&log, log_before(machine.log(), APPLICATION)).unwrap();
    machine.boot_log(log);
    let ran = machine.refuses(3, enroll);
    for component in ["loader", "kernel", "initrd", "cmdline"] {
        assert!(ran.stderr.contains(component), "{component}: {}", ran.stderr);
    }
}

#[test]
fn pcrs_that_do_not_cover() {
    let machine = Machine::booted(VMSEAL);
    let ran = machine.refuses(3, |m| m.enroll(&["--pcrs", "7"]));
    for component in ["kernel", "initrd"] {
        assert!(ran.stderr.contains(component), "{}", ran.stderr);
    }
    machine
        .enroll(&["--pcrs", "7", "--allow-uncovered", "firmware,loader,kernel,initrd,cmdline"])
        .ok();
}

#[test]
fn all_zero_pcrs() {
    let machine = Machine::booted(VMSEAL);
    machine.tpm.restart();
    machine.refuses(3, enroll).says("zero");
    let anything = ["--allow-uncovered", "firmware,loader,kernel,initrd,cmdline"];
    machine.refuses(3, |m| m.enroll(&anything));
    machine.refuses(3, |m| m.enroll(&[&anything[..], &["--pcrs", "12+13+15"]].concat()));
}

#[test]
fn bank_that_the_tpm_does_not_keep() {
    let machine = Machine::booted(VMSEAL);
    machine.refuses(3, |m| m.enroll(&["--bank", "sha512"])).says("bank");
}

#[test]
fn damaged_header() {
    let machine = enrolled();
    let good = machine.image.snapshot();
    // Both copies of the JSON; one alone is repaired from the other.
    for offset in [5000, METADATA_SIZE as u64 + 5000] {
        machine.image.damage(offset, b"\0\0garbage\0\0");
    }
    for act in [unlock as fn(&Machine) -> Ran, enroll, |m: &Machine| m.revoke(&["--tpm"])] {
        machine.refuses(3, act).says("header");
    }
    // One copy alone: opening works and repairs nothing, for that is a write.
    machine.image.restore(&good);
    machine.image.damage(5000, b"\0\0garbage\0\0");
    let before = machine.state();
    machine.unlock(&[]).ok();
    assert_eq!(machine.state(), before, "unlock --test wrote");
}

#[test]
fn wrong_passphrase() {
    let machine = Machine::booted(VMSEAL);
    fs::write(machine.key_file(), "wrong").unwrap();
    machine.refuses(16, enroll).says("passphrase");
    fs::write(machine.key_file(), "").unwrap();
    machine.refuses(16, enroll);
    fs::remove_file(machine.key_file()).unwrap();
    machine.refuses(3, enroll);
}

#[test]
fn keyslot_that_the_secret_does_not_open() {
    let machine = enrolled();
    let key = machine.key_file();
    let change = ["--key-slot", "1", "--key-file", key.to_str().unwrap()];
    machine.image.cryptsetup("luksKillSlot", &change[2..], b"").code.unwrap();
    let image = machine.image.path().to_str().unwrap();
    let kill = ["luksKillSlot", "-q", "--key-file", key.to_str().unwrap(), image, "1"];
    testkit::tool("cryptsetup", &kill);
    let new = machine.file("new");
    fs::write(&new, "another").unwrap();
    let add = ["luksAddKey", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let add = [&add[..], &change, &[image, new.to_str().unwrap()]].concat();
    testkit::tool("cryptsetup", &add);
    let token = machine.image.tokens("systemd-tpm2")[0].0;
    machine.image.edit_token(token, |token| token["keyslots"] = json!(["1"]));
    machine.refuses(16, unlock).says("keyslot");
}

#[test]
fn full_json_area() {
    let machine = Machine::booted(VMSEAL);
    let filler = |size: usize| json!({"type": "filler", "keyslots": [], "text": "x".repeat(size)});
    let mut number = 0;
    for size in [3000, 300, 30] {
        while machine.image.import_token(number, &filler(size)).code == Some(0) {
            number += 1;
        }
    }
    assert!(number < 32, "the area is full, not the table of tokens");
    machine.refuses(3, enroll).says("full");
}

#[test]
fn no_free_token_or_keyslot() {
    let machine = Machine::booted(VMSEAL);
    let before = machine.image.snapshot();
    for number in 0..32 {
        machine.image.import_token(number, &json!({"type": "t", "keyslots": []})).ok();
    }
    machine.refuses(3, enroll);
    machine.image.restore(&before);
    let key = machine.key_file();
    let new = machine.file("new");
    for number in 1..32 {
        fs::write(&new, format!("another {number}")).unwrap();
        let key = key.to_str().unwrap();
        let path = machine.image.path().to_str().unwrap();
        let pbkdf = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
        let add = [&["luksAddKey", "-q", "--key-file", key], &pbkdf[..]].concat();
        testkit::tool("cryptsetup", &[&add[..], &[path, new.to_str().unwrap()]].concat());
    }
    machine.refuses(3, enroll).says("keyslot");
}

#[test]
fn last_keyslot_that_opens_without_a_tpm() {
    let machine = enrolled();
    machine.refuses(3, |m| m.revoke(&["--keyslot", "0"])).says("without a TPM");
    assert!(machine.image.opens_with(PASSPHRASE));
    // With a recovery key the passphrase may go, and then the recovery key may not.
    machine.enroll(&["--recovery-key"]).ok();
    machine.revoke(&["--keyslot", "0"]).ok();
    let recovery = machine.image.tokens("systemd-recovery")[0].1["keyslots"][0].clone();
    machine
        .refuses(3, |m| m.revoke(&["--keyslot", recovery.as_str().unwrap()]))
        .says("without a TPM");
}

#[test]
fn device_busy() {
    let machine = enrolled();
    let image = fs::File::options().read(true).write(true).open(machine.image.path()).unwrap();
    // As another cryptsetup does while it writes.
    image.lock().unwrap();
    for act in [enroll as fn(&Machine) -> Ran, |m: &Machine| m.revoke(&["--tpm"])] {
        let ran = machine.refuses(3, act);
        assert!(ran.took < Duration::from_secs(30), "{:?}", ran.took);
    }
}

#[test]
fn not_luks2() {
    let machine = Machine::booted(VMSEAL);
    let luks1 = ["luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000"];
    let other = machine.file("luks1.img");
    fs::File::create(&other).unwrap().set_len(16 << 20).unwrap();
    let key = machine.key_file();
    let key = ["--key-file", key.to_str().unwrap(), other.to_str().unwrap()];
    testkit::tool("cryptsetup", &[&luks1[..], &key].concat());
    let zeros = machine.file("zeros.img");
    fs::File::create(&zeros).unwrap().set_len(1 << 20).unwrap();
    let short = machine.file("short.img");
    fs::write(&short, "LUKS\u{ba}").unwrap();
    for path in [&other, &zeros, &short, &machine.file("nowhere")] {
        let before = fs::read(path).ok();
        for verb in [&["unlock", "--test"][..], &["status"], &["enroll"], &["revoke", "--tpm"]] {
            let mut command = machine.vmseal(verb);
            if verb[0] == "enroll" {
                command.arg("--unlock-key-file").arg(machine.key_file());
            }
            run(command.arg(path)).refused(3);
        }
        assert_eq!(fs::read(path).ok(), before);
    }
}

#[test]
fn a_bad_volume_is_refused_at_once_though_the_tpm_never_answers() {
    let machine = Machine::booted(VMSEAL);
    let proxy = Proxy::with_mode(&machine.tpm, Mode::Silent);
    let zeros = machine.file("zeros.img");
    fs::File::create(&zeros).unwrap().set_len(1 << 20).unwrap();
    let mut command = machine.vmseal_with(&proxy.tcti(), machine.log(), &["unlock", "--test"]);
    let ran = run(command.args(["--timeout", "20"]).arg(zeros)).refused(3);
    assert!(ran.took < Duration::from_secs(5), "{:?}", ran.took);
}

#[test]
fn not_root() {
    let machine = enrolled();
    // The folder and the program are reachable, the disk is not.
    let program = machine.file("vmseal");
    fs::copy(VMSEAL, &program).unwrap();
    for path in [machine.folder.path(), &program] {
        let path = path.to_str().unwrap();
        testkit::tool("chmod", &["755", path]);
    }
    testkit::tool("chmod", &["600", machine.image.path().to_str().unwrap()]);
    for verb in [&["unlock", "--test"][..], &["enroll"], &["revoke", "--tpm"]] {
        machine
            .refuses(3, |machine| {
                let plain = machine.vmseal(verb);
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
                command.arg(&program).args(plain.get_args());
                if verb[0] == "enroll" {
                    command.arg("--unlock-key-file").arg(machine.key_file());
                }
                run(command.arg(machine.image.path()))
            })
            .says("root");
    }
}

#[test]
fn damaged_pins() {
    let machine = enrolled();
    let volume = format!("{{\"{UUID}\": 1}}");
    for pins in ["{", "[]", "", &volume] {
        fs::write(machine.pins(), pins).unwrap();
        machine.refuses(3, unlock).says("pins");
    }
}
