//! Getting a sealed secret back, in the fewest commands.

use tss_esapi::Context;
use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Digest, Private, Public};
use tss_esapi::traits::UnMarshall;

use super::error::{TpmError, during, kind};
use super::{StorageKey, Tpm, pcr, session, srk};
use crate::policy::{Assertion, Policy};
use crate::secret::SealedSecret;
use crate::token::SealedObject;

/// Tries when somebody extends a PCR between the policy and the unseal, as systemd.
const PCR_CHANGED_TRIES: usize = 30;

impl Tpm {
    /// Loads `object` under `parent`, satisfies `policy` and returns the secret.
    ///
    /// One policy session, salted with the parent, authorizes the release and encrypts it.
    /// Commands: ReadPublic, Load, StartAuthSession, one for each assertion, Unseal, FlushContext.
    ///
    /// # Errors
    /// [`TpmError::Foreign`] and [`TpmError::NoSrk`] for a token of another TPM,
    /// [`TpmError::PolicyFailed`] when the PCRs are not as sealed, [`TpmError::Lockout`].
    pub fn unseal(
        &self,
        parent: &StorageKey,
        object: &SealedObject,
        policy: &Policy,
    ) -> Result<SealedSecret, TpmError> {
        let (parent, object, policy) = (parent.clone(), object.clone(), policy.clone());
        let encrypt = self.encrypts();
        self.run(move |context| {
            let key = srk::open(context, &parent)?;
            let secret = load(context, key.handle, &object).and_then(|loaded| {
                let secret = release(context, key.handle, loaded, &policy, encrypt);
                let _ = context.flush_context(loaded.into());
                secret
            });
            srk::release(context, &key);
            secret
        })
    }
}

/// Loads an object and flushes it again: the TPM's word that it is its own.
pub(super) fn try_load(
    context: &mut Context,
    parent: KeyHandle,
    object: &SealedObject,
) -> Result<(), TpmError> {
    let loaded = load(context, parent, object)?;
    let _ = context.flush_context(loaded.into());
    Ok(())
}

fn load(
    context: &mut Context,
    parent: KeyHandle,
    object: &SealedObject,
) -> Result<KeyHandle, TpmError> {
    let load = "load the sealed object";
    let private = Private::try_from(object.private()).map_err(|_| TpmError::BadObject)?;
    let public = Public::unmarshall(object.public()).map_err(|_| TpmError::BadObject)?;
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.load(parent, private, public)
        })
        .map_err(|error| match kind(&error) {
            // The private area is encrypted and authenticated by its parent.
            Some(Kind::Integrity) => TpmError::Foreign,
            Some(Kind::Size | Kind::Value | Kind::Type | Kind::Hash | Kind::Attributes) => {
                TpmError::BadObject
            }
            _ => during(load)(error),
        })
}

fn release(
    context: &mut Context,
    parent: KeyHandle,
    object: KeyHandle,
    policy: &Policy,
    encrypt: bool,
) -> Result<SealedSecret, TpmError> {
    let mut changed = None;
    for _ in 0..PCR_CHANGED_TRIES {
        let session = session::start(context, parent, SessionType::Policy, encrypt)?;
        match satisfy(context, session, policy).and_then(|()| {
            context.execute_with_session(Some(session), |context| context.unseal(object.into()))
        }) {
            Ok(data) => {
                session::forget(context, session);
                return Ok(SealedSecret::from_unsealed(data.value().to_vec()));
            }
            Err(error) => {
                session::abandon(context, session);
                if kind(&error) != Some(Kind::PcrChanged) {
                    return Err(during("unseal")(error));
                }
                changed = Some(error);
            }
        }
    }
    Err(changed.map_or(TpmError::PolicyFailed, during("unseal")))
}

fn satisfy(
    context: &mut Context,
    session: AuthSession,
    policy: &Policy,
) -> Result<(), tss_esapi::Error> {
    let session = PolicySession::try_from(session)?;
    for Assertion::Pcr(selection) in &policy.assertions {
        let pcrs = selection.pcrs.iter().copied().collect();
        let list = pcr::selection_list([(selection.bank, pcrs)])?;
        // An empty digest asks for the PCRs as they are; the object compares the outcome.
        context.execute_without_session(|context| {
            context.policy_pcr(session, Digest::default(), list)
        })?;
    }
    Ok(())
}
