//! `vmseal enroll --srk-public`: sealed to a TPM that was not there, opened by it, and by no other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::PathBuf;

use testkit::machine::{BASE, OTHER_KERNEL};
use testkit::systemd::PIN;
use testkit::{Authority, Image, Machine, Ran, Swtpm, Systemd, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
/// The PCRs that vmseal chooses for the boot of these tests, without 15.
const SIGNED: [u8; 6] = [0, 4, 7, 11, 12, 13];

/// A machine that is not on yet: what the host has of it is the public half of its storage root key,
/// and the log of a boot like those to come.
struct Elsewhere {
    machine: Machine,
    authority: Authority,
    srk: PathBuf,
}

impl Elsewhere {
    fn new() -> Self {
        let machine = Machine::with_tpm(VMSEAL, Swtpm::start(), BASE);
        let authority = Authority::new(machine.folder.path(), "authority");
        let srk = machine.tpm.make_srk(machine.folder.path(), "ecc256");
        Self { machine, authority, srk }
    }

    /// Enrolls with no TPM to be had.
    fn enroll(&self, options: &[&str]) -> Ran {
        let log = self.machine.log().to_owned();
        let mut command =
            self.machine.vmseal_with("swtpm:host=127.0.0.1,port=1", &log, &["enroll"]);
        command.arg("--srk-public").arg(&self.srk);
        command.arg("--unlock-key-file").arg(self.machine.key_file());
        run(command.args(options).arg(self.machine.image.path()))
    }

    fn by_authority(&self, options: &[&str]) -> Ran {
        let public = self.authority.public().to_str().unwrap();
        self.enroll(&[&["--authority-public", public], options].concat())
    }

    /// A signature of what the PCRs are now.
    fn sign(&self) -> PathBuf {
        let file = self.machine.file("signatures.json");
        let signatures = self.authority.sign(&self.machine.tpm, "sha256", &SIGNED);
        fs::write(&file, signatures.to_string()).unwrap();
        file
    }

    fn unlock(&self, options: &[&str]) -> Ran {
        self.machine.unlock(options)
    }
}

#[test]
fn a_volume_sealed_without_its_tpm_opens_at_its_first_boot() {
    let mut there = Elsewhere::new();
    let ran = there.by_authority(&["--json"]).ok();
    let enrolled = ran.json();
    assert_eq!(enrolled["proven"], false);
    let word = enrolled["pin"].as_str().unwrap();
    assert!(word.starts_with("vmseal.pin=") && ran.stderr.contains(word), "{ran:#?}");

    // The keyslots and the disk are done: from here on there is only the machine.
    there.machine.boot(BASE);
    there.unlock(&[]).refused(19);
    let signatures = there.sign();
    let signed = ["--signature", signatures.to_str().unwrap()];
    there.unlock(&signed).ok();
    for systemd in [Systemd::Trixie, Systemd::Forky] {
        let (tpm, image) = (&there.machine.tpm, &there.machine.image);
        assert!(systemd.attaches(tpm, image, &signatures), "{systemd:?}");
    }
    // Another boot, then this one again, latched.
    there.machine.boot(OTHER_KERNEL);
    there.unlock(&signed).refused(19);
    there.machine.boot(BASE);
    there.machine.tpm.extend(15, 1);
    there.unlock(&signed).refused(12).says("PCR 15");
    // And by another TPM, whatever was signed.
    there.machine.tpm.replace_owner();
    there.machine.boot(BASE);
    there.unlock(&signed).refused(13);
}

#[test]
fn literal_values_are_those_of_the_log() {
    let mut there = Elsewhere::new();
    there.enroll(&["--policy", "pcr"]).ok();
    there.machine.boot(BASE);
    there.unlock(&[]).ok();
    there.machine.boot(OTHER_KERNEL);
    there.unlock(&[]).refused(12);
}

#[test]
fn a_storage_key_of_rsa_and_a_pin_do_too() {
    let mut there = Elsewhere::new();
    there.machine.tpm.replace_owner();
    there.machine.tpm.make_srk(there.machine.folder.path(), "rsa2048");
    let pin = there.machine.file("pin");
    fs::write(&pin, PIN).unwrap();
    let with_pin = ["--pin-file", pin.to_str().unwrap()];
    there.by_authority(&[&["--pin"][..], &with_pin].concat()).ok();
    there.machine.boot(BASE);
    let signatures = there.sign();
    let signed = ["--signature", signatures.to_str().unwrap()];
    there.unlock(&[&signed[..], &with_pin].concat()).ok();
    let wrong = there.machine.file("wrong");
    fs::write(&wrong, "0000").unwrap();
    there.unlock(&[&signed[..], &["--pin-file", wrong.to_str().unwrap()]].concat()).refused(18);
}

#[test]
fn many_are_sealed_and_each_opens() {
    let mut there = Elsewhere::new();
    for _ in 0..12 {
        there.machine.image = Image::create(there.machine.folder.path());
        let _ = fs::remove_file(there.machine.pins());
        there.by_authority(&[]).ok();
        there.machine.boot(BASE);
        let signatures = there.sign();
        there.unlock(&["--signature", signatures.to_str().unwrap()]).ok();
    }
}

#[test]
fn what_cannot_be_sealed_to_is_refused_and_changes_nothing() {
    let there = Elsewhere::new();
    let before = there.machine.state();
    let key = fs::read(&there.srk).unwrap();
    let mut off_curve = key.clone();
    off_curve[30] ^= 1;
    let mut not_fixed = key.clone();
    not_fixed[9] = 0x60;
    for (bytes, cause) in [
        (&b""[..], "not a TPM2B_PUBLIC"),
        (&key[..40], "not a TPM2B_PUBLIC"),
        (&[7; 4096], "not a TPM2B_PUBLIC"),
        (&off_curve, "point: expected one of the curve"),
        (&not_fixed, "attributes: expected a storage key that never leaves its TPM"),
    ] {
        fs::write(&there.srk, bytes).unwrap();
        there.by_authority(&[]).refused(3).says(cause).says("tpm2_readpublic");
    }
    fs::remove_file(&there.srk).unwrap();
    there.by_authority(&[]).refused(3);
    fs::write(&there.srk, &key).unwrap();
    there.enroll(&[]).refused(2).says("--authority-public");
    // The log of this very system is none of that machine's.
    let mut command = std::process::Command::new(VMSEAL);
    command.args(["enroll", "/dev/null", "--policy", "pcr", "--srk-public"]).arg(&there.srk);
    run(&mut command).code(2).says("--eventlog");
    there.by_authority(&["--pcrs", "7"]).refused(3).says("this boot is not covered");
    there.by_authority(&["--dry-run"]).ok();
    assert_eq!(there.machine.state(), before);
}
