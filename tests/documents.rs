//! The documents say what the programs do: options in help and manual, exit codes, completions.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use vmseal::exit::Exit;

fn help(of: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_vmseal")).args(of).arg("--help").output().unwrap();
    assert!(output.status.success(), "{of:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn document(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    // In roff a hyphen that is meant as one is written `\-`.
    fs::read_to_string(path).unwrap().replace("\\-", "-")
}

/// Every `--option` in a text.
fn options(text: &str) -> BTreeSet<String> {
    let is_option_character = |c: char| c.is_ascii_lowercase() || c == '-';
    text.split(|c: char| !is_option_character(c))
        .filter(|word| word.len() > 2 && word.starts_with("--") && !word.ends_with('-'))
        .filter(|word| !word.starts_with("---"))
        .map(ToOwned::to_owned)
        .collect()
}

const COMMANDS: [&str; 14] = [
    "enroll",
    "adopt",
    "unlock",
    "status",
    "revoke",
    "authority",
    "eventlog",
    "explain",
    "predict",
    "reference-boot",
    "reseal",
    "confirm",
    "template",
    "journal",
];

#[test]
fn manual_and_help_name_the_same_options() {
    let mut shown = options(&help(&[]));
    for command in COMMANDS {
        shown.extend(options(&help(&[command])));
    }
    for command in ["init", "show", "export", "rotate"] {
        shown.extend(options(&help(&["authority", command])));
    }
    for command in ["add", "check", "list"] {
        shown.extend(options(&help(&["template", command])));
    }
    assert_eq!(options(&document("man/vmseal.8")), shown);
}

#[test]
fn manual_and_usage_of_the_boot_step_name_the_same_options() {
    let usage = document("crates/vmseal-boot/src/args.rs");
    let usage = usage.split("#[cfg(test)]").next().unwrap();
    assert_eq!(options(&document("man/vmseal-boot.8")), options(usage));
}

#[test]
fn every_command_is_in_the_manual_and_the_readme() {
    let (manual, readme) = (document("man/vmseal.8"), document("README.md"));
    let overview = help(&[]);
    for command in COMMANDS {
        assert!(overview.contains(&format!("\n  {command} ")), "{command}");
        assert!(manual.contains(command), "{command}");
        assert!(readme.contains(&format!("vmseal {command}")), "{command}");
    }
}

#[test]
fn every_exit_code_is_documented() {
    let exits = [
        Exit::Done,
        Exit::Internal,
        Exit::Usage,
        Exit::Refused,
        Exit::NoToken,
        Exit::NoTpm,
        Exit::PcrMismatch,
        Exit::OtherTpm,
        Exit::Lockout,
        Exit::BadToken,
        Exit::Keyslot,
        Exit::NotPinned,
        Exit::Pin,
        Exit::NoSignature,
        Exit::NotApproved,
    ];
    for exit in exits.map(Exit::code) {
        assert!(document("README.md").contains(&format!("\n| {exit} |")), "README: {exit}");
        assert!(document("man/vmseal.8").contains(&format!("\n.B {exit}\n")), "manual: {exit}");
    }
}

/// Runs each command of the documents on a device that does not exist: whatever becomes of it, its
/// arguments are understood.
#[test]
fn every_command_line_of_the_documents_is_understood() {
    let mut commands = 0;
    for name in ["README.md", "docs/formats.md", "docs/threat-model.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        let shell = text.split("```").filter_map(|block| block.strip_prefix("sh\n"));
        for line in shell.flat_map(str::lines) {
            let line = line.split(['#', '|']).next().unwrap_or_default().trim();
            let Some(words) = line.trim_start_matches("sudo ").strip_prefix("vmseal ") else {
                continue;
            };
            let words = words.split_whitespace().map(|word| word.replace("/dev/vda3", "/no/disk"));
            let output = Command::new(env!("CARGO_BIN_EXE_vmseal"))
                .args(words)
                .args(["--tcti", "device:/no/tpm"])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_ne!(output.status.code(), Some(2), "{name}: {line}: {said}");
            commands += 1;
        }
    }
    assert!(commands > 5, "{commands} commands");
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "fish", "zsh"] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_vmseal")).args(["generate", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}
