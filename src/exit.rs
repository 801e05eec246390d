//! Exit codes of `vmseal` and `vmseal-boot`: the contract with boot hooks and scripts.

/// How a command ended. The number is the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// A fault of vmseal, or of the system below it, that no other code describes.
    Internal = 1,
    /// Wrong arguments.
    Usage = 2,
    /// Refused, and nothing was changed.
    Refused = 3,
    /// No TPM token that vmseal can read.
    NoToken = 10,
    /// No TPM, or it did not answer in time.
    NoTpm = 11,
    /// The PCRs are not those that were sealed to, or not those of the log.
    PcrMismatch = 12,
    /// The token belongs to another TPM.
    OtherTpm = 13,
    /// The TPM refuses authorizations for now (dictionary-attack lockout).
    Lockout = 14,
    /// The token is malformed.
    BadToken = 15,
    /// The keyslot did not open: wrong passphrase, or a secret that fits no keyslot.
    Keyslot = 16,
    /// Not the volume that was pinned. Fatal for the device.
    NotPinned = 17,
    /// A PIN is needed, or the given one is wrong.
    Pin = 18,
    /// No signature covers the present state.
    NoSignature = 19,
    /// Not approved.
    NotApproved = 20,
}

impl Exit {
    /// Every way to end.
    const ALL: [Self; 15] = [
        Self::Done,
        Self::Internal,
        Self::Usage,
        Self::Refused,
        Self::NoToken,
        Self::NoTpm,
        Self::PcrMismatch,
        Self::OtherTpm,
        Self::Lockout,
        Self::BadToken,
        Self::Keyslot,
        Self::NotPinned,
        Self::Pin,
        Self::NoSignature,
        Self::NotApproved,
    ];

    /// What a code stands for; a fault where it is none of vmseal's.
    pub fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|exit| exit.code() == code).unwrap_or(Self::Internal)
    }

    /// The number that the process exits with.
    pub fn code(self) -> u8 {
        self as u8
    }
}
