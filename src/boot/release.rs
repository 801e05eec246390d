//! From a header copy to the volume key: pin, tokens, choice, unseal.

use crate::error::Error;
use crate::luks::{HeaderCopy, LuksError, Metadata, Pin};
use crate::measurement::{PcrBank, PcrIndex, PcrValues};
use crate::secret::VolumeKey;
use crate::token::{Record, SystemdTpm2, TokenError};
use crate::tpm::{Tpm, TpmError};

use super::choose::{Judgement, Verdict, judge, literal_selections};
use super::mismatch::Mismatch;
use super::seal_point::BootLogs;

/// A volume key that the TPM gave access to.
pub struct Released {
    /// The key.
    pub key: VolumeKey,
    /// The token that fitted.
    pub token: u32,
    /// The keyslot that it opened.
    pub keyslot: u32,
    /// Whether the latch bars the token: only where PCR 15 is among its PCRs.
    pub latchable: bool,
}

/// Checks `pin`, then gets the volume key out of the token that fits the present PCRs.
///
/// Only tokens whose policy digest equals what the PCRs give reach the TPM. Where none does, the
/// refusal names the PCRs, and with `logs` the events.
///
/// # Errors
/// [`Error::NotPinned`] before anything is asked of the TPM; else the reason of the token that
/// came nearest.
pub fn release(
    tpm: &Tpm,
    header: &mut HeaderCopy,
    pin: Option<&Pin>,
    logs: impl FnOnce() -> Option<BootLogs>,
) -> Result<Released, Error> {
    if let Some(pin) = pin {
        pin.check_header(header.metadata())?;
    }
    let tokens = header.metadata().tokens();
    // It only serves to explain.
    let record = Record::find(&tokens).and_then(|(_, record)| record.ok());
    let selections = literal_selections(&tokens);
    let values = if selections.is_empty() { vec![] } else { tpm.read_pcrs(&selections)? };
    let judgements = judge(&tokens, record.as_ref(), |bank, pcr| lookup(&values, bank, pcr));

    let mut failure = None;
    for judgement in &judgements {
        if let Verdict::Fits(token) = &judgement.verdict {
            match open_with(tpm, header, pin, judgement.token, token) {
                Ok(released) => return Ok(released),
                Err(error @ Error::NotPinned(_)) => return Err(error),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Err(refusal(tpm, judgements, record.as_ref(), logs)),
    }
}

/// Turns the verdict on tokens that another TPM sealed into [`Verdict::Foreign`].
pub fn name_foreign(judgements: &mut [Judgement], tpm: &Tpm) {
    for judgement in judgements {
        if let Verdict::Fits(token) | Verdict::Differs(token, _) = &judgement.verdict
            && let Some((object, _)) = token.literal_policy()
            && let Err(TpmError::Foreign | TpmError::NoSrk) =
                tpm.check_is_own(&token.parent, object)
        {
            judgement.verdict = Verdict::Foreign { keyslot: token.keyslot };
        }
    }
}

fn lookup(
    values: &[PcrValues],
    bank: PcrBank,
    pcr: PcrIndex,
) -> Option<crate::measurement::Digest> {
    values.iter().find(|values| values.bank() == bank)?.get(pcr).copied()
}

fn open_with(
    tpm: &Tpm,
    header: &mut HeaderCopy,
    pin: Option<&Pin>,
    id: u32,
    token: &SystemdTpm2,
) -> Result<Released, Error> {
    let (object, policy) = token.literal_policy().ok_or(Error::NoToken { unsupported: vec![] })?;
    require_cheap(header.metadata(), token.keyslot)?;
    let secret = tpm.unseal(&token.parent, object, &policy).map_err(|error| match error {
        TpmError::BadObject => Error::BadToken { token: id, error: bad_object() },
        other => other.into(),
    })?;
    let key =
        header.open_keyslot(token.keyslot, &secret.to_keyslot_passphrase()).map_err(|error| {
            match error {
                LuksError::WrongPassphrase { .. }
                | LuksError::NoSuchKeyslot { .. }
                | LuksError::ForeignVolumeKey => {
                    Error::KeyslotRefused { token: id, keyslot: token.keyslot }
                }
                other => other.into(),
            }
        })?;
    if let Some(pin) = pin {
        pin.check_key(&key)?;
    }
    let latchable = token.pcrs.pcrs.contains(&PcrIndex::LATCH);
    Ok(Released { key, token: id, keyslot: token.keyslot, latchable })
}

fn bad_object() -> TokenError {
    TokenError::Value { field: "tpm2-blob", found: TpmError::BadObject.to_string() }
}

/// The header is hostile: a keyslot that takes hours to open must not hold up the boot. A random
/// passphrase needs no costly derivation, and systemd gives it 1000 iterations.
fn require_cheap(metadata: &Metadata, keyslot: u32) -> Result<(), Error> {
    const MAX_ITERATIONS: u64 = 1_000_000;
    let slots = metadata.keyslots();
    let pbkdf = slots.iter().find(|slot| slot.id == keyslot).and_then(|slot| slot.pbkdf.as_ref());
    match pbkdf {
        Some(pbkdf) if pbkdf.kind != "pbkdf2" || pbkdf.iterations > MAX_ITERATIONS => {
            Err(Error::KeyslotTooCostly { keyslot })
        }
        _ => Ok(()),
    }
}

/// Why no token fits, from the one that comes nearest.
fn refusal(
    tpm: &Tpm,
    judgements: Vec<Judgement>,
    record: Option<&Record>,
    logs: impl FnOnce() -> Option<BootLogs>,
) -> Error {
    let mut nearest: Option<(u32, SystemdTpm2, Mismatch)> = None;
    let mut foreign = None;
    let mut unsupported = vec![];
    let mut malformed = None;
    for Judgement { token: id, verdict } in judgements {
        match verdict {
            Verdict::Differs(token, mismatch) => {
                // A token of another TPM says nothing about this TPM's PCRs.
                let own = match token.literal_policy() {
                    Some((object, _)) => tpm.check_is_own(&token.parent, object),
                    None => Ok(()),
                };
                match own {
                    Err(error @ (TpmError::Foreign | TpmError::NoSrk)) => {
                        foreign = foreign.or(Some(error));
                    }
                    Err(TpmError::BadObject) => malformed = malformed.or(Some((id, bad_object()))),
                    Err(error) => return error.into(),
                    Ok(()) => {
                        let distance = |m: &Mismatch| (!m.recorded, m.differences.len());
                        if nearest
                            .as_ref()
                            .is_none_or(|(_, _, n)| distance(&mismatch) < distance(n))
                        {
                            nearest = Some((id, *token, mismatch));
                        }
                    }
                }
            }
            Verdict::Malformed(error) => malformed = malformed.or(Some((id, error))),
            Verdict::Unsupported { why, .. } => unsupported.push((id, why)),
            Verdict::Fits(_) | Verdict::Foreign { .. } => {}
        }
    }
    if let Some((token, json, mut mismatch)) = nearest {
        let entry = json.policy_hashes.first().and_then(|hash| record?.entry(hash));
        if let (Some(entry), Some(logs)) = (entry, logs()) {
            mismatch.name_events(entry, &logs);
        }
        return Error::PcrMismatch { token, mismatch };
    }
    if let Some(error) = foreign {
        return error.into();
    }
    match malformed {
        Some((token, error)) if unsupported.is_empty() => Error::BadToken { token, error },
        _ => Error::NoToken { unsupported },
    }
}
