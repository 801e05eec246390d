//! A virtual machine without the machine: a TPM that booted, a disk, a pins file, and `vmseal`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::image::{Image, PASSPHRASE};
use crate::run::{Ran, run};
use crate::swtpm::Swtpm;
use crate::virtual_boot::{Recording, fixture_folder};

/// The boot that tests start from: OVMF and a unified kernel image.
pub const BASE: &str = "uki/base";
/// The same machine with another kernel and its initrd.
pub const OTHER_KERNEL: &str = "uki/kernel";
/// The same machine with another command line.
pub const OTHER_CMDLINE: &str = "uki/cmdline";

/// A TPM, a disk and the program under test, in a folder of their own.
pub struct Machine {
    /// The TPM.
    pub tpm: Swtpm,
    /// The disk.
    pub image: Image,
    /// Where all files of this machine are.
    pub folder: TempDir,
    program: PathBuf,
    log: PathBuf,
}

impl Machine {
    /// A machine that booted [`BASE`]. `program` is `env!("CARGO_BIN_EXE_vmseal")`.
    pub fn booted(program: &str) -> Self {
        Self::with_tpm(program, Swtpm::start(), BASE)
    }

    /// A machine with this TPM that booted a fixture.
    pub fn with_tpm(program: &str, tpm: Swtpm, boot: &str) -> Self {
        let folder = TempDir::with_prefix("vmseal-test-").unwrap();
        // The key file of `enroll`, without a newline.
        std::fs::write(folder.path().join("passphrase"), PASSPHRASE).unwrap();
        let image = Image::create(folder.path());
        let mut machine = Self { tpm, image, folder, program: program.into(), log: PathBuf::new() };
        machine.boot(boot);
        machine
    }

    /// Resets the TPM and boots a fixture, as far as the firmware's log tells.
    pub fn boot(&mut self, boot: &str) {
        self.boot_log(fixture_folder(boot).join("log.bin"));
    }

    /// Resets the TPM and boots as a log tells.
    pub fn boot_log(&mut self, log: PathBuf) {
        self.tpm.restart();
        self.log = log;
        Recording::from_event_log(&self.log).replay_into(&mut self.tpm.wire());
    }

    /// A file of this machine's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The pins file.
    pub fn pins(&self) -> PathBuf {
        self.file("pins.json")
    }

    /// The bytes of the pins file, if there is one.
    pub fn pins_bytes(&self) -> Option<Vec<u8>> {
        std::fs::read(self.pins()).ok()
    }

    /// The key file with the passphrase.
    pub fn key_file(&self) -> PathBuf {
        self.file("passphrase")
    }

    /// A command of vmseal on this machine's TPM, log and pins file.
    pub fn vmseal(&self, arguments: &[&str]) -> Command {
        self.vmseal_with(&self.tpm.tcti(), &self.log, arguments)
    }

    /// A command of vmseal on this machine's pins file, with another TPM or log.
    pub fn vmseal_with(&self, tcti: &str, log: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(["--tcti", tcti]);
        command.arg("--eventlog").arg(log).arg("--pins").arg(self.pins());
        command.env_remove("TPM2TOOLS_TCTI");
        command
    }

    /// The event log of the boot.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Runs `act`, which must be refused with `code` and leave disk and pins as they were.
    #[track_caller]
    pub fn refuses(&self, code: i32, act: impl FnOnce(&Self) -> Ran) -> Ran {
        let before = self.state();
        let ran = act(self).refused(code);
        assert_eq!(self.state(), before, "the disk or the pins changed; {ran:#?}");
        ran
    }

    /// The disk and the pins, to be compared later.
    pub fn state(&self) -> State {
        State(self.image.snapshot(), self.pins_bytes())
    }

    /// `vmseal enroll IMAGE` by the passphrase, with further options.
    pub fn enroll(&self, options: &[&str]) -> Ran {
        let mut command = self.vmseal(&["enroll"]);
        command.arg("--unlock-key-file").arg(self.key_file()).args(options);
        run(command.arg(self.image.path()))
    }

    /// `vmseal unlock IMAGE --test`, with further options.
    pub fn unlock(&self, options: &[&str]) -> Ran {
        run(self.vmseal(&["unlock", "--test"]).args(options).arg(self.image.path()))
    }

    /// `vmseal status IMAGE`, with further options.
    pub fn status(&self, options: &[&str]) -> Ran {
        run(self.vmseal(&["status"]).args(options).arg(self.image.path()))
    }

    /// Has the TPM refuse what counts failed attempts, by as many of them as it allows.
    pub fn lock_tpm_out(&self) {
        let file = |name: &str| self.file(name).to_str().expect("a plain path").to_owned();
        let (tcti, parent) = (self.tpm.tcti(), "0x81000001");
        let (public, private, object) = (file("pub"), file("priv"), file("ctx"));
        std::fs::write(file("data"), "data").expect("a file in the machine's folder");
        let create =
            ["-C", parent, "-p", "right", "-i", &file("data"), "-u", &public, "-r", &private];
        crate::tool("tpm2_create", &[&["-Q", "-T", &tcti], &create[..]].concat());
        let load = ["-C", parent, "-u", &public, "-r", &private, "-c", &object];
        crate::tool("tpm2_load", &[&["-Q", "-T", &tcti], &load[..]].concat());
        for _ in 0..8 {
            let mut unseal = Command::new("tpm2_unseal");
            let ran = run(unseal.args(["-T", &tcti, "-c", &object, "-p", "wrong"]));
            assert_ne!(ran.code, Some(0), "{ran:#?}");
            self.tpm.flush();
        }
        assert!(self.tpm.lockout_counter() >= 3);
    }

    /// `vmseal revoke IMAGE`, with further options.
    pub fn revoke(&self, options: &[&str]) -> Ran {
        run(self.vmseal(&["revoke"]).args(options).arg(self.image.path()))
    }
}

/// What a command that changes nothing must leave as it was: the disk and the pins.
#[derive(Debug, PartialEq, Eq)]
pub struct State(crate::image::Snapshot, Option<Vec<u8>>);

/// The project's top folder.
pub fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("crates/testkit lies two folders down").to_owned()
}
