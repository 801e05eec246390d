//! Getting a sealed secret back, in the fewest commands.

use std::sync::Arc;

use tss_esapi::Context;
use tss_esapi::constants::SessionType;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Auth, EncryptedSecret, Private, Public, SymmetricDefinitionObject};
use tss_esapi::traits::UnMarshall;

use super::error::{TpmError, during, kind};
use super::satisfy::{Unsatisfied, satisfy};
use super::{StorageKey, Tpm, session, srk};
use crate::policy::Policy;
use crate::secret::{AuthValue, SealedSecret};
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
        auth: Option<Arc<AuthValue>>,
    ) -> Result<SealedSecret, TpmError> {
        if policy.is_stored() {
            return self.unseal_stored(parent, object, policy, auth);
        }
        let (parent, object, policy) = (parent.clone(), object.clone(), policy.clone());
        let encrypt = self.encrypts();
        self.run(move |context| {
            let key = srk::open(context, &parent)?;
            let secret = load(context, key.handle, &object).and_then(|loaded| {
                let secret = authenticate(context, loaded, auth.as_deref())
                    .and_then(|()| release(context, key.handle, loaded, &policy, encrypt));
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
    let private = match object.seed() {
        Some(seed) => import(context, parent, (private, public.clone()), seed)?,
        None => private,
    };
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.load(parent, private, public)
        })
        .map_err(not_own(load))
}

/// Makes an object that was sealed outside the TPM, for its storage key, one of this TPM's own
/// (`TPM2_Import`, without an inner wrapper).
fn import(
    context: &mut Context,
    parent: KeyHandle,
    (duplicate, public): (Private, Public),
    seed: &[u8],
) -> Result<Private, TpmError> {
    let seed = EncryptedSecret::try_from(seed).map_err(|_| TpmError::BadObject)?;
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            let none = SymmetricDefinitionObject::Null;
            context.import(parent.into(), None, public, duplicate, seed, none)
        })
        .map_err(not_own("import the sealed object"))
}

/// What the TPM says to an object that it cannot load.
fn not_own(what: &'static str) -> impl Fn(tss_esapi::Error) -> TpmError {
    move |error| match kind(&error) {
        // The private area is encrypted and authenticated by its parent.
        Some(Kind::Integrity) => TpmError::Foreign,
        Some(
            Kind::Size | Kind::Value | Kind::Type | Kind::Hash | Kind::Attributes | Kind::EccPoint,
        ) => TpmError::BadObject,
        _ => during(what)(error),
    }
}

/// Tells the library what the object's owner knows; it enters the session's HMAC and encryption, and
/// is not sent.
fn authenticate(
    context: &mut Context,
    object: KeyHandle,
    auth: Option<&AuthValue>,
) -> Result<(), TpmError> {
    let Some(auth) = auth else { return Ok(()) };
    let what = "take the PIN";
    let auth = Auth::try_from(auth.expose()).map_err(during(what))?;
    context.tr_set_auth(object.into(), auth).map_err(during(what))
}

fn release(
    context: &mut Context,
    parent: KeyHandle,
    object: KeyHandle,
    policy: &Policy,
    encrypt: bool,
) -> Result<SealedSecret, TpmError> {
    let mut changed = TpmError::PolicyFailed;
    for _ in 0..PCR_CHANGED_TRIES {
        let session = session::start(context, parent, SessionType::Policy, encrypt)?;
        let unsealed = satisfy(context, session, policy).and_then(|()| {
            let unseal = |context: &mut Context| context.unseal(object.into());
            Ok(context.execute_with_session(Some(session), unseal)?)
        });
        match unsealed {
            Ok(data) => {
                session::forget(context, session);
                return Ok(SealedSecret::from_unsealed(data.value().to_vec()));
            }
            Err(error) => {
                session::abandon(context, session);
                match error {
                    Unsatisfied::Meaning(error) => return Err(error),
                    Unsatisfied::Library(error) => match kind(&error) {
                        Some(Kind::PcrChanged) => changed = during("unseal")(error),
                        Some(Kind::AuthFail | Kind::BadAuth) => return Err(TpmError::WrongPin),
                        _ => return Err(during("unseal")(error)),
                    },
                }
            }
        }
    }
    Err(changed)
}
