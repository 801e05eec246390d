//! What a guest machine is made of, as far as it is measured: firmware, memory, what it boots.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::rig;

/// What the firmware starts.
#[derive(Clone)]
pub enum Start {
    /// The loader on this disk, which keeps what the loader writes.
    Disk(PathBuf),
    /// The same, but nothing can be written.
    ReadOnlyDisk(PathBuf),
    /// QEMU's `-kernel`, `-initrd` and `-append`.
    Kernel { kernel: PathBuf, initrd: PathBuf, command_line: String },
}

/// How the machine sees its TPM.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TpmInterface {
    /// Command response buffer.
    Crb,
    /// FIFO, also called TIS.
    Tis,
    /// There is no TPM.
    None,
}

/// One machine's measured parts. Its variables, TPM and other disks are the guest's.
#[derive(Clone)]
pub struct Hardware {
    /// The firmware.
    pub code: PathBuf,
    /// Whether this firmware guards its variables by SMM, as Secure Boot needs.
    pub guarded: bool,
    /// In MiB.
    pub memory: u32,
    /// How many processors.
    pub cpus: u32,
    /// How it sees its TPM.
    pub tpm: TpmInterface,
    /// What it boots.
    pub start: Start,
}

impl Hardware {
    /// A machine that boots a disk of `tests/vm/assemble`.
    pub fn approved(disk: &str) -> Self {
        let start = Start::ReadOnlyDisk(rig::parts().join(format!("{disk}.esp")));
        let (code, tpm) = (rig::parts().join("code.fd"), TpmInterface::Crb);
        Self { code, guarded: false, memory: 512, cpus: 1, tpm, start }
    }

    /// QEMU with these parts, these firmware variables, and no other disk yet. Its standard input
    /// and output are the serial port.
    pub fn qemu(&self, accelerator: &[&str], variables: &Path, tpm: &Path) -> Command {
        // No QEMU may outlive a test that was killed.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]).args(accelerator);
        let guard = if self.guarded { "on" } else { "off" };
        qemu.arg("-machine").arg(format!("q35,smm={guard},hpet=off,vmport=off"));
        if self.guarded {
            qemu.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        qemu.arg("-m").arg(self.memory.to_string()).arg("-smp").arg(self.cpus.to_string());
        for nothing in ["-display", "-vga", "-nic", "-monitor"] {
            qemu.args([nothing, "none"]);
        }
        qemu.args(["-nodefaults", "-no-reboot", "-serial", "stdio", "-device", "virtio-rng-pci"]);
        let interface = match self.tpm {
            TpmInterface::Crb => Some("tpm-crb"),
            TpmInterface::Tis => Some("tpm-tis"),
            TpmInterface::None => None,
        };
        if let Some(interface) = interface {
            qemu.args(["-tpmdev", "emulator,id=tpm,chardev=tpm"]);
            qemu.arg("-device").arg(format!("{interface},tpmdev=tpm"));
            qemu.arg("-chardev").arg(format!("socket,id=tpm,path={}", tpm.display()));
        }
        for (file, more) in [(self.code.as_path(), ",readonly=on"), (variables, "")] {
            qemu.arg("-drive");
            qemu.arg(format!("if=pflash,format=raw,file={}{more}", file.display()));
        }
        match &self.start {
            Start::Disk(file) => add_disk(&mut qemu, "esp", file, "", ",bootindex=0"),
            Start::ReadOnlyDisk(file) => {
                add_disk(&mut qemu, "esp", file, ",readonly=on", ",bootindex=0");
            }
            Start::Kernel { kernel, initrd, command_line } => {
                qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
                qemu.arg("-append").arg(command_line);
            }
        }
        qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        qemu
    }
}

/// Adds a disk that the guest knows as `/dev/SERIAL`, with more of QEMU's options for the file and
/// for the device.
pub fn add_disk(qemu: &mut Command, serial: &str, file: &Path, drive: &str, device: &str) {
    let file = file.display();
    qemu.arg("-drive").arg(format!("if=none,format=raw,id={serial},file={file}{drive}"));
    qemu.arg("-device").arg(format!("virtio-blk-pci,drive={serial},serial={serial}{device}"));
}

/// The same, and QEMU writes into `log` what the guest writes to the disk.
pub fn add_logged_disk(qemu: &mut Command, serial: &str, file: &Path, log: &Path) {
    let (file, log) = (file.display(), log.display());
    qemu.arg("-blockdev").arg(format!(
        "driver=blklogwrites,node-name={serial},file.driver=file,file.filename={file},\
         log.driver=file,log.filename={log},log-sector-size=512"
    ));
    qemu.arg("-device").arg(format!("virtio-blk-pci,drive={serial},serial={serial}"));
}
