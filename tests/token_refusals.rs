//! Refusals of tokens with a PIN, a signature or a pcrlock policy: the exit code and the words of
//! each, and what it costs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;

use serde_json::{Value, json};
use testkit::machine::BASE;
use testkit::systemd::PIN;
use testkit::{Authority, Machine, Proxy, Ran, Swtpm, Systemd, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
const SIGNED: [u8; 2] = [4, 9];

fn machine() -> Machine {
    let machine = Machine::with_tpm(VMSEAL, Swtpm::with_banks(&["sha256", "sha384"]), BASE);
    std::fs::write(machine.file("pin"), PIN).unwrap();
    std::fs::write(machine.file("wrong"), "not the PIN").unwrap();
    machine
}

fn with_pin() -> Machine {
    let machine = machine();
    let options = ["--tpm2-pcrs=7", "--tpm2-public-key=", "--tpm2-with-pin=yes"];
    Systemd::Trixie.enroll(&machine.tpm, &machine.image, &options).ok();
    machine
}

fn unlock_with_pin(machine: &Machine, file: &str) -> Ran {
    machine.unlock(&["--quiet", "--pin-file", machine.file(file).to_str().unwrap()])
}

#[test]
fn a_wrong_pin_is_counted_once_and_told() {
    let machine = with_pin();
    let ran = machine.refuses(18, |machine| unlock_with_pin(machine, "wrong"));
    ran.says("the pin is wrong; the tpm counts 1 wrong tries of 3");
    assert_eq!(machine.tpm.lockout_counter(), 1);
    unlock_with_pin(&machine, "pin").ok();
}

#[test]
fn without_a_pin_nothing_is_tried() {
    let machine = with_pin();
    let proxy = Proxy::before(&machine.tpm);
    let unlock = machine.vmseal_with(&proxy.tcti(), machine.log(), &["unlock", "--test"]);
    // Its own session has no terminal to ask on.
    let mut command = std::process::Command::new("setsid");
    command.arg("--wait").arg(unlock.get_program()).args(unlock.get_args());
    run(command.arg(machine.image.path())).refused(18).says("a pin is needed");
    assert_eq!(proxy.counts().get("Unseal"), None);
    std::fs::write(machine.file("empty"), "\n").unwrap();
    unlock_with_pin(&machine, "empty").refused(18).says("it is empty");
    assert_eq!(machine.tpm.lockout_counter(), 0);
}

#[test]
fn a_locked_tpm_is_not_asked() {
    let machine = with_pin();
    for tries in 1..=3 {
        unlock_with_pin(&machine, "wrong").refused(18).says(&format!("counts {tries} wrong tries"));
    }
    let proxy = Proxy::before(&machine.tpm);
    let mut unlock = machine.vmseal_with(&proxy.tcti(), machine.log(), &["unlock", "--test"]);
    unlock.arg("--pin-file").arg(machine.file("pin")).arg(machine.image.path());
    run(&mut unlock).refused(14).says("locked");
    assert_eq!(proxy.counts().get("Unseal"), None);
    let status = machine.status(&[]).ok().stdout;
    assert!(status.contains("counts 3 wrong tries of 3, and is locked"), "{status}");
    assert_eq!(machine.status(&["--json"]).ok().json()["lockout"]["locked"], true);
    // A token without a PIN opens all the same, and needs no counter.
    machine.enroll(&[]).ok();
    unlock_with_pin(&machine, "pin").ok();
}

/// Several tokens with a PIN: one PIN is tried on each, but never up to the lockout.
#[test]
fn one_pin_is_not_tried_until_the_tpm_locks() {
    let machine = with_pin();
    let token = machine.image.tokens("systemd-tpm2")[0].1.clone();
    for number in 1..6 {
        machine.image.import_token(number, &token).ok();
    }
    unlock_with_pin(&machine, "wrong").refused(18);
    assert_eq!(machine.tpm.lockout_counter(), 2, "of 3");
    unlock_with_pin(&machine, "pin").ok();
}

/// Whose PIN cannot help is not asked for: the blob is another TPM's.
#[test]
fn a_token_of_another_tpm_asks_for_no_pin() {
    let mut machine = with_pin();
    machine.tpm.replace_owner();
    machine.boot(BASE);
    machine.unlock(&["--quiet"]).refused(13);
    // The new owner's storage root key exists; it is another.
    Systemd::Trixie.enroll(&machine.tpm, &machine.image.copy(), &["--tpm2-pcrs=7"]).ok();
    machine.unlock(&["--quiet"]).refused(13).says("another TPM");
    assert_eq!(machine.tpm.lockout_counter(), 0);
}

struct Signed {
    machine: Machine,
    authority: Authority,
}

impl Signed {
    fn new() -> Self {
        let machine = machine();
        let authority = Authority::new(machine.folder.path(), "authority");
        let key = format!("--tpm2-public-key={}", authority.public().display());
        let pcrs = format!("--tpm2-public-key-pcrs={}+{}", SIGNED[0], SIGNED[1]);
        let options = ["--tpm2-pcrs=", &key, &pcrs];
        Systemd::Trixie.enroll(&machine.tpm, &machine.image, &options).ok();
        Self { machine, authority }
    }

    fn sign(&self, bank: &str) -> Value {
        self.authority.sign(&self.machine.tpm, bank, &SIGNED)
    }

    fn file(&self, name: &str, json: &Value) -> PathBuf {
        let path = self.machine.file(name);
        std::fs::write(&path, json.to_string()).unwrap();
        path
    }

    fn unlock(&self, files: &[&PathBuf]) -> Ran {
        let mut unlock = self.machine.vmseal(&["unlock", "--test", "--quiet"]);
        for file in files {
            unlock.arg("--signature").arg(file);
        }
        unlock.arg("--root").arg(self.machine.file("root"));
        run(unlock.arg(self.machine.image.path()))
    }
}

#[test]
fn without_a_signature_of_this_state_nothing_opens() {
    let mut boot = Signed::new();
    boot.unlock(&[]).refused(19).says("there is none by the token's key");
    let good = boot.file("good", &boot.sign("sha256"));
    boot.unlock(&[&good]).ok();
    let other_bank = boot.file("other-bank", &boot.sign("sha384"));
    boot.unlock(&[&other_bank]).refused(19).says("for other banks only");
    boot.machine.tpm.extend(4, 1);
    boot.unlock(&[&good]).refused(19).says("no signature covers sha256 PCR 4+9 as they are now");
    // The stale one hides the good one neither in another file nor in the same.
    let now = boot.sign("sha256");
    let fresh = boot.file("fresh", &now);
    boot.unlock(&[&good, &fresh]).ok();
    let stale: Value = serde_json::from_slice(&std::fs::read(&good).unwrap()).unwrap();
    let both = json!({ "sha256": [stale["sha256"][0], now["sha256"][0]] });
    boot.unlock(&[&boot.file("both", &both)]).ok();
    // Another key's signature of this state is none.
    boot.authority = Authority::new(boot.machine.folder.path(), "other");
    let foreign = boot.file("foreign", &boot.sign("sha256"));
    boot.unlock(&[&foreign]).refused(19).says("there is none by the token's key");
    assert_eq!(boot.machine.tpm.lockout_counter(), 0);
}

#[test]
fn a_forged_signature_opens_nothing_and_hides_nothing() {
    let boot = Signed::new();
    let good = boot.sign("sha256");
    let mut forged = good.clone();
    let (first, rest) = good["sha256"][0]["sig"].as_str().unwrap().split_at(1);
    forged["sha256"][0]["sig"] = format!("{}{rest}", if first == "A" { "B" } else { "A" }).into();
    let forged_file = boot.file("forged", &forged);
    boot.unlock(&[&forged_file]).refused(19).says("no signature of the present PCR values is by");
    boot.unlock(&[&forged_file, &boot.file("good", &good)]).ok();
    assert_eq!(boot.machine.tpm.lockout_counter(), 0);
    assert_eq!(boot.machine.tpm.loaded(), 0);
    let broken = boot.file("broken", &json!("nothing"));
    boot.unlock(&[&broken]).refused(3).says("is not a signature file");
    boot.unlock(&[&boot.machine.file("missing")]).refused(3).says("missing");
}

/// Every place where signatures may lie is looked at, and QubesDB's answer is waited for in vain
/// only for a while.
#[test]
fn signatures_are_found_wherever_they_lie() {
    let boot = Signed::new();
    let good = boot.sign("sha256");
    let root = boot.machine.file("root");
    for place in [
        "etc/systemd/tpm2-pcr-signature.json",
        "run/systemd/tpm2-pcr-signature.json",
        "usr/lib/systemd/tpm2-pcr-signature.json",
        "usr/local/lib/systemd/tpm2-pcr-signature.json",
        ".extra/tpm2-pcr-signature.json",
        "sys/firmware/qemu_fw_cfg/by_name/opt/org.vmseal/policy/raw",
    ] {
        let path = root.join(place);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        boot.unlock(&[]).refused(19);
        std::fs::write(&path, good.to_string()).unwrap();
        boot.unlock(&[]).ok();
        std::fs::write(&path, "{").unwrap();
    }
    // Of what the host hands over no more is read than it would ever give.
    let fw_cfg = root.join("sys/firmware/qemu_fw_cfg/by_name/opt/org.vmseal/policy/raw");
    let text = good.to_string();
    let long = |len: usize| text.clone() + &" ".repeat(len - text.len());
    std::fs::write(&fw_cfg, long((64 << 10) + 1)).unwrap();
    boot.unlock(&[]).refused(19);
    std::fs::write(&fw_cfg, long(64 << 10)).unwrap();
    boot.unlock(&[]).ok();
    std::fs::remove_file(&fw_cfg).unwrap();
    let program = root.join("usr/bin/qubesdb-read");
    std::fs::create_dir_all(program.parent().unwrap()).unwrap();
    let qubesdb = |answer: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(&program, format!("#!/bin/sh\n{answer}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    };
    qubesdb(&format!("[ \"$1\" = /vm-config/vmseal-policy ] && echo '{good}'"));
    boot.unlock(&[]).ok();
    qubesdb("exec sleep 60");
    let ran = boot.unlock(&[]).refused(19);
    assert!(ran.took.as_secs() < 20, "{ran:#?}");
    std::fs::remove_file(&program).unwrap();
    // A disk of the machine, if the machine cannot write it and it is small.
    let disk = |name: &str, ro: &str, sectors: usize, content: &[u8]| {
        let device = root.join("sys/block").join(name);
        std::fs::create_dir_all(device.join("device")).unwrap();
        std::fs::write(device.join("ro"), ro).unwrap();
        std::fs::write(device.join("size"), format!("{sectors}\n")).unwrap();
        std::fs::create_dir_all(root.join("dev")).unwrap();
        std::fs::write(root.join("dev").join(name), content).unwrap();
    };
    let content = format!("vmseal-policy 1\n{good}");
    let whole = [content.as_bytes(), &vec![0; 4096 - content.len() % 512]].concat();
    let sectors = whole.len() / 512;
    disk("vda", "0\n", 1 << 24, b"LUKS");
    disk("vdb", "1\n", sectors, &whole);
    boot.unlock(&[]).ok();
    for (ro, sectors, content) in [
        ("0\n", sectors, whole.as_slice()),
        ("1\n", 2049, whole.as_slice()),
        ("1\n", 0, whole.as_slice()),
        ("yes\n", sectors, whole.as_slice()),
        ("1\n", sectors, content.strip_prefix("vmseal").unwrap().as_bytes()),
        ("1\n", sectors, b"vmseal-policy 1\n"),
        ("1\n", sectors, b"vmseal-policy 1\n\xff{\0"),
        ("1\n", sectors, good.to_string().as_bytes()),
    ] {
        disk("vdb", ro, sectors, content);
        boot.unlock(&[]).refused(19);
    }
    // One that says nothing hides no other.
    disk("vdc", "1\n", sectors, &whole);
    boot.unlock(&[]).ok();
    std::fs::remove_dir_all(root.join("sys/block")).unwrap();
    // Last, the record in the header.
    let record = json!({
        "type": "vmseal-record", "keyslots": [], "version": 1, "generation": 1, "entries": [],
        "signatures": good,
    });
    boot.machine.image.import_token(1, &record).ok();
    boot.unlock(&[]).ok();
}

#[test]
fn a_pcrlock_policy_that_is_gone_or_another_opens_nothing() {
    let mut machine = machine();
    let policy = machine.file("root/var/lib/systemd/pcrlock.json");
    std::fs::create_dir_all(policy.parent().unwrap()).unwrap();
    let make = |machine: &Machine| {
        Systemd::Trixie.make_pcrlock(&machine.tpm, machine.log(), &policy).ok();
    };
    make(&machine);
    let option = format!("--tpm2-pcrlock={}", policy.display());
    let options = ["--tpm2-pcrs=", "--tpm2-public-key=", &option];
    Systemd::Trixie.enroll(&machine.tpm, &machine.image, &options).ok();
    let unlock = |machine: &Machine| {
        let root = machine.file("root");
        machine.unlock(&["--quiet", "--root", root.to_str().unwrap()])
    };
    unlock(&machine).ok();
    let json = std::fs::read_to_string(&policy).unwrap();
    std::fs::remove_file(&policy).unwrap();
    unlock(&machine).refused(19).says("there is no pcrlock.json of the token's nv index");

    // As an initrd has it: a credential that everybody can open.
    let plain = machine.file("plain.json");
    std::fs::write(&plain, &json).unwrap();
    let copy = machine.file("root/.extra/global_credentials/pcrlock.debian.cred");
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    let mut encrypt = Systemd::Trixie.command("systemd-creds");
    encrypt.args(["encrypt", "--with-key=null", "--name=pcrlock.debian"]).arg(&plain);
    run(encrypt.arg(&copy)).ok();
    unlock(&machine).ok();
    std::fs::remove_file(&copy).unwrap();

    // The file of another policy than the index has now: a crash between the two writes.
    let values: Value = serde_json::from_str(&json).unwrap();
    let mut other = values.clone();
    other["pcrValues"][1]["values"].as_array_mut().unwrap().push("ab".repeat(32).into());
    std::fs::write(&policy, other.to_string()).unwrap();
    unlock(&machine).refused(19).says("approves another policy than pcrlock.json tells");
    std::fs::write(&policy, &json).unwrap();
    unlock(&machine).ok();

    machine.boot("uki/kernel");
    unlock(&machine).refused(12).says("PCR 4");
    machine.boot(BASE);
    machine.tpm.undefine_index(values["nvIndex"].as_u64().unwrap() as u32);
    unlock(&machine).refused(19).says("has no NV index");
    assert_eq!(machine.tpm.loaded(), 0);
}
