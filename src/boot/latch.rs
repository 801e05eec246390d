//! The latch: once PCR 15 is extended, nothing that was sealed to its zeros is released again
//! before the next reset of the TPM.

use crate::measurement::{Digest, PcrBank, PcrIndex, PcrSelection};
use crate::secret::VolumeKey;
use crate::tpm::{Tpm, TpmError};

use super::report::Unmeasured;

/// What the latch extends where no volume was opened.
pub const LATCH_WORD: &[u8] = b"vmseal:latch";

/// Latches if PCR 15 is still zero in any bank, and makes sure of the outcome. Holds no key.
/// Returns whether it had to extend.
///
/// # Errors
/// The TPM's, and [`TpmError::Response`] when PCR 15 stays zero.
pub fn latch(tpm: &Tpm) -> Result<bool, TpmError> {
    if is_latched(tpm)? {
        return Ok(false);
    }
    tpm.extend_pcr(PcrIndex::LATCH, &PcrBank::ALL.map(|bank| bank.hash(LATCH_WORD)))?;
    if is_latched(tpm)? {
        return Ok(true);
    }
    Err(TpmError::Response { during: "latch", message: "PCR 15 is still zero".into() })
}

/// Latches with what systemd measures for an opened volume.
///
/// # Errors
/// The TPM's.
pub fn latch_volume(tpm: &Tpm, key: &VolumeKey, name: &str, uuid: &str) -> Result<(), TpmError> {
    latch_measured(tpm, &Unmeasured::of(key, name, uuid))
}

/// Latches with the measurement of a volume that was opened before.
///
/// # Errors
/// The TPM's.
pub fn latch_measured(tpm: &Tpm, volume: &Unmeasured) -> Result<(), TpmError> {
    tpm.extend_pcr(PcrIndex::LATCH, &volume.digests())
}

/// HMAC of `cryptsetup:NAME:UUID` under the volume key, a colon in the name escaped as `\x3a`
/// (systemd's `measure_volume_key`).
pub fn volume_measurement(bank: PcrBank, key: &VolumeKey, name: &str, uuid: &str) -> Digest {
    let name = name.replace('\\', "\\x5c").replace(':', "\\x3a");
    bank.hmac(key.expose(), format!("cryptsetup:{name}:{uuid}").as_bytes())
}

/// Whether PCR 15 differs from zero in every bank that the TPM keeps.
fn is_latched(tpm: &Tpm) -> Result<bool, TpmError> {
    let banks = tpm.active_banks()?;
    let selections: Vec<_> =
        banks.into_iter().map(|bank| PcrSelection::new(bank, [PcrIndex::LATCH])).collect();
    let values = tpm.read_pcrs(&selections)?;
    let nonzero = |digest: &Digest| !digest.is_zero();
    Ok(!values.is_empty()
        && values.iter().all(|values| values.get(PcrIndex::LATCH).is_some_and(nonzero)))
}
