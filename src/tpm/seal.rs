//! Making a sealed object.

use std::sync::Arc;

use tss_esapi::Context;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::structures::{
    Auth, Digest, KeyedHashScheme, Public, PublicBuilder, PublicKeyedHashParameters, SensitiveData,
};
use tss_esapi::traits::Marshall;

use super::error::{TpmError, during};
use super::{StorageKey, Tpm, session, srk};
use crate::policy::PolicyDigest;
use crate::secret::{AuthValue, SealedSecret};
use crate::token::SealedObject;

impl Tpm {
    /// Seals a new random secret under `parent`, to be released where `policy` is satisfied.
    /// The object has systemd's attributes (`tpm2_seal`): not to be moved to another TPM, and no
    /// dictionary-attack accounting, unless there is an authorization value that could be guessed.
    ///
    /// # Errors
    /// [`TpmError::NoSrk`], [`TpmError::Foreign`], or the TPM's refusal.
    pub fn seal(
        &self,
        parent: &StorageKey,
        policy: PolicyDigest,
        auth: Option<Arc<AuthValue>>,
    ) -> Result<(SealedSecret, SealedObject), TpmError> {
        let (parent, encrypt) = (parent.clone(), self.encrypts());
        self.run(move |context| {
            let secret = SealedSecret::random().map_err(|error| TpmError::Response {
                during: "make a random secret",
                message: error.to_string(),
            })?;
            let key = srk::open(context, &parent)?;
            let object = create(context, key.handle, &secret, (policy, auth.as_deref()), encrypt);
            srk::release(context, &key);
            Ok((secret, object?))
        })
    }
}

fn create(
    context: &mut Context,
    parent: KeyHandle,
    secret: &SealedSecret,
    (policy, auth): (PolicyDigest, Option<&AuthValue>),
    encrypt: bool,
) -> Result<SealedObject, TpmError> {
    let seal = "seal the secret";
    let public = template(policy, auth.is_none()).map_err(during(seal))?;
    let auth = auth.map(|auth| Auth::try_from(auth.expose())).transpose().map_err(during(seal))?;
    let data = SensitiveData::try_from(secret.expose()).map_err(during(seal))?;
    let session = session::start(context, parent, SessionType::Hmac, encrypt)?;
    let created = context.execute_with_session(Some(session), |context| {
        context.create(parent, public, auth, Some(data), None, None)
    });
    match created {
        Ok(created) => {
            session::forget(context, session);
            let public = created.out_public.marshall().map_err(during(seal))?;
            Ok(SealedObject::new(created.out_private.value().to_vec(), public))
        }
        Err(error) => {
            session::abandon(context, session);
            Err(during(seal)(error))
        }
    }
}

fn template(policy: PolicyDigest, no_da: bool) -> Result<Public, tss_esapi::Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_no_da(no_da)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(Digest::try_from(policy.as_bytes())?)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}
