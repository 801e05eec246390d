//! The command line of `vmseal`: clap types and nothing else.

use std::path::PathBuf;

mod authority;
mod enroll;
mod predict;
mod reference;
mod reseal;
mod template;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};

pub use authority::{Authority, AuthorityCommand, Key, NewKey};
pub use enroll::{Enroll, PolicyMode, Rebuild};
pub use predict::Predict;
pub use reference::{Accel, ReferenceBoot};
pub use reseal::{Built, Confirm, Reseal};
pub use template::{Add, Check, Template, TemplateCommand};

/// Seal a LUKS2 volume to the boot that was measured into the TPM.
#[derive(Debug, Parser)]
#[command(name = "vmseal", version, disable_help_subcommand = true)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What this process was started with.
    ///
    /// # Errors
    /// clap's, whose exit code is 2 where it is not about help or version.
    pub fn from_arguments() -> Result<Self, clap::Error> {
        let cli = Self::try_parse()?;
        match &cli.command {
            Command::Enroll(args @ Enroll { policy: Some(PolicyMode::Pcr), .. })
                if args.authority_public.is_some() || args.authority_key.is_some() =>
            {
                let words = "--authority-public and --authority-key go with --policy authority";
                Err(Self::command().error(ErrorKind::ArgumentConflict, words))
            }
            _ => Ok(cli),
        }
    }
}

/// Options that every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// Firmware event log to read instead of the running system's
    #[arg(long, global = true, value_name = "FILE")]
    pub eventlog: Option<PathBuf>,
    /// TPM to use: device:PATH or swtpm:host=HOST,port=PORT [default: device:/dev/tpmrm0]
    #[arg(long, global = true, value_name = "TCTI", env = "TPM2TOOLS_TCTI")]
    pub tcti: Option<String>,
    /// File of pinned volumes
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/vmseal/pins.json")]
    pub pins: PathBuf,
    /// Folder that the running system lies below, instead of /: logs, boot files, approvals
    #[arg(long, global = true, value_name = "FOLDER", default_value = "/", hide = true)]
    pub root: PathBuf,
    /// Folder of the expected events of approved boots, instead of /boot/vmseal
    #[arg(long, global = true, value_name = "FOLDER", hide = true)]
    pub expected_folder: Option<PathBuf>,
    /// How long to wait for the TPM, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// Print one JSON object on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say what is done, and more of what was measured
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Seal a keyslot of a LUKS2 volume to this TPM and this boot
    Enroll(Enroll),
    /// Take over a volume that systemd enrolled, with its tokens as they are
    Adopt(Adopt),
    /// Open a sealed volume, or prove that it would open
    Unlock(Unlock),
    /// Show keyslots and tokens, and which would have opened in this boot
    Status(Status),
    /// Remove a keyslot and its tokens
    Revoke(Revoke),
    /// Make, show or replace the key by which this machine approves its boots
    Authority(Authority),
    /// Tell the measured boot as a story
    Eventlog(Eventlog),
    /// Say what changed since the boot that was sealed to, or between two logs
    Explain(Explain),
    /// Tell the PCR values of the next boot, entry by entry, before it happens
    Predict(Box<Predict>),
    /// Approve the boots to come, after showing what changes, and open for them too
    Reseal(Reseal),
    /// On a host: boot a throw-away machine of a template, and keep what it measured
    ReferenceBoot(ReferenceBoot),
    /// After a boot: compare it with what was approved, and withdraw what nothing starts any more
    Confirm(Confirm),
    /// On a host: make templates of machines, and look whether they are sound
    Template(Template),
    /// Show what was approved on this machine, by whom, and whether that account is whole
    Journal(Journal),
    /// Note that this machine has built a boot file, for hooks of generators
    #[command(hide = true)]
    Built(Built),
    /// Read the disk of a template's machines, for reseal --template
    #[command(hide = true)]
    Forecast,
    /// Print a completion script
    #[command(hide = true)]
    Generate(Generate),
}

/// A LUKS2 volume: where its data and its header are.
#[derive(Debug, Args)]
pub struct Volume {
    /// Block device or image file
    #[arg(value_name = "DEVICE")]
    pub device: PathBuf,
    /// Detached LUKS2 header
    #[arg(long, value_name = "FILE")]
    pub header: Option<PathBuf>,
}

/// `vmseal adopt`
#[derive(Debug, Args)]
pub struct Adopt {
    /// The volume.
    #[command(flatten)]
    pub volume: Volume,
    /// Read the passphrase of the volume from this file instead of asking
    #[arg(long, value_name = "FILE")]
    pub unlock_key_file: Option<PathBuf>,
    /// File of signed PCR values, besides those of the system; may be given several times
    #[arg(long, value_name = "FILE")]
    pub signature: Vec<PathBuf>,
    /// Show what the tokens cover, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `vmseal unlock`
#[derive(Debug, Args)]
pub struct Unlock {
    /// The volume.
    #[command(flatten)]
    pub volume: Volume,
    /// Name of the device-mapper device to open
    #[arg(required_unless_present = "test", conflicts_with = "test")]
    pub name: Option<String>,
    /// Read the PIN from this file instead of asking
    #[arg(long, value_name = "FILE")]
    pub pin_file: Option<PathBuf>,
    /// File of signed PCR values, besides those of the system; may be given several times
    #[arg(long, value_name = "FILE")]
    pub signature: Vec<PathBuf>,
    /// Prove that a keyslot opens; activate nothing, latch nothing
    #[arg(long)]
    pub test: bool,
}

/// `vmseal status`
#[derive(Debug, Args)]
pub struct Status {
    /// Block device or image file; without it, every LUKS2 volume of the system
    #[arg(value_name = "DEVICE")]
    pub device: Option<PathBuf>,
    /// Detached LUKS2 header
    #[arg(long, value_name = "FILE", requires = "device")]
    pub header: Option<PathBuf>,
    /// File of signed PCR values, besides those of the system; may be given several times
    #[arg(long, value_name = "FILE")]
    pub signature: Vec<PathBuf>,
}

/// `vmseal revoke`
#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false, args = ["keyslot", "tpm"])]
pub struct Revoke {
    /// The volume.
    #[command(flatten)]
    pub volume: Volume,
    /// The keyslot to remove, with every token that uses it
    #[arg(long, value_name = "N")]
    pub keyslot: Option<u32>,
    /// Remove every TPM token and its keyslot
    #[arg(long)]
    pub tpm: bool,
}

/// `vmseal eventlog`
#[derive(Debug, Args)]
pub struct Eventlog {
    /// Event log to read instead of the running system's
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Second log: systemd's tpm2-measure.log [default: the running system's, with its event log]
    #[arg(long, value_name = "FILE")]
    pub userspace_log: Option<PathBuf>,
    /// Compare the replayed values with the TPM, and fail when they differ
    #[arg(long)]
    pub verify: bool,
}

/// `vmseal explain`
#[derive(Debug, Args)]
pub struct Explain {
    /// Block device or image file, sealed to the boot that is expected
    #[arg(value_name = "DEVICE", required_unless_present = "log", conflicts_with = "log")]
    pub device: Option<PathBuf>,
    /// Detached LUKS2 header
    #[arg(long, value_name = "FILE", requires = "device")]
    pub header: Option<PathBuf>,
    /// Event log of the boot that is expected; given a second time, of the boot to explain, which
    /// else is this one
    #[arg(long, value_name = "FILE", action = ArgAction::Append)]
    pub log: Vec<PathBuf>,
    /// systemd's tpm2-measure.log of each --log, in their order
    #[arg(long, value_name = "FILE", action = ArgAction::Append, requires = "log")]
    pub userspace_log: Vec<PathBuf>,
    /// File of signed PCR values, besides those of the system; may be given several times
    #[arg(long, value_name = "FILE")]
    pub signature: Vec<PathBuf>,
}

/// `vmseal journal`
#[derive(Debug, Args)]
pub struct Journal {
    /// Volumes whose records know where the journal ended [default: those of the state]
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<PathBuf>,
    /// Compare the journal with the state and the records, and fail when it is not whole
    #[arg(long)]
    pub verify: bool,
}

/// `vmseal generate`
#[derive(Debug, Args)]
pub struct Generate {
    /// What to print.
    #[arg(value_enum)]
    pub what: Generated,
}

/// What `vmseal generate` can print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Generated {
    /// Completions for bash.
    Bash,
    /// Completions for fish.
    Fish,
    /// Completions for zsh.
    Zsh,
}
