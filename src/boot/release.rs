//! From a header copy to the volume key: pin, tokens, choice, unseal.

use std::sync::Arc;

use crate::error::Error;
use crate::luks::{HeaderCopy, LuksError, Metadata, Pin};
use crate::measurement::{Digest, PcrBank, PcrIndex, PcrValues};
use crate::secret::{KeyslotPassphrase, SealedSecret, TypedPin, VolumeKey};
use crate::token::{PinDerivation, TokenError};
use crate::tpm::{Lockout, Tpm, TpmError};

use super::approvals::Approvals;
use super::choose::{Candidate, Choice, Judgement, Verdict};
use super::seal_point::BootLogs;

/// How often one PIN is tried, on different tokens: the header says how many tokens there are, and
/// each wrong try brings the lockout nearer.
const MAX_PIN_TRIES: usize = 3;

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

/// What a release may need besides the header and the TPM. Nothing is asked for in vain.
pub struct Means<'a> {
    /// Gathers approvals, for tokens that are not bound to literal PCRs alone.
    pub approvals: &'a dyn Fn() -> Approvals,
    /// Asks for the PIN, once, telling what the TPM counts.
    pub pin: &'a dyn Fn(Lockout) -> Result<TypedPin, Error>,
    /// Told of the PCR values that were read.
    pub seen: &'a dyn Fn(&[PcrValues]),
    /// Reads the logs, to name what differs.
    pub logs: &'a dyn Fn() -> Option<BootLogs>,
}

/// Checks `pin`, then gets the volume key out of a token that fits the present PCRs.
///
/// Only tokens whose policy digest equals what the PCRs give reach the TPM: those without a PIN
/// first, each in order of its id. Where none does, the refusal names the PCRs, and with the logs
/// the events.
///
/// # Errors
/// [`Error::NotPinned`] before anything is asked of the TPM; else the reason of the token that
/// came nearest.
pub fn release(
    tpm: &Tpm,
    header: &mut HeaderCopy,
    pin: Option<&Pin>,
    means: &Means<'_>,
) -> Result<Released, Error> {
    if let Some(pin) = pin {
        pin.check_header(header.metadata())?;
    }
    let choice = Choice::among(&header.metadata().tokens(), means.approvals);
    let selections = choice.selections();
    let values = if selections.is_empty() { vec![] } else { tpm.read_pcrs(&selections)? };
    (means.seen)(&values);
    let mut judgements = choice.judge(|bank, pcr| lookup(&values, bank, pcr));

    let fitting = judgements.iter().filter_map(|judgement| match &judgement.verdict {
        Verdict::Fits(candidate) => Some((judgement.token, &**candidate)),
        _ => None,
    });
    let (with_pin, without): (Vec<_>, Vec<_>) =
        fitting.partition(|(_, candidate)| candidate.token.pin.is_some());
    let mut failure = None;
    for (id, candidate) in without {
        match open_with(tpm, header, pin, (id, candidate), None) {
            Err(error) if !is_final(&error) => failure = failure.or(Some(error)),
            outcome => return outcome,
        }
    }
    match release_with_pin(tpm, header, pin, means, &with_pin) {
        Some(Err(error)) if !is_final(&error) => failure = failure.or(Some(error)),
        Some(outcome) => return outcome,
        None => {}
    }
    if let Some(error) = failure {
        return Err(error);
    }
    // A token of another TPM says nothing about this TPM's PCRs.
    name_foreign(&mut judgements, tpm)?;
    if let Some(logs) = (means.logs)() {
        choice.name_events(&mut judgements, &logs);
    }
    Err(refusal(judgements))
}

/// Turns the verdict on tokens that another TPM sealed into [`Verdict::Foreign`], and on blobs that
/// no TPM made into [`Verdict::Malformed`].
///
/// # Errors
/// The TPM's, where it does not answer.
pub fn name_foreign(judgements: &mut [Judgement], tpm: &Tpm) -> Result<(), Error> {
    for judgement in judgements {
        let Some(token) = judgement.verdict.token() else { continue };
        let Some(object) = token.objects.first() else { continue };
        match tpm.check_is_own(&token.parent, object) {
            Ok(()) => {}
            Err(TpmError::Foreign | TpmError::NoSrk) => {
                judgement.verdict = Verdict::Foreign(Box::new(token.clone()));
            }
            Err(TpmError::BadObject) => judgement.verdict = Verdict::Malformed(bad_object()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether no other token may be tried after this.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::NotPinned(_) | Error::Tpm(TpmError::Timeout { .. }))
}

fn lookup(values: &[PcrValues], bank: PcrBank, pcr: PcrIndex) -> Option<Digest> {
    values.iter().find(|values| values.bank() == bank)?.get(pcr).copied()
}

/// Tries the tokens that want a PIN. Each wrong try counts towards the TPM's lockout: the PIN is not
/// even asked for where it cannot help, and the last try before the lockout is never spent on a
/// second token.
fn release_with_pin(
    tpm: &Tpm,
    header: &mut HeaderCopy,
    pin: Option<&Pin>,
    means: &Means<'_>,
    candidates: &[(u32, &Candidate)],
) -> Option<Result<Released, Error>> {
    let mut typed = None;
    let mut tries = 0;
    let mut failure = None;
    for (id, candidate) in candidates {
        let attempt = (|| {
            let Some(derivation) = &candidate.token.pin else { return Ok(None) };
            if let Some(object) = candidate.token.objects.first() {
                tpm.check_is_own(&candidate.token.parent, object)?;
            }
            let lockout = tpm.lockout()?;
            if lockout.is_locked() {
                return Err(TpmError::Lockout.into());
            }
            if tries > 0 && (tries >= MAX_PIN_TRIES || lockout.is_last_try()) {
                return Ok(None);
            }
            tries += 1;
            let typed = match &typed {
                Some(typed) => typed,
                None => typed.insert((means.pin)(lockout)?),
            };
            open_with(tpm, header, pin, (*id, candidate), Some((derivation, typed))).map(Some)
        })();
        match attempt {
            Ok(None) => {}
            Ok(Some(released)) => return Some(Ok(released)),
            // A wrong PIN is what the person at the keyboard must hear of first.
            Err(Error::Tpm(TpmError::WrongPin)) => {
                let lockout = tpm.lockout().ok();
                failure = Some(Error::WrongPin { token: *id, lockout });
            }
            Err(error @ (Error::PinNeeded { .. } | Error::Tpm(TpmError::Lockout))) => {
                return Some(Err(failure.unwrap_or(error)));
            }
            Err(error) if is_final(&error) => return Some(Err(error)),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map(Err)
}

fn open_with(
    tpm: &Tpm,
    header: &mut HeaderCopy,
    pin: Option<&Pin>,
    (id, candidate): (u32, &Candidate),
    typed: Option<(&PinDerivation, &TypedPin)>,
) -> Result<Released, Error> {
    let token = &candidate.token;
    require_cheap(header.metadata(), token.keyslot)?;
    let passphrase = passphrase(tpm, candidate, typed).map_err(|error| match error {
        TpmError::BadObject => Error::BadToken { token: id, error: bad_object() },
        other => other.into(),
    })?;
    let key = header.open_keyslot(token.keyslot, &passphrase).map_err(|error| match error {
        LuksError::WrongPassphrase { .. }
        | LuksError::NoSuchKeyslot { .. }
        | LuksError::ForeignVolumeKey => {
            Error::KeyslotRefused { token: id, keyslot: token.keyslot }
        }
        other => other.into(),
    })?;
    if let Some(pin) = pin {
        pin.check_key(&key)?;
    }
    let latchable = token.pcrs.pcrs.contains(&PcrIndex::LATCH);
    Ok(Released { key, token: id, keyslot: token.keyslot, latchable })
}

/// What opens the token's keyslot: every shard out of the TPM, one after the other.
///
/// # Errors
/// The TPM's.
pub(crate) fn passphrase(
    tpm: &Tpm,
    Candidate { token, policies }: &Candidate,
    typed: Option<(&PinDerivation, &TypedPin)>,
) -> Result<KeyslotPassphrase, TpmError> {
    let keys = match typed {
        // More than there is would have the kernel kill us, or another.
        Some((derivation, _)) if derivation.memory() > total_memory() => return Err(no_memory()),
        Some((derivation, typed)) => Some(derivation.derive(typed).ok_or_else(no_memory)?),
        None => None,
    };
    let mut shards = Vec::new();
    for (object, policy) in token.objects.iter().zip(policies) {
        let auth = keys.as_ref().map(|keys| Arc::clone(&keys.auth));
        shards.push(tpm.unseal(&token.parent, object, policy, auth)?);
    }
    let secret = SealedSecret::of_shards(&shards);
    Ok(match keys {
        Some(keys) => keys.keyslot_passphrase(&secret),
        None => secret.to_keyslot_passphrase(),
    })
}

/// Bytes of this machine's memory.
fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit) * info.totalram
}

fn no_memory() -> TpmError {
    TpmError::Response { during: "take the PIN", message: "not enough memory to derive".into() }
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

/// Why no token fits, from the one that comes nearest: the fewest PCRs that are known to differ,
/// then those that may; then a token of another TPM; then one that nobody can use.
pub fn refusal(judgements: Vec<Judgement>) -> Error {
    let nearness = |judgement: &Judgement| match &judgement.verdict {
        Verdict::Unapproved(_, unapproved) => {
            (0, unapproved.mismatch.as_ref().map_or(0, |mismatch| mismatch.differences.len()))
        }
        Verdict::Differs(_, mismatch) => {
            (usize::from(!mismatch.recorded), mismatch.differences.len())
        }
        Verdict::Foreign(_) => (2, 0),
        Verdict::Malformed(_) => (3, 0),
        Verdict::Fits(_) => (4, 0),
    };
    let Some(Judgement { token, verdict }) = judgements.into_iter().min_by_key(nearness) else {
        return Error::NoToken;
    };
    match verdict {
        Verdict::Unapproved(_, unapproved) => Error::Unapproved { token, unapproved },
        Verdict::Differs(_, mismatch) => Error::PcrMismatch { token, mismatch },
        Verdict::Foreign(_) => TpmError::Foreign.into(),
        Verdict::Malformed(error) => Error::BadToken { token, error },
        Verdict::Fits(_) => Error::NoToken,
    }
}
