//! `vmseal explain` on every pair of recorded boots, and its contract.
//!
//! `VMSEAL_BLESS=1 cargo test --test explain` rewrites the golden files; read the difference before
//! committing it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{Machine, Ran, run};
use vmseal::measurement::diff::{explain, notes};
use vmseal::measurement::{EventLog, PcrBank};

/// Family, case, and the case that it is compared with. What really changed: the case's ORIGIN.
const PAIRS: [(&str, &str, &str); 30] = [
    ("direct-qemu10.0.13-ovmf2025.02", "cmdline", "base"),
    ("direct-qemu10.0.13-ovmf2025.02", "kernel", "base"),
    ("direct-qemu10.0.13-ovmf2025.02", "m2048", "base"),
    ("direct-qemu10.0.2-ovmf2022.11", "initrd", "base"),
    ("full-grub", "initramfs-tools", "dracut"),
    ("full-uki", "b-cmdline", "a"),
    ("grub", "cmdline", "base"),
    ("grub", "initrd", "base"),
    ("grub-real-deb13", "kernel3", "base"),
    ("grub-tpm-deb13", "cmdline", "base"),
    ("grub-tpm-deb13", "initrd", "base"),
    ("grub-tpm-deb13", "kernel3", "base"),
    ("grub-tpm-deb13", "next-older", "saved-base"),
    ("grub-tpm-deb13", "saved-base", "base"),
    ("machine", "new-smp2", "new-smp1"),
    ("machine", "new-smp1", "old-smp1"),
    ("machine", "old-tis", "old-smp1"),
    ("sdboot-deb13", "uki-addon", "uki-base"),
    ("sdboot-uki", "cmdline", "base"),
    ("sdboot", "cmdline", "base"),
    ("sdboot", "initrd", "base"),
    ("sdboot", "kernel", "base"),
    ("shim-nosb-deb13", "cmdline", "base"),
    ("uki", "cmdline", "base"),
    ("uki", "initrd", "base"),
    ("uki", "kernel", "base"),
    ("uki-secureboot-db", "db-append", "base"),
    // Across families: everything at once.
    ("uki-secureboot-db", "base", "../uki/base"),
    ("shim-nosb-deb13", "base", "../grub/base"),
    ("sdboot", "base", "../direct-qemu10.0.2-ovmf2022.11/base"),
];

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn log(family: &str, case: &str) -> PathBuf {
    tests().join("fixtures/eventlogs").join(family).join(case).join("log.bin")
}

fn vmseal(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
    command.env_remove("TPM2TOOLS_TCTI").args(args);
    command
}

fn explained(expected: &Path, seen: &Path, more: &[&str]) -> Ran {
    let mut command = vmseal(&["explain"]);
    command.arg("--log").arg(expected).arg("--log").arg(seen).args(more);
    for log in [expected, seen] {
        let userspace = log.with_file_name("userspace.log");
        if userspace.exists() {
            command.arg("--userspace-log").arg(userspace);
        }
    }
    run(&mut command)
}

#[test]
fn every_pair_of_recorded_boots_names_what_changed() {
    let bless = std::env::var_os("VMSEAL_BLESS").is_some();
    let mut wrong = vec![];
    for (family, case, base) in PAIRS {
        let ran = explained(&log(family, base), &log(family, case), &[]).ok();
        assert!(ran.stdout.lines().count() <= 10, "{}", ran.stdout);
        assert!(ran.stdout.lines().all(|line| line.len() < 500), "{}", ran.stdout);
        let name = match base.strip_prefix("../") {
            Some(base) => format!("{family}-{case}-against-{}.txt", base.replace('/', "-")),
            None => format!("{family}-{case}.txt"),
        };
        let golden = tests().join("golden/explain").join(&name);
        if bless {
            fs::create_dir_all(golden.parent().unwrap()).unwrap();
            fs::write(&golden, &ran.stdout).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != ran.stdout {
            wrong.push(format!("{name}:\n{}", ran.stdout));
        }
    }
    assert!(wrong.is_empty(), "not as in the golden files:\n{}", wrong.join("\n"));
}

#[test]
fn no_golden_file_is_left_over_and_every_family_is_compared() {
    let files = fs::read_dir(tests().join("golden/explain")).unwrap().count();
    assert_eq!(files, PAIRS.len());
    for family in fs::read_dir(tests().join("fixtures/eventlogs")).unwrap() {
        let folder = family.unwrap().path();
        let cases = fs::read_dir(&folder).unwrap().flatten();
        let logs = cases.filter(|case| case.path().join("log.bin").exists()).count();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let compared = PAIRS.iter().filter(|(family, ..)| *family == name).count();
        assert!(logs < 2 || compared >= logs - 1, "{name}: {logs} logs, {compared} pairs");
    }
}

#[test]
fn the_same_log_twice_is_no_difference() {
    let log = log("grub-tpm-deb13", "base");
    let ran = explained(&log, &log, &[]).ok();
    assert_eq!(ran.stdout, "nothing differs\n");
    let json = explained(&log, &log, &["--json"]).ok().json();
    assert_eq!(json["differences"], serde_json::json!([]));
}

#[test]
fn json_names_causes_and_pcrs() {
    let ran = explained(&log("uki", "base"), &log("uki", "kernel"), &["--json"]).ok();
    let differences = ran.json()["differences"].as_array().unwrap().clone();
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0]["cause"], "uki");
    assert_eq!(differences[0]["pcrs"], serde_json::json!([4, 9, 11]));
    assert!(differences[0]["text"].as_str().unwrap().contains("kernel, initrd"));
}

#[test]
fn verbose_shows_every_event() {
    let ran = explained(&log("uki", "base"), &log("uki", "kernel"), &["-v"]).ok();
    let events = ran.stdout.lines().filter(|line| line.starts_with("  PCR ")).count();
    assert_eq!(events, 6, "{}", ran.stdout);
}

#[test]
fn one_log_is_compared_with_this_boots() {
    let (expected, seen) = (log("grub", "base"), log("grub", "initrd"));
    let mut command = vmseal(&["explain"]);
    command.arg("--log").arg(expected).arg("--eventlog").arg(seen);
    assert!(run(&mut command).ok().stdout.starts_with("PCR 9: the initrd /deb/initrd"));
}

#[test]
fn wrong_arguments_and_logs_end_as_they_must() {
    run(&mut vmseal(&["explain"])).code(2);
    run(&mut vmseal(&["explain", "disk.img", "--log", "a"])).code(2);
    run(&mut vmseal(&["explain", "--log", "a", "--log", "b", "--log", "c"])).code(2);
    run(&mut vmseal(&["explain", "--log", "a", "--userspace-log", "b", "--userspace-log", "c"]))
        .code(2);
    explained(Path::new("/no/log"), &log("grub", "base"), &[]).refused(3);
    explained(&log("grub", "base"), Path::new("/dev/null"), &[]).refused(3);
}

/// A machine whose expected events lie in a folder of their own.
struct Kept(Machine);

impl Kept {
    fn enrolled(boot: &str) -> Self {
        let tpm = testkit::Swtpm::start();
        let kept = Self(Machine::with_tpm(env!("CARGO_BIN_EXE_vmseal"), tpm, boot));
        kept.0.enroll(&["--expected-folder", &kept.folder()]).ok();
        kept
    }

    fn folder(&self) -> String {
        self.0.file("boot/vmseal").to_str().unwrap().to_owned()
    }

    fn file(&self) -> PathBuf {
        self.0.file("boot/vmseal/expected-1.json")
    }

    fn run(&self, verb: &[&str]) -> Ran {
        let mut command = self.0.vmseal(verb);
        run(command.args(["--expected-folder", &self.folder()]).arg(self.0.image.path()))
    }

    fn explain(&self) -> Ran {
        self.run(&["explain"])
    }
}

#[test]
fn the_sealed_boot_is_recognised() {
    let kept = Kept::enrolled("uki/base");
    let ran = kept.explain().ok();
    assert_eq!(ran.stdout, "this boot is the one that token 1 is sealed to\n");
    assert_eq!(kept.run(&["explain", "--json"]).ok().json()["differences"], serde_json::json!([]));
}

#[test]
fn another_boot_of_a_device_is_explained_and_ends_with_12() {
    let mut kept = Kept::enrolled("grub/base");
    kept.0.boot("grub/cmdline");
    let ran = kept.explain().code(12);
    let first = ran.stdout.lines().next().unwrap();
    assert!(first.starts_with("PCR 8+9: the command line gained vmseal.test=1."), "{first}");
    assert!(ran.stderr.contains("If you did not make this change"), "{}", ran.stderr);
    let json = kept.run(&["explain", "--json"]).code(12).json();
    assert_eq!(json["differ"], serde_json::json!([8, 9]));
    assert_eq!(json["expected_events"], true);
    assert_eq!(json["differences"][0]["cause"], "command_line");
    // Status and unlock say the same in one line.
    let status = kept.run(&["status"]).ok();
    let said = "PCR 8+9 differs: the command line gained vmseal.test=1; GRUB's configuration";
    assert!(status.stdout.contains(said), "{}", status.stdout);
    let refused = kept.run(&["unlock", "--test"]).refused(12);
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
}

#[test]
fn without_the_file_the_record_still_names_pcr_and_event() {
    let mut kept = Kept::enrolled("uki/base");
    fs::remove_file(kept.file()).unwrap();
    kept.0.boot("uki/cmdline");
    let ran = kept.explain().code(12);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    // Of the PCRs that are not sealed to, it keeps nothing that could differ.
    assert_eq!(lines.len(), 2, "{lines:?}");
    let first = lines[0];
    assert!(
        first.starts_with(
            "PCR 4+11: the unified kernel image \\EFI\\BOOT\\BOOTX64.EFI is not the one expected; \
             what differs is its command line."
        ),
        "{first}"
    );
}

#[test]
fn a_file_that_lies_or_is_none_costs_only_the_words() {
    let mut kept = Kept::enrolled("uki/base");
    let good = fs::read_to_string(kept.file()).unwrap();
    kept.0.boot("uki/cmdline");
    let whole = kept.explain().code(12).stdout;
    let hostile: [Vec<u8>; 4] = [
        b"[".repeat(60_000),
        vec![b'x'; 1 << 20],
        good.replace("\"policy_hash\":\"", "\"policy_hash\":\"00").into_bytes(),
        b"".to_vec(),
    ];
    for bytes in hostile {
        fs::write(kept.file(), bytes).unwrap();
        let ran = kept.explain().code(12);
        assert!(ran.stdout.contains("is not the one expected"), "{}", ran.stdout);
        assert!(ran.stderr.contains("PCR 4+11 differs"), "{}", ran.stderr);
    }
    fs::write(kept.file(), &good).unwrap();
    assert_eq!(kept.explain().code(12).stdout, whole);
    // A FIFO would wait for a writer.
    fs::remove_file(kept.file()).unwrap();
    testkit::tool("mkfifo", &[kept.file().to_str().unwrap()]);
    assert!(kept.explain().code(12).stdout.contains("is not the one expected"));
}

#[test]
fn enroll_keeps_the_events_and_revoke_removes_them() {
    let kept = Kept::enrolled("grub-tpm-deb13/base");
    let bytes = fs::read(kept.file()).unwrap();
    assert!(bytes.len() <= 64 << 10, "{}", bytes.len());
    let text = String::from_utf8(bytes).unwrap();
    // The sealed secret's token, record and keyslot are none of this file's business.
    assert!(!text.contains("tpm2-blob") && text.contains("\"role\":\"kernel-file\""));
    kept.run(&["revoke", "--keyslot", "1"]).ok();
    assert!(!kept.file().exists());
}

#[test]
fn a_dry_run_and_another_systems_log_leave_no_file() {
    let machine = Machine::booted(env!("CARGO_BIN_EXE_vmseal"));
    let folder = machine.file("boot");
    let folder = folder.to_str().unwrap();
    machine.enroll(&["--dry-run", "--expected-folder", folder]).ok();
    assert!(!Path::new(folder).exists());
    let before = fs::metadata("/boot/vmseal").and_then(|found| found.modified()).ok();
    machine.enroll(&[]).ok();
    assert_eq!(fs::metadata("/boot/vmseal").and_then(|found| found.modified()).ok(), before);
}

#[test]
fn a_boot_folder_that_cannot_be_written_is_a_remark() {
    let machine = Machine::booted(env!("CARGO_BIN_EXE_vmseal"));
    let file = machine.file("in-the-way");
    fs::write(&file, "").unwrap();
    let ran = machine.enroll(&["--expected-folder", file.to_str().unwrap()]).ok();
    assert!(ran.stderr.contains("cannot keep this boot's events"), "{}", ran.stderr);
    machine.unlock(&[]).ok();
}

/// The text of a command line that no log holds, where the running system tells it.
#[test]
fn a_command_line_that_the_log_proves_is_compared_by_its_words() {
    let boot = |case: &str, cmdline: Option<&str>| {
        let log = EventLog::parse(&fs::read(log("uki", case)).unwrap()).unwrap();
        notes(&log, None, PcrBank::Sha256, cmdline)
    };
    let text = |case: &str| {
        let path = log("uki", case).with_file_name("cmdline");
        fs::read_to_string(path).unwrap().trim_end().to_owned()
    };
    let (old, new) = (text("base"), text("cmdline"));
    let told = explain(&boot("base", Some(&old)), &boot("cmdline", Some(&new)));
    assert!(told[0].text.ends_with("its command line, which gained vmseal.test=1"), "{}", told[0]);
    // What the log does not prove is not believed.
    let lied = explain(&boot("base", Some(&old)), &boot("cmdline", Some(&old)));
    assert!(lied[0].text.ends_with("its command line"), "{}", lied[0]);
}
