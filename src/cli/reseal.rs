//! `vmseal reseal` and `vmseal confirm`.

use std::path::PathBuf;

use clap::Args;

/// What says nothing about other machines.
const OF_THIS_MACHINE: [&str; 7] =
    ["devices", "unattended", "entry", "accept", "set", "unlock_key_file", "authority_key"];

/// `vmseal reseal`
#[derive(Debug, Args)]
pub struct Reseal {
    /// Volumes [default: each one that boots are approved for on this machine]
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<PathBuf>,
    /// On a host: approve the boots to come of this template's machines; may be given several times
    #[arg(long, value_name = "NAME", conflicts_with_all = OF_THIS_MACHINE)]
    pub template: Vec<String>,
    /// On a host: the same of every template
    #[arg(long, conflicts_with = "template", conflicts_with_all = OF_THIS_MACHINE)]
    pub all: bool,
    /// Show what would be approved, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Approve what is shown without being asked
    #[arg(long, conflicts_with = "unattended")]
    pub yes: bool,
    /// Ask nobody: approve what /etc/vmseal/reseal.conf allows, or nothing. Without a terminal this
    /// is the default
    #[arg(long)]
    pub unattended: bool,
    /// Approve this entry too, although it has a command line of its own; may be given several times
    #[arg(long, value_name = "NAME")]
    pub entry: Vec<String>,
    /// Approve this file although nobody vouches for it, after a boot that was not approved; may be
    /// given several times
    #[arg(long, value_name = "FILE")]
    pub accept: Vec<String>,
    /// Approve the boots with this payload in a variable of Secure Boot too, before it is written:
    /// db, dbx, KEK or PK; may be given several times
    #[arg(long, value_name = "NAME=FILE", conflicts_with = "narrow")]
    pub set: Vec<String>,
    /// Leave only the boot approved that the loader starts by itself, once it was seen to open; of
    /// templates, only those that they tell now
    #[arg(long)]
    pub narrow: bool,
    /// Read the passphrase of a volume that is sealed to literal values from this file
    #[arg(long, value_name = "FILE")]
    pub unlock_key_file: Option<PathBuf>,
    /// This machine's own key [default: /etc/vmseal/authority.pem]
    #[arg(long, value_name = "FILE")]
    pub authority_key: Option<PathBuf>,
}

/// `vmseal built`
#[derive(Debug, Args)]
pub struct Built {
    /// Files that this machine has just built: initrds, unified kernel images
    #[arg(value_name = "FILE", required_unless_present_any = ["grub_menu", "kernel_install"])]
    pub files: Vec<PathBuf>,
    /// GRUB's menu too, where grub-mkconfig makes the same of the configuration as it is
    #[arg(long)]
    pub grub_menu: bool,
    /// What kernel-install put in its place for this kernel: its unified kernel image, or its initrds
    #[arg(long, value_name = "RELEASE", requires_all = ["boot_root", "entry_token"])]
    pub kernel_install: Option<String>,
    /// The boot partition
    #[arg(long, value_name = "FOLDER", env = "KERNEL_INSTALL_BOOT_ROOT")]
    pub boot_root: Option<PathBuf>,
    /// What names of this machine's entries begin with
    #[arg(long, value_name = "TOKEN", env = "KERNEL_INSTALL_ENTRY_TOKEN")]
    pub entry_token: Option<String>,
}

/// `vmseal confirm`
#[derive(Debug, Args)]
pub struct Confirm {
    /// This machine's own key [default: /etc/vmseal/authority.pem]
    #[arg(long, value_name = "FILE")]
    pub authority_key: Option<PathBuf>,
}
