//! A host with templates, and machines that hold the public half of a template's key only.

// Each test takes what it needs.
#![allow(dead_code)]

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use testkit::virtual_boot::fixture_folder;
use testkit::{Machine, Ran, Swtpm, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
/// A boot with the kernel that the host gives.
pub const BASE: &str = "direct-qemu10.0.13-ovmf2025.02/base";

/// A host with nothing but its files.
pub struct Host {
    folder: TempDir,
}

impl Host {
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("vmseal-host-").unwrap();
        fs::create_dir_all(folder.path().join("root/etc/vmseal/templates.d")).unwrap();
        Self { folder }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn vmseal(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(VMSEAL);
        command.args(arguments).args(["--tcti", "device:/no/tpm"]);
        run(command.arg("--root").arg(self.path("root")))
    }

    /// Makes a template's key, and gives the file of its public half.
    pub fn authority(&self, name: &str) -> PathBuf {
        self.vmseal(&["authority", "init", name]).ok();
        let public = self.path(&format!("{name}.pub"));
        fs::write(&public, self.vmseal(&["authority", "export", name]).ok().stdout).unwrap();
        public
    }

    /// Writes a template of the recorded machine with the kernel of `boot`, these machines, and
    /// what `keys` say.
    pub fn template(&self, name: &str, boot: &str, keys: &str, machines: &str) {
        let template = Template { keys, machines, ..Template::of(boot, self.delivery(name)) };
        self.write(name, &template);
    }

    /// Writes a template.
    pub fn write(&self, name: &str, template: &Template) {
        fs::write(self.file(name), template.to_string()).unwrap();
    }

    /// The file of a template.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path(&format!("root/etc/vmseal/templates.d/{name}.toml"))
    }

    /// Writes a template whose machines boot as `boot` says; its reference is this log.
    pub fn template_of(&self, name: &str, boot: &str, log: &Path, machines: &str) {
        let text = format!(
            "{boot}\n[[reference]]\nlog = {log:?}\n{machines}\n[delivery]\nkind = \"files\"\nfolder = {:?}\n",
            self.delivery(name),
        );
        fs::write(self.file(name), text).unwrap();
    }

    pub fn delivery(&self, name: &str) -> PathBuf {
        self.path("delivered").join(name)
    }

    /// Answers the prompt of `vmseal reseal` on a terminal, after `meanwhile` has run.
    pub fn at_a_terminal(&self, options: &[&str], meanwhile: &str, answer: &str) -> Ran {
        self.answered(&[&["reseal"], options].concat(), meanwhile, answer)
    }

    /// Answers the prompt of a command on a terminal, after `meanwhile` has run.
    pub fn answered(&self, arguments: &[&str], meanwhile: &str, answer: &str) -> Ran {
        let root = self.path("root");
        let words = [&[VMSEAL], arguments, &["--root", root.to_str().unwrap()]].concat();
        let script = format!(
            "(sleep 4; {meanwhile}; echo {answer}; sleep 1) | script -qec \"{}\" /dev/null",
            words.join(" ")
        );
        run(Command::new("sh").args(["-c", &script]))
    }

    pub fn reseal(&self, options: &[&str]) -> Ran {
        self.vmseal(&[&["reseal"], options].concat())
    }
}

/// A template of machines that are given the kernel of a recorded boot.
pub struct Template<'a> {
    /// Digests of kernel and initrd.
    pub artifacts: PathBuf,
    /// The log of the reference boot.
    pub log: PathBuf,
    pub cmdline: String,
    /// Further lines before the tables.
    pub keys: &'a str,
    /// The tables of the machines.
    pub machines: &'a str,
    /// The kind of delivery.
    pub kind: &'a str,
    /// Where signatures go.
    pub folder: PathBuf,
}

impl Template<'_> {
    /// That of `BASE` but for the kernel, which is that of `boot`, and without a machine.
    pub fn of(boot: &str, folder: PathBuf) -> Self {
        let base = fixture_folder(BASE);
        let cmdline = fs::read_to_string(base.join("inputs/append")).unwrap();
        Self {
            artifacts: fixture_folder(boot).join("artifacts.json"),
            log: base.join("log.bin"),
            cmdline: cmdline.trim().to_owned(),
            keys: "",
            machines: "",
            kind: "fw_cfg",
            folder,
        }
    }
}

impl Display for Template<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { artifacts, log, cmdline, keys, machines, kind, folder } = self;
        let artifacts = artifacts.display();
        write!(
            f,
            "boot = \"kernel\"\nkernel = \"@{artifacts}\"\ninitrd = \"@{artifacts}\"\n\
             cmdline = \"{cmdline}\"\n{keys}\n[[reference]]\nlog = {log:?}\n{machines}\n\
             [delivery]\nkind = \"{kind}\"\nfolder = {folder:?}\n"
        )
    }
}

/// Three machines.
pub const VMS: &str = "
[[vm]]
name = \"a\"
[[vm]]
name = \"b\"
[[vm]]
name = \"c\"
";

/// A machine that booted a fixture and was enrolled with the public half of a key.
pub fn machine(public: &Path, boot: &str) -> Machine {
    let machine = Machine::with_tpm(VMSEAL, Swtpm::start(), boot);
    let public = public.to_str().unwrap();
    machine.enroll(&["--policy", "authority", "--authority-public", public]).ok();
    machine
}

/// Whether what the host delivered opens it.
pub fn opens(machine: &Machine, signatures: &Path) -> Ran {
    machine.unlock(&["--signature", signatures.to_str().unwrap()])
}
