//! `vmseal template`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

/// `vmseal template`
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
pub struct Template {
    /// What to do.
    #[command(subcommand)]
    pub command: TemplateCommand,
}

/// What can be done with templates.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Make a template from what the host has of its machines; what cannot be told is named
    Add(Add),
    /// Say what is wrong with templates, and which machines open with what is delivered now
    Check(Check),
    /// List the templates of this host: how they boot, machines, delivery, key, approvals
    List,
}

/// `vmseal template add`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["libvirt", "qemu", "qubes"]))]
pub struct Add {
    /// Name of the template, and of its key
    #[arg(value_name = "NAME")]
    pub name: String,
    /// XML of domains that boot alike, one in each FILE, as virsh dumpxml prints it; - is standard
    /// input
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub libvirt: Vec<PathBuf>,
    /// Command lines of QEMU, one in each FILE: a script, or /proc/PID/cmdline; - is standard input
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub qemu: Vec<PathBuf>,
    /// Kernel of Qubes: a folder /var/lib/qubes/vm-kernels/VERSION
    #[arg(long, value_name = "FOLDER")]
    pub qubes: Option<PathBuf>,
    /// With --qubes: a machine and the first words of its command line; may be given several times
    #[arg(long, value_name = "MACHINE=WORDS", requires = "qubes")]
    pub vm: Vec<String>,
    /// Print the template, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Overwrite the template of this name
    #[arg(long)]
    pub replace: bool,
}

/// `vmseal template check`
#[derive(Debug, Args)]
pub struct Check {
    /// Templates to look at
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "vm", "libvirt"])]
    pub names: Vec<String>,
    /// Look at every template
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Look at this machine only, of whichever template has it; may be given several times
    #[arg(long, value_name = "MACHINE")]
    pub vm: Vec<String>,
    /// Look at the machine of this XML only, as virsh dumpxml prints it, and whether it is started
    /// as its template tells; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["names", "all", "vm"])]
    pub libvirt: Option<PathBuf>,
}
