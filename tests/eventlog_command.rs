//! `vmseal eventlog`: the story, the JSON, the comparison with a TPM, the refusals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use testkit::run::{Ran, run};
use testkit::virtual_boot::fixture_folder;
use testkit::{Recording, Swtpm};

fn log(name: &str) -> PathBuf {
    fixture_folder(name).join("log.bin")
}

/// `vmseal eventlog` with these words; no TPM but the one they name.
fn eventlog(words: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
    run(command.arg("eventlog").args(words).env_remove("TPM2TOOLS_TCTI"))
}

#[test]
fn the_story_goes_from_the_firmware_to_the_command_line() {
    let ran = eventlog(&[log("shim-nosb-deb13/base").to_str().unwrap()]).code(0);
    let story: Vec<&str> = ran.stdout.lines().take_while(|line| !line.is_empty()).collect();
    let phases: Vec<&str> = story.iter().map(|line| line[..14].trim_end()).collect();
    assert_eq!(
        phases,
        [
            "firmware",
            "Secure Boot",
            "loader",
            "loader",
            "loader",
            "kernel",
            "kernel",
            "initrd",
            "initrd",
            "command line"
        ]
    );
    assert_eq!(
        story[6],
        "kernel        GRUB read /boot/vmlinuz-6.12.107+deb13-cloud-amd64 [PCR 9, event 96]"
    );
    assert!(ran.stdout.contains("\n   96  PCR 9   GRUB read /boot/vmlinuz-6.12.107"));
    assert!(!ran.stdout.contains("sha256"));
    let path = log("uki/base");
    let detailed = eventlog(&["-v", path.to_str().unwrap()]).code(0);
    assert!(detailed.stdout.contains("EV_S_CRTM_VERSION"));
    assert!(detailed.stdout.contains("Replayed sha256:"));
}

#[test]
fn a_boot_that_shows_no_kernel_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("log.bin");
    let bytes = std::fs::read(log("uki/base")).unwrap();
    let whole = vmseal::measurement::EventLog::parse(&bytes).unwrap();
    // Up to the firmware's separators.
    let events = whole.events()[..27].to_vec();
    let format = whole.format().clone();
    let log = vmseal::measurement::EventLog::from_events(format, events);
    std::fs::write(&cut, log.to_bytes()).unwrap();
    let ran = eventlog(&[cut.to_str().unwrap()]).code(0);
    assert!(ran.stdout.contains("kernel        not covered: "), "{}", ran.stdout);
}

#[test]
fn json_is_one_object_of_events_and_pcrs() {
    let folder = fixture_folder("banks/all-four");
    let (firmware, userspace) = (folder.join("log.bin"), folder.join("userspace.log"));
    let json = eventlog(&[
        "--json",
        firmware.to_str().unwrap(),
        "--userspace-log",
        userspace.to_str().unwrap(),
    ])
    .code(0)
    .json();
    let recorded: Value =
        serde_json::from_slice(&std::fs::read(folder.join("pcrs.json")).unwrap()).unwrap();
    for (bank, values) in recorded.as_object().unwrap() {
        for (pcr, value) in values.as_object().unwrap().iter().filter(|(pcr, _)| *pcr != "10") {
            assert_eq!(json["pcrs"][bank][pcr], *value, "{bank} {pcr}");
        }
    }
    assert_eq!(json["pcrs"]["sha512"].as_object().unwrap().len(), 24);
    let events = json["events"].as_array().unwrap();
    let image = &events[23];
    assert_eq!(image["number"], 23);
    assert_eq!(image["pcr"], 4);
    assert_eq!(image["type"], "EV_EFI_BOOT_SERVICES_APPLICATION");
    assert_eq!(image["data"]["kind"], "image");
    assert_eq!(image["digests"].as_object().unwrap().len(), 4);
    assert_eq!(image.get("log"), None);
    let last = events.last().unwrap();
    assert_eq!((&last["log"], &last["type"]), (&"userspace".into(), &"phase".into()));
    assert_eq!(last["data"]["word"], "leave-initrd");
}

#[test]
fn verify_compares_with_the_tpm_and_names_the_first_pcr_that_differs() {
    let tpm = Swtpm::with_banks(&["sha256"]);
    Recording::fixture("grub-tpm-deb13/base").replay_into(&mut tpm.wire());
    let verify =
        |log: &PathBuf| eventlog(&["--verify", "--tcti", &tpm.tcti(), log.to_str().unwrap()]);
    verify(&log("grub-tpm-deb13/base")).code(0).says("agrees with the TPM's PCRs (sha256)");
    // Another kernel: PCRs 4, 8 and 9 differ.
    verify(&log("grub-tpm-deb13/kernel3")).code(12).says("PCR 4");
    verify(&log("grub-tpm-deb13/cmdline")).code(12).says("PCR 8");
    tpm.extend(2, 1);
    verify(&log("grub-tpm-deb13/base")).code(12).says("PCR 2");
}

#[test]
fn a_missing_or_malformed_log_is_refused_in_two_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole = std::fs::read(log("uki/base")).unwrap();
    let base = log("uki/base").to_str().unwrap().to_owned();
    let missing = folder.path().join("none").to_str().unwrap().to_owned();
    let cases: [(&[&str], &str); 5] = [
        (&[&missing], "no event log"),
        (&[&file("empty", b"")], "empty"),
        (&[&file("cut", &whole[..1000])], "truncated in event 13: digest at byte 978"),
        (&[&file("text", &b"\x1b[2Jhello ".repeat(20))], "malformed: event 0: PCR index at byte 0"),
        (&[&base, "--userspace-log", &file("bad", b"\x1e{\n")], "malformed: record 1: "),
    ];
    for (words, cause) in cases {
        let ran = eventlog(words).code(3).says(cause);
        assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte)));
    }
}
