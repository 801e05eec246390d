//! `vmseal reference-boot`.

use clap::{Args, ValueEnum};

/// `vmseal reference-boot`
#[derive(Debug, Args)]
pub struct ReferenceBoot {
    /// Templates
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    pub template: Vec<String>,
    /// Every template that names no reference of its own
    #[arg(long)]
    pub all: bool,
    /// How QEMU runs the processor
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// How long a boot may take to its latch, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub limit: u64,
    /// Print the command lines of QEMU, and start nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// How QEMU runs the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// By KVM where a guest comes up under it, else by emulation
    Auto,
    /// By KVM
    Kvm,
    /// By emulation
    Tcg,
}
