//! Every way in which a command can end short of success, and the exit code of each.

mod display;

use std::path::PathBuf;

#[cfg(feature = "cli")]
use crate::authority::AuthorityError;
use crate::boot::{Mismatch, Unapproved};
use crate::coverage::Uncovered;
use crate::enroll::Unforeseen;
use crate::exit::Exit;
use crate::luks::{LuksError, PinMismatch, PinsError, Unpinnable};
use crate::measurement::{EventLogError, PcrBank, PcrError, PcrIndex, UserspaceLogError};
use crate::prediction::NotReproduced;
#[cfg(feature = "cli")]
use crate::reference::ReferenceError;
use crate::reseal::StoreError;
#[cfg(feature = "cli")]
use crate::sandbox::SandboxError;
#[cfg(feature = "cli")]
use crate::template::TemplateError;
use crate::token::TokenError;
use crate::tpm::{Lockout, TpmError};

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The TPM.
    Tpm(TpmError),
    /// The volume, its header or its keyslots.
    Luks(LuksError),
    /// The file of pins.
    Pins(PinsError),
    /// The state or the journal of what was approved.
    Store(StoreError),
    /// The header is not the pinned one.
    NotPinned(PinMismatch),
    /// What is on the device cannot be compared with any pin. Stock tools may read more into it.
    NotComparable {
        /// What is wrong with the header.
        cause: LuksError,
    },
    /// The latch failed and an opened volume could not be closed again.
    StillOpen {
        /// Its name.
        name: String,
        /// Why the latch failed.
        cause: TpmError,
    },
    /// No pin is known for the volume.
    NoPin {
        /// The volume's UUID, as its header says.
        uuid: String,
        /// The file that was looked in.
        pins: PathBuf,
    },
    /// A volume that cannot be pinned.
    Unpinnable(Unpinnable),
    /// No TPM token.
    NoToken,
    /// The only TPM tokens are malformed.
    BadToken {
        /// The first one's id.
        token: u32,
        /// What is wrong with it.
        error: TokenError,
    },
    /// The PCRs are not those that were sealed to.
    PcrMismatch {
        /// The token that comes nearest.
        token: u32,
        /// What differs.
        mismatch: Mismatch,
    },
    /// Nobody who may has approved the present PCR values.
    Unapproved {
        /// The token that comes nearest.
        token: u32,
        /// What is lacking.
        unapproved: Unapproved,
    },
    /// A storage root key that was named and cannot be sealed to.
    SrkPublic {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Whoever is to approve the boots of another machine was not named.
    NoAuthorityPublic,
    /// What is not needed could not be given up before hostile input is read.
    #[cfg(feature = "cli")]
    Sandbox(SandboxError),
    /// A signature file that was named and cannot be read.
    SignatureFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A file that should hold the public half of an authority's key.
    AuthorityKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// This machine's own authority.
    #[cfg(feature = "cli")]
    Authority(AuthorityError),
    /// A template of machines, or what belongs to it.
    #[cfg(feature = "cli")]
    Template(TemplateError),
    /// A reference boot, or what is left of one.
    #[cfg(feature = "cli")]
    Reference(ReferenceError),
    /// Machines of a template will not open, or not however they may be started.
    NotCoveredVms {
        /// How many.
        count: usize,
        /// The first one's name.
        first: String,
        /// Why.
        why: String,
    },
    /// A PIN is needed, and could not be had.
    PinNeeded {
        /// Why not.
        cause: String,
    },
    /// The PIN is wrong.
    WrongPin {
        /// The token it was tried on.
        token: u32,
        /// What the TPM counts now.
        lockout: Option<Lockout>,
    },
    /// The TPM released a secret that does not open the token's keyslot.
    KeyslotRefused {
        /// The token.
        token: u32,
        /// The keyslot.
        keyslot: u32,
    },
    /// The token's keyslot has a key derivation that no sealed keyslot needs.
    KeyslotTooCostly {
        /// The keyslot.
        keyslot: u32,
    },
    /// The event log is not there.
    LogMissing {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// The event log is malformed.
    LogMalformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: EventLogError,
    },
    /// systemd's log is malformed.
    UserspaceLogMalformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: UserspaceLogError,
    },
    /// The log does not replay to the TPM's PCRs.
    LogDisagrees {
        /// The bank.
        bank: PcrBank,
        /// The first PCR that differs.
        pcr: PcrIndex,
    },
    /// The log has no digests of the bank.
    LogLacksBank {
        /// The bank.
        bank: PcrBank,
    },
    /// No PCR of the set binds these.
    NotCovered {
        /// What is not bound, each with the reason.
        components: Vec<Uncovered>,
    },
    /// A PCR list that cannot be used.
    Pcrs(PcrError),
    /// All PCRs to seal to are zero.
    EmptySeal {
        /// The bank.
        bank: PcrBank,
    },
    /// No keyslot that opens without a TPM would be left.
    LastKeyslot {
        /// The keyslot that was to go; `None` where no keyslot opens without a TPM as it is.
        keyslot: Option<u32>,
    },
    /// A systemd-tpm2 token names a keyslot that does not look like a sealed one.
    NotSealed {
        /// The token.
        token: u32,
        /// The keyslot.
        keyslot: u32,
    },
    /// There is nothing to revoke.
    NothingToRevoke,
    /// No passphrase could be had.
    NoPassphrase {
        /// Why.
        cause: String,
    },
    /// The kernel gave no random bytes.
    NoRandomness {
        /// What it said.
        cause: String,
    },
    /// The recovery key could not be shown, and was taken back.
    NotShown {
        /// What writing it met.
        cause: String,
    },
    /// Eight boots are approved already.
    RecordFull,
    /// A file of the boot to come, or of the boot that ran, that was named and cannot be used.
    Artifact {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// `--set` without an equals sign, or for something that cannot be set.
    BadSet {
        /// What was given.
        set: String,
    },
    /// `--set` of a reseal for what is no variable of Secure Boot.
    BadVariable {
        /// What was given.
        set: String,
    },
    /// The files of the boot that ran are not those that its log tells of.
    BaseNotReproduced(NotReproduced),
    /// The boot to come cannot be told well enough to be sealed to.
    Unforeseen(Unforeseen),
    /// A key file would lie on a file system that is not encrypted.
    RootNotEncrypted {
        /// Where it would lie.
        folder: PathBuf,
    },
    /// A key file that cannot be read or written.
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// crypttab cannot be read, written or added to.
    Crypttab {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The initramfs could not be rebuilt.
    RebuildFailed {
        /// The command.
        command: String,
        /// How it ended.
        cause: String,
    },
    /// Not a version of QEMU.
    BadQemu {
        /// What was given.
        found: String,
    },
    /// No boot entry is called so.
    NoSuchEntry {
        /// What was asked for.
        wanted: String,
        /// The entries that there are.
        there: Vec<String>,
    },
    /// No boot was approved here.
    NothingApproved {
        /// UUID of the volume; of any, where none was named.
        uuid: Option<String>,
    },
    /// What is to be approved was not.
    NotApproved {
        /// What stands against it, each in a sentence.
        reasons: Vec<String>,
    },
    /// A file is not the one that was shown.
    ChangedSince {
        /// Its path, from the root of its file system.
        path: String,
    },
    /// Only one boot is to stay approved, and it has not proved itself.
    Narrow {
        /// The loader's name for it; empty where it cannot be told which one is started.
        entry: String,
    },
    /// The keyslot that approved boots open is not there, or sealed to something else.
    KeyslotGone {
        /// Its number.
        keyslot: u32,
    },
    /// The record was written by a later version.
    RecordNewer {
        /// Its token.
        token: u32,
    },
}

impl Error {
    /// The exit code that stands for the error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Tpm(error) => tpm_exit(error),
            Self::Luks(LuksError::WrongPassphrase { .. } | LuksError::ForeignVolumeKey)
            | Self::KeyslotRefused { .. }
            | Self::KeyslotTooCostly { .. } => Exit::Keyslot,
            Self::Luks(LuksError::Library { .. } | LuksError::Io { .. })
            | Self::NoRandomness { .. }
            | Self::StillOpen { .. }
            | Self::NotShown { .. } => Exit::Internal,
            #[cfg(feature = "cli")]
            Self::Authority(AuthorityError::Signing(_)) | Self::Sandbox(_) => Exit::Internal,
            Self::NotPinned(_) | Self::NoPin { .. } | Self::NotComparable { .. } => Exit::NotPinned,
            Self::NoToken => Exit::NoToken,
            Self::BadToken { .. } => Exit::BadToken,
            Self::Unapproved { .. } => Exit::NoSignature,
            Self::PinNeeded { .. } | Self::WrongPin { .. } => Exit::Pin,
            Self::PcrMismatch { .. } | Self::LogDisagrees { .. } => Exit::PcrMismatch,
            Self::NotApproved { .. } | Self::ChangedSince { .. } | Self::NotCoveredVms { .. } => {
                Exit::NotApproved
            }
            #[cfg(feature = "cli")]
            Self::Template(TemplateError::NotDelivered { .. } | TemplateError::Untold { .. }) => {
                Exit::NotApproved
            }
            Self::Pcrs(_)
            | Self::BadSet { .. }
            | Self::BadVariable { .. }
            | Self::BadQemu { .. }
            | Self::NoSuchEntry { .. }
            | Self::NoAuthorityPublic => Exit::Usage,
            #[cfg(feature = "cli")]
            Self::Authority(_) | Self::Reference(_) | Self::Template(_) => Exit::Refused,
            Self::Luks(_)
            | Self::Pins(_)
            | Self::Store(_)
            | Self::Unpinnable(_)
            | Self::LogMissing { .. }
            | Self::LogMalformed { .. }
            | Self::UserspaceLogMalformed { .. }
            | Self::LogLacksBank { .. }
            | Self::NotCovered { .. }
            | Self::EmptySeal { .. }
            | Self::LastKeyslot { .. }
            | Self::NotSealed { .. }
            | Self::NothingToRevoke
            | Self::NoPassphrase { .. }
            | Self::SignatureFile { .. }
            | Self::SrkPublic { .. }
            | Self::AuthorityKey { .. }
            | Self::Artifact { .. }
            | Self::BaseNotReproduced(_)
            | Self::Unforeseen(_)
            | Self::RebuildFailed { .. }
            | Self::RootNotEncrypted { .. }
            | Self::KeyFile { .. }
            | Self::Crypttab { .. }
            | Self::RecordFull
            | Self::NothingApproved { .. }
            | Self::Narrow { .. }
            | Self::KeyslotGone { .. }
            | Self::RecordNewer { .. } => Exit::Refused,
        }
    }
}

fn tpm_exit(error: &TpmError) -> Exit {
    match error {
        TpmError::Absent { .. } | TpmError::Timeout { .. } => Exit::NoTpm,
        TpmError::BadTcti { .. } => Exit::Usage,
        TpmError::NotPermitted { .. } | TpmError::BankInactive { .. } | TpmError::AuthRequired => {
            Exit::Refused
        }
        TpmError::NoSrk | TpmError::Foreign => Exit::OtherTpm,
        TpmError::BadObject => Exit::BadToken,
        TpmError::Lockout => Exit::Lockout,
        TpmError::WrongPin => Exit::Pin,
        TpmError::BadSignature | TpmError::IndexGone { .. } | TpmError::IndexDiffers { .. } => {
            Exit::NoSignature
        }
        TpmError::PolicyFailed => Exit::PcrMismatch,
        TpmError::Response { .. } => Exit::Internal,
    }
}

impl std::error::Error for Error {}

macro_rules! from {
    ($($type:ty => $variant:ident),*) => {
        $(impl From<$type> for Error {
            fn from(error: $type) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from!(TpmError => Tpm, LuksError => Luks, PinsError => Pins, StoreError => Store, PinMismatch => NotPinned,
      Unpinnable => Unpinnable, PcrError => Pcrs);
#[cfg(feature = "cli")]
from!(AuthorityError => Authority, ReferenceError => Reference, SandboxError => Sandbox, TemplateError => Template);
