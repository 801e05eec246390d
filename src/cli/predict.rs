//! `vmseal predict`.

use std::path::PathBuf;

use clap::Args;

use vmseal::measurement::PcrBank;

/// `vmseal predict`
#[derive(Debug, Default, Args)]
pub struct Predict {
    /// Only the entry of this name
    #[arg(long, value_name = "ID", conflicts_with = "kernel_release")]
    pub entry: Option<String>,
    /// Only the entries that start this kernel
    #[arg(long, value_name = "VERSION")]
    pub kernel_release: Option<String>,
    /// FILE takes the place of PATH, as the boot names it; @FILE has digests; may be given several
    /// times
    #[arg(long, value_name = "PATH=FILE")]
    pub set: Vec<String>,
    /// Event log of the boot that ran [default: that of --eventlog, or the running system's]
    #[arg(long, value_name = "FILE", conflicts_with = "eventlog")]
    pub base_log: Option<PathBuf>,
    /// Second log of the boot that ran: systemd's tpm2-measure.log
    #[arg(long, value_name = "FILE")]
    pub userspace_log: Option<PathBuf>,
    /// EFI system partition of the boot that ran
    #[arg(long, value_name = "FOLDER|IMAGE")]
    pub base_esp: Option<PathBuf>,
    /// /boot of the boot that ran
    #[arg(long, value_name = "FOLDER|IMAGE")]
    pub base_boot: Option<PathBuf>,
    /// EFI system partition of the boot to come
    #[arg(long, value_name = "FOLDER|IMAGE")]
    pub esp: Option<PathBuf>,
    /// /boot of the boot to come
    #[arg(long, value_name = "FOLDER|IMAGE")]
    pub boot: Option<PathBuf>,
    /// Firmware code of the boot to come
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Firmware variables of the boot to come
    #[arg(long, value_name = "FILE")]
    pub vars: Option<PathBuf>,
    /// Kernel that the host gives QEMU
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initrd that the host gives QEMU
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Command line that the host gives QEMU, or of a unified kernel image of unknown content
    #[arg(long, value_name = "TEXT|@FILE")]
    pub cmdline: Option<String>,
    /// Unified kernel image in the place of the one that ran
    #[arg(long, value_name = "FILE")]
    pub uki: Option<PathBuf>,
    /// Memory of the machine in MiB
    #[arg(long, value_name = "MIB")]
    pub mem: Option<u64>,
    /// Number of its processors, where that changes
    #[arg(long, value_name = "COUNT")]
    pub smp: Option<u32>,
    /// Version of the QEMU that is given a kernel [default: 10.0 or later]
    #[arg(long, value_name = "VERSION")]
    pub qemu: Option<String>,
    /// PCR banks to predict, of those in the log
    #[arg(long)]
    pub bank: Vec<PcrBank>,
}
