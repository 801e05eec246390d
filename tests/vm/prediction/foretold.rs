//! `vmseal predict` over the files of two machines.

use std::process::Command;

use serde_json::Value;
use testkit::run::run;

use super::Machine;
use super::recording::{Recording, get};
use crate::workshop::text;

/// What a policy may select, and each of them can be predicted: firmware, loader, kernel, initrd,
/// command line. PCR 1 is predicted or not.
const NEVER_MISSING: [u8; 13] = [0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14];

/// What was printed.
pub struct Foretold {
    said: Value,
}

impl Foretold {
    /// Predicts what `next` will measure, from its files, those of the machine that booted last and
    /// that boot's log.
    #[track_caller]
    pub fn by(base: &Machine, last: &Recording, next: &Machine) -> Self {
        let log = next.path("base.log");
        std::fs::write(&log, &last.log).unwrap();
        let mut predict = Command::new(env!("CARGO_BIN_EXE_vmseal"));
        predict.args(["predict", "--json", "--base-log", text(&log)]);
        match &next.command_line {
            Some(command_line) => {
                predict.arg("--kernel").arg(next.path("kernel"));
                predict.arg("--initrd").arg(next.path("initrd"));
                predict.args(["--cmdline", command_line, "--qemu", &qemu_version()]);
                if next.is_kernel_patched() {
                    predict.arg("--mem").arg(next.memory.to_string());
                }
            }
            None => {
                predict.arg("--base-esp").arg(base.path("esp")).arg("--esp").arg(next.path("esp"));
                if next.has_boot() {
                    predict.arg("--base-boot").arg(base.path("boot"));
                    predict.arg("--boot").arg(next.path("boot"));
                }
            }
        }
        if next.is_secure() {
            predict.arg("--vars").arg(next.path("variables"));
        }
        Self { said: run(&mut predict).ok().json() }
    }

    /// The boot after that one, which reads what that one wrote.
    pub fn then(self) -> Self {
        Self { said: self.said["then"].clone() }
    }

    /// Asserts that the boot gave what was predicted of the default entry.
    #[track_caller]
    pub fn is(&self, measured: &Recording) {
        let said = &self.said;
        let entries = said["entries"].as_array().unwrap_or_else(|| panic!("no entries: {said:#}"));
        let defaults: Vec<_> = entries.iter().filter(|entry| entry["default"] == true).collect();
        assert_eq!(defaults.len(), 1, "one entry is the default: {said:#}");
        for values in &measured.pcrs {
            let bank = values.bank().name();
            let foretold = &defaults[0]["pcrs"][bank];
            let is_wrong = |pcr: &u8| match foretold[pcr.to_string()].as_str() {
                Some(value) => get(values, *pcr).as_deref() != Some(value),
                None => NEVER_MISSING.contains(pcr),
            };
            let wrong: Vec<u8> = (0..16).filter(is_wrong).collect();
            assert!(wrong.is_empty(), "{bank} PCRs {wrong:?} are not as predicted: {said:#}");
        }
    }
}

fn qemu_version() -> String {
    let said = testkit::tool("qemu-system-x86_64", &["--version"]);
    let version = said.split(' ').nth(3).unwrap();
    version.trim_end_matches(|after: char| !after.is_ascii_digit()).to_owned()
}
