//! The throw-away QEMU of a reference boot, as words on a command line: the template's firmware,
//! artifacts and machine settings, no network, nothing that is written to.

use std::path::{Path, PathBuf};

use super::error::ReferenceError;
use crate::measurement::text::printable;
use crate::template::{Boot, Disk, Hardware, Material, Template, TpmInterface};

/// How the processor is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the kernel.
    Kvm,
    /// By emulation.
    Tcg,
}

impl Accelerator {
    /// QEMU's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A machine that is started for one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Memory in MiB.
    pub memory: u64,
    /// Number of processors.
    pub cpus: u32,
}

impl Size {
    /// Of a machine whose template tells neither.
    const DEFAULT: Self = Self { memory: 1024, cpus: 1 };

    /// What is told of it, the rest as it is in most machines.
    pub fn or_default(memory: Option<u64>, cpus: Option<u32>) -> Self {
        let Self { memory: mib, cpus: count } = Self::DEFAULT;
        Self { memory: memory.unwrap_or(mib), cpus: cpus.unwrap_or(count) }
    }
}

/// What QEMU is given in the place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// A copy of its own.
    File,
    /// The file itself, to be read only: what is written goes elsewhere, and is thrown away.
    Disk,
    /// A disk of its own, from which the firmware starts a copy of it.
    Program,
}

/// Where QEMU finds what it is given in the place of a file.
pub type Place<'a> = dyn FnMut(Kept, &Path) -> Result<String, ReferenceError> + 'a;

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuLine {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl QemuLine {
    /// QEMU with this machine. Its memory lies in the file `memory`, and a file of the template where
    /// `place` says; the control channel of its TPM is its standard input, its first serial port its
    /// standard output, both sockets.
    ///
    /// # Errors
    /// [`ReferenceError::Template`] for what the template does not tell, or only by digests; those of
    /// `place`.
    pub fn new(
        template: &Template,
        size: Size,
        accelerator: Accelerator,
        memory: &str,
        place: &mut Place<'_>,
    ) -> Result<Self, ReferenceError> {
        let hardware = &template.hardware;
        let lacks = |what: &str| ReferenceError::Template {
            name: template.name.clone(),
            cause: what.to_owned(),
        };
        let firmware = hardware.firmware.as_ref().ok_or_else(|| lacks(NO_FIRMWARE))?;
        let vars = template.vars.as_ref().ok_or_else(|| lacks(NO_VARS))?;
        let mut line = Self { program: hardware.qemu.clone(), arguments: vec![] };
        line.add(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        line.add(&["-vga", "none", "-nic", "none", "-monitor", "none"]);
        line.add(&["-sandbox", SANDBOX]);
        line.processor(hardware, accelerator);
        let guard = if hardware.secure_boot { "on" } else { "off" };
        line.add(&["-machine", &format!("{},smm={guard},memory-backend=ram", hardware.kind)]);
        if hardware.secure_boot {
            line.add(&["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        let Size { memory: mib, cpus } = size;
        line.add(&["-m", &mib.to_string(), "-smp", &cpus.to_string(), "-object"]);
        line.add(&[&format!("memory-backend-file,id=ram,mem-path={memory},share=on,size={mib}M")]);
        line.add(&["-drive", &flash(&place(Kept::File, firmware)?, ",readonly=on")]);
        line.add(&["-drive", &flash(&place(Kept::File, vars)?, "")]);
        line.add(&["-chardev", "socket,id=tpm,fd=0", "-tpmdev", "emulator,id=tpm,chardev=tpm"]);
        let interface = match hardware.tpm {
            TpmInterface::Crb => "tpm-crb,tpmdev=tpm",
            TpmInterface::Tis => "tpm-tis,tpmdev=tpm",
        };
        line.add(&["-device", interface, "-device", "virtio-rng-pci"]);
        line.add(&["-chardev", "socket,id=serial,fd=1", "-serial", "chardev:serial"]);
        line.boot(template, &lacks, place)?;
        line.arguments.extend(hardware.options.iter().cloned());
        Ok(line)
    }

    fn processor(&mut self, hardware: &Hardware, accelerator: Accelerator) {
        let (accelerator, cpu) = match accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // OVMF of 2022 does not know five-level page tables.
            Accelerator::Tcg => ("tcg,thread=multi", "max,la57=off"),
        };
        self.add(&["-accel", accelerator, "-cpu", hardware.cpu.as_deref().unwrap_or(cpu)]);
    }

    fn boot(
        &mut self,
        template: &Template,
        lacks: &dyn Fn(&str) -> ReferenceError,
        place: &mut Place<'_>,
    ) -> Result<(), ReferenceError> {
        match &template.boot {
            Boot::Kernel { kernel, initrd, .. } => {
                for (option, material) in [("-kernel", kernel), ("-initrd", initrd)] {
                    let Material::File(file) = material else { return Err(lacks(ONLY_DIGESTS)) };
                    self.add(&[option, &place(Kept::File, file)?]);
                }
                self.add(&["-append", &template.cmdline("")]);
                Ok(())
            }
            Boot::Disk { disk: Disk::Image(image), .. } => {
                self.disk(&place(Kept::Disk, image)?, ",snapshot=on");
                Ok(())
            }
            Boot::Disk { disk: Disk::Volumes { esp, boot: None }, .. } => {
                // Firmware finds a FAT file system without a partition table too.
                self.disk(&place(Kept::Disk, esp)?, ",snapshot=on");
                Ok(())
            }
            Boot::Disk { disk: Disk::Volumes { boot: Some(boot), .. }, .. } => {
                let (name, path) = (template.name.clone(), boot.clone());
                Err(ReferenceError::NoDisk { name, path, cause: APART })
            }
            Boot::Uki { image } => {
                self.disk(&place(Kept::Program, image)?, "");
                Ok(())
            }
        }
    }

    fn disk(&mut self, file: &str, how: &str) {
        let file = file.replace(',', ",,");
        self.add(&["-drive", &format!("if=none,id=disk,format=raw{how},file={file}")]);
        self.add(&["-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
    }

    fn add(&mut self, words: &[&str]) {
        self.arguments.extend(words.iter().map(|word| (*word).to_owned()));
    }
}

const NO_FIRMWARE: &str = "[machine] names no firmware";
const NO_VARS: &str = "it names no vars, the firmware's variables";
const APART: &str = "lies in a partition table that is not told, and loaders find it by that";
const ONLY_DIGESTS: &str = "a list of digests cannot be booted";
/// What QEMU gives up of the kernel's calls once it runs.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

fn flash(file: &str, how: &str) -> String {
    format!("if=pflash,format=raw{how},file={}", file.replace(',', ",,"))
}

/// As a shell reads it.
impl std::fmt::Display for QemuLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.program.to_string_lossy())?;
        for argument in &self.arguments {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@".contains(c);
            match !argument.is_empty() && argument.chars().all(is_plain) {
                true => write!(f, " {argument}")?,
                false => write!(f, " '{}'", printable(argument, 4096).replace('\'', "'\\''"))?,
            }
        }
        Ok(())
    }
}
