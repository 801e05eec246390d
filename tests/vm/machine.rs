//! A machine's files, as they lie before a boot.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::hardware::{Hardware, Start, TpmInterface};
use crate::workshop::{Kernel, build_uki, part, script, text};

/// The unified kernel image that the firmware starts.
pub const UKI: &str = "esp/EFI/BOOT/BOOTX64.EFI";
const OLD_FIRMWARE: &str = "2022.11";

/// A machine that is off: what firmware, loader and kernel will find. Its folder holds `esp/` and
/// maybe `boot/`, or `kernel` and `initrd`, and the firmware's `variables`.
pub struct Machine {
    folder: TempDir,
    firmware: &'static str,
    guarded: bool,
    /// In MiB.
    pub memory: u32,
    /// How it sees its TPM.
    pub tpm: TpmInterface,
    /// The banks of its TPM.
    pub banks: &'static str,
    /// That of `-append`, for a machine without a disk.
    pub command_line: Option<String>,
}

impl Machine {
    /// OVMF 2025.02 as delivered, an empty disk, a TPM with the sha256 bank.
    pub fn new() -> Self {
        let machine = Self {
            folder: TempDir::with_prefix("vmseal-machine-").unwrap(),
            firmware: "2025.02",
            guarded: false,
            memory: 512,
            tpm: TpmInterface::Crb,
            banks: "sha256",
            command_line: None,
        };
        machine.put_variables("vars.fd")
    }

    /// A machine whose firmware starts this unified kernel image.
    pub fn with_uki(kernel: Kernel, command_line: &str) -> Self {
        let machine = Self::new();
        build_uki(kernel, command_line, &machine.path(UKI));
        machine
    }

    /// A machine without a disk, for QEMU's `-kernel`.
    pub fn with_kernel(kernel: Kernel, command_line: &str) -> Self {
        let mut machine = Self::new();
        machine.put("kernel", &kernel.image());
        machine.put("initrd", &kernel.initrd());
        machine.command_line = Some(command_line.to_owned());
        machine
    }

    /// The same with the firmware of Debian 12.
    pub fn with_old_firmware(mut self) -> Self {
        self.firmware = OLD_FIRMWARE;
        self.put_variables("vars.fd")
    }

    /// The same with Secure Boot on, by these firmware variables of `tests/vm/boot-parts`.
    pub fn with_secure_boot(mut self, variables: &str) -> Self {
        self.guarded = true;
        self.put_variables(variables)
    }

    /// The same with a TPM that has these banks.
    pub fn with_banks(self, banks: &'static str) -> Self {
        Self { banks, ..self }
    }

    /// Where a file of the machine is, or is to be.
    pub fn path(&self, path: &str) -> PathBuf {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Copies a file, or what a folder holds, into the machine.
    pub fn put(&self, path: &str, from: &Path) {
        if from.is_dir() {
            fs::create_dir_all(self.path(path)).unwrap();
            testkit::tool("cp", &["-a", &format!("{}/.", text(from)), text(&self.path(path))]);
        } else {
            fs::copy(from, self.path(path)).unwrap();
        }
    }

    /// Writes a text file.
    pub fn write(&self, path: &str, content: &str) {
        fs::write(self.path(path), content).unwrap();
    }

    /// Whether Secure Boot is on.
    pub fn is_secure(&self) -> bool {
        self.guarded
    }

    /// Whether the firmware measures a kernel with QEMU's changes, the initrd's address among them.
    pub fn is_kernel_patched(&self) -> bool {
        self.command_line.is_some() && self.firmware == OLD_FIRMWARE
    }

    /// The firmware.
    pub fn code(&self) -> PathBuf {
        self.firmware_part(if self.guarded { "secure-code.fd" } else { "code.fd" })
    }

    /// The unified kernel image that the firmware starts.
    pub fn uki(&self) -> PathBuf {
        self.path(UKI)
    }

    /// A file that belongs to this version of the firmware.
    pub fn firmware_part(&self, name: &str) -> PathBuf {
        part("firmware").join(self.firmware).join(name)
    }

    /// Whether its disk has a partition for /boot.
    pub fn has_boot(&self) -> bool {
        self.folder.path().join("boot").exists()
    }

    /// Makes its disk.
    pub fn disk(&self) -> PathBuf {
        let disk = self.path("disk.img");
        let (esp, boot) = (self.path("esp"), self.path("boot"));
        let mut folders = vec![text(&disk), text(&esp)];
        if self.has_boot() {
            folders.push(text(&boot));
        }
        script("disk", &folders);
        disk
    }

    /// It as QEMU sees it, with its kernel or a disk that holds its files.
    pub fn hardware(&self) -> Hardware {
        let start = match &self.command_line {
            None => Start::Disk(self.disk()),
            Some(command_line) => Start::Kernel {
                kernel: self.path("kernel"),
                initrd: self.path("initrd"),
                command_line: command_line.clone(),
            },
        };
        let (guarded, memory, tpm) = (self.guarded, self.memory, self.tpm);
        Hardware { code: self.code(), guarded, memory, cpus: 1, tpm, start }
    }

    fn put_variables(self, name: &str) -> Self {
        self.put("variables", &self.firmware_part(name));
        self
    }
}
