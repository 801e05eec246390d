//! The command line's contract: what needs neither TPM nor volume.

#![allow(clippy::unwrap_used)]

use assert_cmd::Command;
use tempfile::TempDir;

fn vmseal(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
    command.env_remove("TPM2TOOLS_TCTI").args(arguments);
    command
}

fn stdout(arguments: &[&str]) -> String {
    let output = vmseal(arguments).assert().code(0).get_output().clone();
    assert!(output.stderr.is_empty(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn wrong_arguments_end_with_2_and_say_nothing_on_standard_output() {
    for arguments in [
        &[][..],
        &["seal"],
        &["help"],
        &["enroll"],
        &["enroll", "disk.img", "--policy", "magic"],
        &["enroll", "disk.img", "--bank", "md5"],
        &["enroll", "disk.img", "--allow-uncovered", "everything"],
        &["enroll", "disk.img", "--unknown"],
        &["enroll", "disk.img", "--policy", "pcr", "--authority-key", "key.pem"],
        &[
            "enroll",
            "disk.img",
            "--policy",
            "authority",
            "--authority-public",
            "a",
            "--authority-key",
            "b",
        ],
        &["authority"],
        &["authority", "sign"],
        &["authority", "show", "--allow-unprotected"],
        &["enroll", "disk.img", "--policy", "pcr", "--authority-public", "key.pub"],
        &["enroll", "disk.img", "--pin-file", "pin"],
        &["adopt"],
        &["unlock"],
        &["unlock", "disk.img"],
        &["unlock", "disk.img", "name", "--test"],
        &["status", "--header", "header.img"],
        &["revoke"],
        &["revoke", "disk.img"],
        &["revoke", "disk.img", "--keyslot", "1", "--tpm"],
        &["revoke", "disk.img", "--keyslot", "one"],
        &["revoke", "disk.img", "--keyslot", "-1"],
        &["generate"],
        &["status", "--quiet", "--verbose"],
    ] {
        let assert = vmseal(arguments).assert().code(2);
        assert!(assert.get_output().stdout.is_empty(), "{arguments:?}");
        assert!(!assert.get_output().stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn bad_pcr_lists_and_tctis_are_wrong_arguments() {
    let folder = TempDir::new().unwrap();
    let disk = testkit::Image::create(folder.path());
    let before = disk.snapshot();
    let path = disk.path().to_str().unwrap();
    for arguments in [
        &["enroll", path, "--pcrs", "24"][..],
        &["enroll", path, "--pcrs", "seven"],
        &["enroll", path, "--pcrs", ""],
        // Resettable PCRs prove nothing.
        &["enroll", path, "--pcrs", "7+16"],
        &["enroll", path, "--pcrs", "23"],
        &["unlock", path, "--test", "--tcti", "cmd:sh"],
        &["unlock", path, "--test", "--tcti", "swtpm:port=many"],
    ] {
        let assert = vmseal(arguments).assert().code(2);
        assert!(assert.get_output().stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(disk.snapshot(), before);
}

#[test]
fn help_and_version_go_to_standard_output() {
    assert!(stdout(&["--version"]).starts_with("vmseal "));
    let help = stdout(&["--help"]);
    for verb in ["enroll", "unlock", "status", "revoke", "eventlog", "explain", "journal"] {
        assert!(help.contains(verb), "{verb}");
        assert!(stdout(&[verb, "--help"]).contains("Usage: vmseal"), "{verb}");
    }
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "fish", "zsh"] {
        assert!(stdout(&["generate", shell]).contains("vmseal"), "{shell}");
    }
}

#[test]
fn the_environment_names_the_tpm_when_the_command_line_does_not() {
    let folder = TempDir::new().unwrap();
    let disk = testkit::Image::create(folder.path());
    let path = disk.path().to_str().unwrap();
    vmseal(&["unlock", path, "--test"]).env("TPM2TOOLS_TCTI", "nonsense:").assert().code(2);
}
