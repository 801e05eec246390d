//! The command line of `vmseal`: clap types and nothing else.

use std::path::PathBuf;

mod reference;
mod reseal;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};

use vmseal::coverage::Component;
use vmseal::measurement::PcrBank;

pub use reference::{Accel, ReferenceBoot};
pub use reseal::{Built, Confirm, Reseal};

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

/// `vmseal enroll`
#[derive(Debug, Args)]
pub struct Enroll {
    /// The volume.
    #[command(flatten)]
    pub volume: Volume,
    /// How the TPM decides: authority binds to whatever values a key has signed, so that updates
    /// need no passphrase; pcr to the literal values of one boot [default: authority, or pcr where
    /// this machine has no safe place for a key]
    #[arg(long, value_enum)]
    pub policy: Option<PolicyMode>,
    /// With --policy authority: public half, in PEM, of the key that signs elsewhere. Without it
    /// this machine signs by its own key, and makes one if need be
    #[arg(long, value_name = "FILE")]
    pub authority_public: Option<PathBuf>,
    /// With --policy authority: this machine's own key [default: /etc/vmseal/authority.pem]
    #[arg(long, value_name = "FILE", conflicts_with = "authority_public")]
    pub authority_key: Option<PathBuf>,
    /// Seal to the TPM that has this storage root key (a TPM2B_PUBLIC), which need not be here; the
    /// boot is that of --eventlog
    #[arg(long, value_name = "FILE", requires = "eventlog", conflicts_with_all = [
        "authority_key", "signature", "recovery_key", "attach_to_root", "this_boot", "rebuild",
    ])]
    pub srk_public: Option<PathBuf>,
    /// File of signed PCR values, to prove the keyslot with; may be given several times
    #[arg(long, value_name = "FILE")]
    pub signature: Vec<PathBuf>,
    /// Want a PIN too, asked for now and at every boot
    #[arg(long)]
    pub pin: bool,
    /// Read the PIN from this file instead of asking
    #[arg(long, value_name = "FILE", requires = "pin")]
    pub pin_file: Option<PathBuf>,
    /// PCRs to seal to, such as 0+4+7; 15 is always added
    #[arg(long, value_name = "auto|PCRS", default_value = "auto")]
    pub pcrs: String,
    /// PCR bank: sha1, sha256, sha384 or sha512
    #[arg(long, default_value = "sha256")]
    pub bank: PcrBank,
    /// Read the passphrase of the volume from this file instead of asking
    #[arg(long, value_name = "FILE")]
    pub unlock_key_file: Option<PathBuf>,
    /// Add a recovery key too, and print it once
    #[arg(long)]
    pub recovery_key: bool,
    /// Seal although no PCR covers this: firmware, loader, kernel, initrd or cmdline
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub allow_uncovered: Vec<Component>,
    /// Use no TPM: put a key file for this data volume into the encrypted root, and a line into
    /// crypttab
    #[arg(long, conflicts_with_all = [
        "policy", "authority_public", "authority_key", "signature", "pin", "pcrs", "bank", "recovery_key",
        "allow_uncovered", "this_boot", "rebuild", "header",
    ])]
    pub attach_to_root: bool,
    /// Name of the open data volume in crypttab [default: luks-UUID]
    #[arg(long, value_name = "NAME", requires = "attach_to_root")]
    pub name: Option<String>,
    /// Put the key file into a root that is not known to be encrypted
    #[arg(long, requires = "attach_to_root")]
    pub allow_unencrypted_root: bool,
    /// Seal to the boot that runs, although another initramfs or kernel may boot next
    #[arg(long)]
    pub this_boot: bool,
    /// Whether to rebuild an initramfs that lacks the pin
    #[arg(long, value_enum, default_value_t = Rebuild::Auto)]
    pub rebuild: Rebuild,
    /// Show what would be sealed to, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Whether to rebuild the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rebuild {
    /// Where it is not known to carry the pins as they are.
    Auto,
    /// Never: the files are taken as they are.
    Never,
}

/// How the TPM decides whether to release the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PolicyMode {
    /// Literal PCR values.
    Pcr,
    /// PCR values that a key has signed, and PCR 15 = zeros.
    Authority,
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

/// `vmseal authority`
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
pub struct Authority {
    /// What to do.
    #[command(subcommand)]
    pub command: AuthorityCommand,
}

/// What can be done with the key.
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Make this machine's key, or that of a template on a host
    Init(NamedNewKey),
    /// Show the key's fingerprint, where it is, and whose it is
    Show(Key),
    /// Print the public half in PEM
    Export(Key),
    /// Put a new key in the place of the present one of this machine
    Rotate(NewKey),
}

/// Where the key is.
#[derive(Debug, Args)]
pub struct Key {
    /// Template whose machines the key approves boots of, on their host
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// The key [default: /etc/vmseal/authority.pem, of a template /etc/vmseal/authorities/NAME.pem]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// Whose a new key is.
#[derive(Debug, Args)]
pub struct NamedNewKey {
    /// Template whose machines the key is to approve boots of, on their host; without --key it goes
    /// into /etc/vmseal/authorities/NAME.pem
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Where it goes.
    #[command(flatten)]
    pub new: NewKey,
}

/// Where a new key goes.
#[derive(Debug, Args)]
pub struct NewKey {
    /// The key [default: /etc/vmseal/authority.pem]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Write it although its file system is not known to be encrypted, or the image is a template
    #[arg(long)]
    pub allow_unprotected: bool,
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
