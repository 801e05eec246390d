//! The storage root key that sealed objects hang under.

use tss_esapi::Context;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::{Hierarchy, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    EccPoint, Public, PublicBuilder, PublicEccParametersBuilder, PublicKeyRsa,
    PublicRsaParametersBuilder, RsaExponent, SymmetricDefinitionObject,
};
use tss_esapi::traits::Marshall;

use super::error::{TpmError, during, kind};
use super::{Tpm, unseal};
use crate::token::SealedObject;

/// Where the storage root key lives (TCG TPM v2.0 Provisioning Guidance, 7.8).
pub const SRK_HANDLE: u32 = 0x8100_0001;

/// A persistent storage key as a token remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrkPublic {
    /// Its handle, [`SRK_HANDLE`] unless somebody chose another.
    pub handle: u32,
    /// Its Name: algorithm identifier and digest of the public area.
    pub name: Vec<u8>,
    /// Its public area, a marshalled `TPMT_PUBLIC`.
    pub public: Vec<u8>,
}

/// Algorithm of a primary key that is derived anew for each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrimaryAlgorithm {
    /// ECC, curve NIST P-256.
    Ecc,
    /// RSA of 2048 bits.
    Rsa,
}

/// The parent of a sealed object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageKey {
    /// A persistent key (systemd 254 and later). The Name is checked where one is known.
    Persistent {
        /// Its handle.
        handle: u32,
        /// The Name it must have.
        name: Option<Vec<u8>>,
    },
    /// systemd's primary of before 254, made for the occasion (`tpm2_get_legacy_template`).
    Legacy(PrimaryAlgorithm),
}

impl Tpm {
    /// The key at [`SRK_HANDLE`], created there as systemd does when it is missing
    /// (`tpm2_get_or_create_srk`). `None` where `create` is false and there is none.
    ///
    /// # Errors
    /// [`TpmError::AuthRequired`] when the owner hierarchy has a password.
    pub fn srk(&self, create: bool) -> Result<Option<SrkPublic>, TpmError> {
        self.run(move |context| {
            if let Some(found) = read_srk(context)? {
                return Ok(Some(found));
            }
            if create {
                create_srk(context)?;
                return read_srk(context);
            }
            Ok(None)
        })
    }

    /// Whether `object` was sealed by this TPM under `key`. Asks for no release.
    ///
    /// # Errors
    /// [`TpmError::NoSrk`] or [`TpmError::Foreign`] when not.
    pub fn check_is_own(&self, key: &StorageKey, object: &SealedObject) -> Result<(), TpmError> {
        let (key, object) = (key.clone(), object.clone());
        self.run(move |context| {
            let open = open(context, &key)?;
            // A Name settles it. A derived key exists on every TPM: only loading tells.
            let own = match key {
                StorageKey::Persistent { name: Some(_), .. } => Ok(()),
                _ => unseal::try_load(context, open.handle, &object),
            };
            release(context, &open);
            own
        })
    }
}

/// A storage key ready for use, to be given back with [`release`].
pub(super) struct OpenKey {
    pub(super) handle: KeyHandle,
    transient: bool,
}

/// Opens the parent of an object in one command.
pub(super) fn open(context: &mut Context, key: &StorageKey) -> Result<OpenKey, TpmError> {
    match key {
        StorageKey::Persistent { handle, name } => {
            let handle = open_persistent(context, *handle, name.as_deref())?;
            Ok(OpenKey { handle, transient: false })
        }
        StorageKey::Legacy(algorithm) => {
            let public = template(*algorithm, false)?;
            let handle = create_primary(context, public)?;
            Ok(OpenKey { handle, transient: true })
        }
    }
}

/// Frees a transient key's memory in the TPM.
pub(super) fn release(context: &mut Context, key: &OpenKey) {
    if key.transient {
        let _ = context.flush_context(key.handle.into());
    }
}

fn open_persistent(
    context: &mut Context,
    handle: u32,
    name: Option<&[u8]>,
) -> Result<KeyHandle, TpmError> {
    let persistent =
        PersistentTpmHandle::new(handle).map_err(during("use the storage key's handle"))?;
    let object = context
        .execute_without_session(|context| {
            context.tr_from_tpm_public(TpmHandle::Persistent(persistent))
        })
        .map_err(|error| match kind(&error) {
            Some(Kind::Handle) => TpmError::NoSrk,
            _ => during("read the storage root key")(error),
        })?;
    let found = context.tr_get_name(object).map_err(during("read the storage root key"))?;
    match name {
        Some(expected) if expected != found.value() => Err(TpmError::Foreign),
        _ => Ok(object.into()),
    }
}

fn read_srk(context: &mut Context) -> Result<Option<SrkPublic>, TpmError> {
    let handle = match open_persistent(context, SRK_HANDLE, None) {
        Err(TpmError::NoSrk) => return Ok(None),
        other => other?,
    };
    let read = "read the storage root key";
    let (public, name, _) = context
        .execute_without_session(|context| context.read_public(handle))
        .map_err(during(read))?;
    let public = public.marshall().map_err(during(read))?;
    Ok(Some(SrkPublic { handle: SRK_HANDLE, name: name.value().to_vec(), public }))
}

fn create_srk(context: &mut Context) -> Result<(), TpmError> {
    let key = match create_primary(context, template(PrimaryAlgorithm::Ecc, true)?) {
        // A TPM without P-256 still has RSA.
        Err(TpmError::Response { .. }) => {
            create_primary(context, template(PrimaryAlgorithm::Rsa, true)?)?
        }
        other => other?,
    };
    let store = "store the storage root key";
    let persistent = PersistentTpmHandle::new(SRK_HANDLE).map_err(during(store))?;
    let stored = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.evict_control(
            Provision::Owner,
            ObjectHandle::from(key),
            Persistent::Persistent(persistent),
        )
    });
    let _ = context.flush_context(key.into());
    stored.map(|_| ()).map_err(during(store))
}

fn create_primary(context: &mut Context, public: Public) -> Result<KeyHandle, TpmError> {
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(Hierarchy::Owner, public, None, None, None, None)
        })
        .map(|result| result.key_handle)
        .map_err(during("derive its storage key"))
}

/// systemd's templates (`tpm2_get_best_srk_template`, `tpm2_get_legacy_template`): they differ in
/// noDA, and both leave `unique` empty, unlike the TCG's.
fn template(algorithm: PrimaryAlgorithm, no_da: bool) -> Result<Public, TpmError> {
    let make = "describe a storage key";
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(no_da)
        .with_restricted(true)
        .with_decrypt(true)
        .build()
        .map_err(during(make))?;
    let builder = PublicBuilder::new()
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes);
    let symmetric = SymmetricDefinitionObject::AES_128_CFB;
    match algorithm {
        PrimaryAlgorithm::Ecc => {
            PublicEccParametersBuilder::new_restricted_decryption_key(symmetric, EccCurve::NistP256)
                .build()
                .and_then(|parameters| {
                    builder
                        .with_public_algorithm(PublicAlgorithm::Ecc)
                        .with_ecc_parameters(parameters)
                        .with_ecc_unique_identifier(EccPoint::default())
                        .build()
                })
        }
        PrimaryAlgorithm::Rsa => PublicRsaParametersBuilder::new_restricted_decryption_key(
            symmetric,
            RsaKeyBits::Rsa2048,
            RsaExponent::default(),
        )
        .build()
        .and_then(|parameters| {
            builder
                .with_public_algorithm(PublicAlgorithm::Rsa)
                .with_rsa_parameters(parameters)
                .with_rsa_unique_identifier(PublicKeyRsa::default())
                .build()
        }),
    }
    .map_err(during(make))
}
