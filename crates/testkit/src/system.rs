//! A machine with an encrypted root: what its own authority needs to know of a system.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::machine::Machine;
use crate::run::{Ran, run};

/// The machine's ID.
pub const MACHINE_ID: &str = "0123456789abcdef0123456789abcdef";
/// Options of `enroll` that have this machine's own key sign.
pub const BY_OWN_KEY: [&str; 2] = ["--policy", "authority"];
/// What tells that the root is encrypted.
pub const ROOT_DEVICE: &str = "sys/dev/block/254:7/dm/uuid";

/// A machine whose system lies below its folder `root`.
pub struct System {
    /// The machine.
    pub machine: Machine,
}

impl System {
    /// The system of a machine that booted: its root on a LUKS2 volume, its only other volume the
    /// machine's image.
    pub fn on(machine: Machine) -> Self {
        let system = Self { machine };
        system.put("etc/machine-id", &format!("{MACHINE_ID}\n"));
        system.put("proc/self/mountinfo", "21 1 254:7 / / rw - ext4 /dev/mapper/root rw\n");
        system.put(ROOT_DEVICE, "CRYPT-LUKS2-6a1c-root\n");
        system.put("sys/class/block/vda/size", "1\n");
        system.put("dev/null", "");
        symlink(system.machine.image.path(), system.path("dev/vda")).unwrap();
        system
    }

    /// A path below the root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.machine.file("root").join(path)
    }

    /// Writes a file below the root.
    pub fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The authority's key.
    pub fn key(&self) -> PathBuf {
        self.path("etc/vmseal/authority.pem")
    }

    /// The key before it.
    pub fn old_key(&self) -> PathBuf {
        self.path("etc/vmseal/authority.pem.old")
    }

    /// The file of what the key has signed.
    pub fn signatures(&self) -> PathBuf {
        self.path("var/lib/vmseal/tpm2-pcr-signature.json")
    }

    /// What the file of signatures says.
    pub fn signed(&self) -> Value {
        serde_json::from_slice(&fs::read(self.signatures()).unwrap()).unwrap()
    }

    /// The names in the key's folder.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("etc/vmseal")).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A command of vmseal in this system.
    pub fn vmseal(&self, arguments: &[&str]) -> Command {
        let mut command = self.machine.vmseal(arguments);
        command.arg("--root").arg(self.machine.file("root"));
        command
    }

    /// `vmseal authority`.
    pub fn authority(&self, arguments: &[&str]) -> Ran {
        run(self.vmseal(&["authority"]).args(arguments))
    }

    /// What `vmseal authority show` says.
    #[track_caller]
    pub fn show(&self) -> Value {
        self.authority(&["show", "--json"]).ok().json()
    }

    /// The command `vmseal enroll --policy authority IMAGE`, by the passphrase.
    pub fn enroll_command(&self) -> Command {
        let mut command = self.vmseal(&["enroll"]);
        command.args(BY_OWN_KEY).arg("--unlock-key-file").arg(self.machine.key_file());
        command.arg(self.machine.image.path());
        command
    }

    /// The same, run, with further options.
    pub fn enroll(&self, options: &[&str]) -> Ran {
        run(self.enroll_command().args(options))
    }

    /// `vmseal revoke IMAGE`, with further options.
    pub fn revoke(&self, options: &[&str]) -> Ran {
        run(self.vmseal(&["revoke"]).args(options).arg(self.machine.image.path()))
    }
}
