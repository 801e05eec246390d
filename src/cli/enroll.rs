//! `vmseal enroll`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use vmseal::coverage::Component;
use vmseal::measurement::PcrBank;

use super::Volume;

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
