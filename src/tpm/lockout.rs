//! The TPM's defence against guessing.

use std::fmt;

use tss_esapi::constants::{CapabilityType, PropertyTag};
use tss_esapi::structures::CapabilityData;

use super::error::during;
use super::{Tpm, TpmError};

/// What the TPM counts (TPM 2.0 part 2, 6.13, `TPM_PT_LOCKOUT_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockout {
    /// Wrong tries that count at present.
    pub counter: u32,
    /// Tries after which the TPM refuses all.
    pub max_tries: u32,
    /// Seconds after which one try is forgiven.
    pub interval: u32,
}

impl Lockout {
    /// Whether the TPM refuses all tries for now.
    pub fn is_locked(self) -> bool {
        self.counter >= self.max_tries
    }

    /// Whether one more wrong try locks the TPM.
    pub fn is_last_try(self) -> bool {
        self.counter.saturating_add(1) >= self.max_tries
    }
}

impl fmt::Display for Lockout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the TPM counts {} wrong tries of {}", self.counter, self.max_tries)?;
        if self.is_locked() {
            write!(f, ", and is locked for up to {} s", self.interval)?;
        }
        Ok(())
    }
}

impl Tpm {
    /// What the TPM counts now, in one command.
    ///
    /// # Errors
    /// [`TpmError::Response`].
    pub fn lockout(&self) -> Result<Lockout, TpmError> {
        self.run(|context| {
            let ask = "tell its lockout counter";
            let first = PropertyTag::LockoutCounter;
            let (found, _) = context
                .execute_without_session(|context| {
                    context.get_capability(CapabilityType::TpmProperties, first.into(), 3)
                })
                .map_err(during(ask))?;
            let value = |tag| match &found {
                CapabilityData::TpmProperties(list) => {
                    list.find(tag).map(|property| property.value())
                }
                _ => None,
            };
            match [first, PropertyTag::MaxAuthFail, PropertyTag::LockoutInterval].map(value) {
                [Some(counter), Some(max_tries), Some(interval)] => {
                    Ok(Lockout { counter, max_tries, interval })
                }
                _ => Err(TpmError::Response { during: ask, message: "it tells none".into() }),
            }
        })
    }
}
