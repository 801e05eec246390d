//! A machine that is about to run its boot step.

// Not every test file uses all of it.
#![allow(dead_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use testkit::Authority;
use testkit::image::{Image, PASSPHRASE};
use testkit::run::{Ran, run};
use testkit::swtpm::Swtpm;
use testkit::virtual_boot::{Recording, fixture_folder};
use vmseal::boot::Approvals;
use vmseal::measurement::{Digest, PcrBank};
use vmseal::policy::AuthorityKey;

const BOOT: &str = "uki/base";

/// A machine: its TPM and its disk.
pub struct Boot {
    folder: TempDir,
    /// The TPM.
    pub tpm: Swtpm,
    /// The disk.
    pub image: Image,
}

impl Boot {
    /// A machine after its firmware, loader and kernel, before its boot step.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tpm = Swtpm::with_banks(&["sha1", "sha256", "sha384"]);
        let image = Image::create(folder.path());
        let boot = Self { folder, tpm, image };
        boot.reset();
        boot
    }

    pub fn reset(&self) {
        let _ = std::fs::remove_dir_all(self.root());
        self.tpm.restart();
        let log = fixture_folder(BOOT).join("log.bin");
        Recording::from_event_log(&log).replay_into(&mut self.tpm.wire());
    }

    pub fn enroll(&self) {
        self.enroll_by(None);
    }

    /// Enrolls to what an authority signs, and gives its signatures of this boot.
    pub fn enroll_signed(&self) -> Value {
        let authority = Authority::new(self.folder.path(), "authority");
        self.enroll_by(Some(&authority))
    }

    fn enroll_by(&self, authority: Option<&Authority>) -> Value {
        use std::time::Duration;
        use vmseal::enroll::{Chosen, To, With, apply, plan};
        use vmseal::luks::Device;
        let tpm =
            vmseal::tpm::Tpm::connect(&self.tpm.tcti().parse().unwrap(), Duration::from_secs(30))
                .unwrap();
        let logs =
            vmseal::boot::BootLogs::read(&fixture_folder(BOOT).join("log.bin"), None).unwrap();
        let mut plan = plan(&logs, &Chosen::Auto, PcrBank::Sha256, &[], |selection| {
            Ok(tpm.read_pcrs(std::slice::from_ref(selection))?.remove(0))
        })
        .unwrap();
        let mut device = Device::open(self.image.path(), None).unwrap();
        let passphrase = vmseal::secret::KeyslotPassphrase::new(PASSPHRASE.into());
        let (opened, key) = device.open_keyslot(None, &passphrase).unwrap();
        let (pins, mut approvals) = (self.pins(), Approvals::default());
        let mut signed = Value::Null;
        if let Some(authority) = authority {
            let public = fs::read(authority.public()).unwrap();
            plan.authority = Some(AuthorityKey::from_pem(&public).unwrap());
            let pcrs = plan.authorization().unwrap().pcrs.pcrs;
            let pcrs: Vec<u8> = pcrs.iter().map(|pcr| pcr.get()).collect();
            signed = authority.sign(&self.tpm, "sha256", &pcrs);
            approvals.signatures.add(&signed).unwrap();
        }
        let with = With {
            pins: &pins,
            extra: &[],
            pin: None,
            approvals: &approvals,
            signatures: None,
            journal_head: None,
            replaced: None,
        };
        apply(&mut device, (opened, &key), To::Tpm(&tpm), &plan, &with).unwrap();
        signed
    }

    pub fn pins(&self) -> std::path::PathBuf {
        self.folder.path().join("pins.json")
    }

    pub fn vmseal_boot(&self, verb: &str, operands: &[&Path]) -> Ran {
        run(self.command(verb).arg("--tcti").arg(self.tpm.tcti()).args(operands))
    }

    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal-boot"));
        command.arg(verb).arg("--pins").arg(self.pins()).arg("--root").arg(self.root());
        command
    }

    /// What shows the machine: nothing but what the boot step writes.
    pub fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("machine")
    }

    pub fn unlock(&self) -> Ran {
        self.vmseal_boot("unlock", &[self.image.path(), Path::new("root")])
    }

    pub fn pcr15(&self, bank: PcrBank) -> String {
        self.tpm.pcr(bank.name(), 15).to_lowercase()
    }

    pub fn is_latched(&self) -> bool {
        [PcrBank::Sha1, PcrBank::Sha256, PcrBank::Sha384]
            .into_iter()
            .all(|bank| self.pcr15(bank) != Digest::zero(bank).to_string())
    }

    /// Writes a file below the machine's root.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// What the boot step wrote of this boot.
    pub fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.root().join("run/vmseal/boot.json")).unwrap())
            .unwrap()
    }

    /// The volume's UUID.
    pub fn uuid(&self) -> String {
        testkit::tool("cryptsetup", &["luksUUID", self.image.path().to_str().unwrap()])
            .trim()
            .into()
    }

    /// A pass over a crypttab that names the disk as `root`, with these options.
    pub fn pass(&self, options: &str, arguments: &[&str]) -> Ran {
        let line = format!("root {} none luks,{options}\n", self.image.path().display());
        self.pass_over(&line, arguments)
    }

    /// A pass over this crypttab.
    pub fn pass_over(&self, crypttab: &str, arguments: &[&str]) -> Ran {
        self.write("crypttab", crypttab);
        let mut command = self.command("unlock");
        command.arg("--tcti").arg(self.tpm.tcti());
        run(command.arg("--crypttab").arg(self.root().join("crypttab")).args(arguments))
    }

    /// Has a script ask, and write down that it did. It answers what it is given.
    pub fn asker(&self, answer: &str) -> String {
        let script =
            format!("#!/bin/sh\necho \"$CRYPTTAB_NAME: $*\" >>asked\nprintf '%s\\n' '{answer}'\n");
        let script = script.replace("asked", self.root().join("asked").to_str().unwrap());
        self.write("ask", &script);
        format!("sh {} -q", self.root().join("ask").display())
    }

    /// What was asked, a line each.
    pub fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.root().join("asked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}
