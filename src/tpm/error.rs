//! What can go wrong with the TPM, told apart by what the caller does next.

use std::fmt;

use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind as Kind};

use crate::measurement::PcrBank;

/// A TPM operation that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TpmError {
    /// No TPM could be reached.
    Absent {
        /// The TCTI that was tried.
        tcti: String,
        /// What the system said.
        cause: String,
    },
    /// The device is there but may not be opened.
    NotPermitted {
        /// The TCTI that was tried.
        tcti: String,
    },
    /// The TPM did not answer in time.
    Timeout {
        /// How long it was waited for, in seconds.
        seconds: u64,
    },
    /// Text that is not a TCTI vmseal can use.
    BadTcti {
        /// What was found.
        found: String,
    },
    /// The TPM has no storage root key at its handle.
    NoSrk,
    /// The sealed object was made by another TPM, or for another storage root key.
    Foreign,
    /// Not an object that a TPM made: the token's blob is damaged or forged.
    BadObject,
    /// Dictionary-attack lockout.
    Lockout,
    /// The policy session did not satisfy the object: a PCR is not as sealed.
    PolicyFailed,
    /// An authorization value (owner password, PIN) is set or wrong.
    AuthRequired,
    /// The PIN is wrong. The TPM counts it.
    WrongPin,
    /// No signature of the present PCR values verifies under the token's key.
    BadSignature,
    /// The NV index that approves the PCR values is gone, or is not the one of the token.
    IndexGone {
        /// Its handle.
        index: u32,
    },
    /// The NV index approves another policy than `pcrlock.json` tells.
    IndexDiffers {
        /// Its handle.
        index: u32,
    },
    /// The PCR bank is not active in this TPM.
    BankInactive {
        /// The bank.
        bank: PcrBank,
    },
    /// Anything else, with the TPM's response code.
    Response {
        /// What was being done.
        during: &'static str,
        /// The library's words for the response code.
        message: String,
    },
}

impl fmt::Display for TpmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { tcti, cause } => write!(f, "no TPM at {tcti}: {cause}"),
            Self::NotPermitted { tcti } => write!(f, "no permission to open the TPM at {tcti}"),
            Self::Timeout { seconds } => write!(f, "the TPM did not answer within {seconds} s"),
            Self::BadTcti { found } => write!(f, "{found:?} is not a TCTI that vmseal can use"),
            Self::NoSrk => f.write_str("this TPM has no storage root key at 0x81000001"),
            Self::Foreign => f.write_str("the token was sealed by another TPM"),
            Self::BadObject => f.write_str("the token's sealed object is not one that a TPM made"),
            Self::Lockout => f.write_str("the TPM is locked after too many wrong authorizations"),
            Self::PolicyFailed => f.write_str("the TPM says that its PCRs do not fit the policy"),
            Self::AuthRequired => f.write_str("the TPM asks for an authorization value"),
            Self::WrongPin => f.write_str("the PIN is wrong"),
            Self::BadSignature => {
                f.write_str("no signature of the present PCR values is by the token's key")
            }
            Self::IndexGone { index } => {
                write!(f, "the TPM has no NV index {index:#x} as the pcrlock policy had")
            }
            Self::IndexDiffers { index } => {
                write!(f, "NV index {index:#x} approves another policy than pcrlock.json tells")
            }
            Self::BankInactive { bank } => write!(f, "the TPM's {bank} bank is not active"),
            Self::Response { during, message } => {
                write!(f, "the TPM failed to {during}: {message}")
            }
        }
    }
}

impl std::error::Error for TpmError {}

/// The response code's kind, where it is one of the TPM.
pub(super) fn kind(error: &tss_esapi::Error) -> Option<Kind> {
    match error {
        tss_esapi::Error::Tss2Error(
            code @ (Tss2ResponseCode::FormatOne(_) | Tss2ResponseCode::FormatZero(_)),
        ) => code.kind(),
        _ => None,
    }
}

/// Turns the library's error into ours; `during` completes "the TPM failed to …".
pub(super) fn during(during: &'static str) -> impl Fn(tss_esapi::Error) -> TpmError {
    move |error| match kind(&error) {
        Some(Kind::Lockout) => TpmError::Lockout,
        Some(Kind::PolicyFail) => TpmError::PolicyFailed,
        Some(Kind::AuthFail | Kind::BadAuth) => TpmError::AuthRequired,
        Some(_) => TpmError::Response { during, message: error.to_string() },
        // Codes of the transport below the TPM, which the library does not name.
        None => TpmError::Response { during, message: "no usable answer came back".into() },
    }
}
