//! Whose TPM a keyslot is sealed to: that of this machine, or one elsewhere.

use std::sync::Arc;

use crate::error::Error;
use crate::policy::PolicyDigest;
use crate::secret::{AuthValue, SealedSecret};
use crate::token::SealedObject;
#[cfg(feature = "cli")]
use crate::tpm::SrkElsewhere;
use crate::tpm::{SrkPublic, StorageKey, Tpm, TpmError};

/// Whose TPM a keyslot is sealed to.
#[derive(Clone, Copy)]
pub enum To<'a> {
    /// The one that is here: the new keyslot is proven where it can be.
    Tpm(&'a Tpm),
    /// The one that has this storage root key.
    #[cfg(feature = "cli")]
    Elsewhere(&'a SrkElsewhere),
}

impl<'a> To<'a> {
    /// The TPM, where it is here.
    pub(super) fn tpm(&self) -> Option<&'a Tpm> {
        match self {
            Self::Tpm(tpm) => Some(tpm),
            #[cfg(feature = "cli")]
            Self::Elsewhere(_) => None,
        }
    }

    pub(super) fn srk(&self) -> Result<SrkPublic, Error> {
        match self {
            Self::Tpm(tpm) => Ok(tpm.srk(true)?.ok_or(TpmError::NoSrk)?),
            #[cfg(feature = "cli")]
            Self::Elsewhere(elsewhere) => Ok(elsewhere.srk.clone()),
        }
    }

    pub(super) fn is_locked(&self) -> Result<bool, TpmError> {
        match self {
            Self::Tpm(tpm) => Ok(tpm.lockout()?.is_locked()),
            #[cfg(feature = "cli")]
            Self::Elsewhere(_) => Ok(false),
        }
    }

    pub(super) fn seal(
        &self,
        srk: &SrkPublic,
        policy: PolicyDigest,
        auth: Option<Arc<AuthValue>>,
    ) -> Result<(SealedSecret, SealedObject), TpmError> {
        match self {
            Self::Tpm(tpm) => {
                let (handle, name) = (srk.handle, Some(srk.name.clone()));
                tpm.seal(&StorageKey::Persistent { handle, name }, policy, auth)
            }
            #[cfg(feature = "cli")]
            Self::Elsewhere(elsewhere) => elsewhere.seal(policy, auth.as_deref()),
        }
    }
}
