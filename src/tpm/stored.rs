//! Unsealing under a policy that an NV index approves (systemd-pcrlock), through [`crate::ffi::esys`].

use std::sync::Arc;

use tss_esapi::structures::{EncryptedSecret, Private, Public};
use tss_esapi::traits::UnMarshall;
use tss_esapi::tss2_esys::{TPM2B_ENCRYPTED_SECRET, TPM2B_PRIVATE, TPM2B_PUBLIC};

use super::error::TpmError;
use super::{StorageKey, Tpm, pcr};
use crate::ffi::esys::{Esys, Handle, Rc};
use crate::measurement::PcrSelection;
use crate::policy::{Assertion, Policy, PolicyDigest, Step, StoredPolicy};
use crate::secret::{AuthValue, SealedSecret};
use crate::token::SealedObject;

/// Tries when somebody extends a PCR between the policy and the unseal, as systemd.
const PCR_CHANGED_TRIES: usize = 30;

// Response codes (part 2, 6.6.3), those of format one without their parameter, handle or session.
const RC_FORMAT_ONE: Rc = 0x080;
const RC_VALUE: Rc = 0x084;
const RC_HANDLE: Rc = 0x08b;
const RC_AUTH_FAIL: Rc = 0x08e;
const RC_SIZE: Rc = 0x095;
const RC_POLICY_FAIL: Rc = 0x09d;
const RC_INTEGRITY: Rc = 0x09f;
const RC_BAD_AUTH: Rc = 0x0a2;
const RC_PCR_CHANGED: Rc = 0x128;
const RC_NV_UNINITIALIZED: Rc = 0x14a;
const RC_LOCKOUT: Rc = 0x921;

impl Tpm {
    /// [`Tpm::unseal`] for a policy with [`Assertion::Stored`].
    pub(super) fn unseal_stored(
        &self,
        parent: &StorageKey,
        object: &SealedObject,
        policy: &Policy,
        auth: Option<Arc<AuthValue>>,
    ) -> Result<SealedSecret, TpmError> {
        let (parent, object, policy) = (parent.clone(), object.clone(), policy.clone());
        self.run_esys(move |esys| {
            let parent = open_parent(esys, &parent)?;
            let loaded = load(esys, parent, &object)?;
            let secret = release(esys, parent, loaded, &policy, auth.as_deref());
            esys.flush(loaded);
            secret
        })
    }
}

fn open_parent(esys: &mut Esys, parent: &StorageKey) -> Result<Handle, TpmError> {
    // systemd had storage root keys before it had pcrlock.
    let StorageKey::Persistent { handle, name } = parent else { return Err(TpmError::BadObject) };
    let (key, found) = esys.find(*handle).map_err(|rc| match base(rc) {
        RC_HANDLE => TpmError::NoSrk,
        _ => during("read the storage root key")(rc),
    })?;
    match name {
        Some(expected) if *expected != found => Err(TpmError::Foreign),
        _ => Ok(key),
    }
}

fn load(esys: &mut Esys, parent: Handle, object: &SealedObject) -> Result<Handle, TpmError> {
    let bad = |_| TpmError::BadObject;
    let private = Private::try_from(object.private()).map_err(bad)?;
    let public = Public::unmarshall(object.public()).map_err(bad)?;
    let public = TPM2B_PUBLIC::try_from(public).map_err(bad)?;
    let mut private = TPM2B_PRIVATE::from(private);
    let not_own = |rc| match base(rc) {
        RC_INTEGRITY => TpmError::Foreign,
        RC_VALUE | RC_SIZE => TpmError::BadObject,
        _ => during("load the sealed object")(rc),
    };
    if let Some(seed) = object.seed() {
        let seed = EncryptedSecret::try_from(seed).map_err(bad)?;
        let seed = TPM2B_ENCRYPTED_SECRET::from(seed);
        private = esys.import(parent, (&private, &public), &seed).map_err(not_own)?;
    }
    esys.load(parent, &private, &public).map_err(not_own)
}

fn release(
    esys: &mut Esys,
    parent: Handle,
    object: Handle,
    policy: &Policy,
    auth: Option<&AuthValue>,
) -> Result<SealedSecret, TpmError> {
    if let Some(auth) = auth {
        esys.set_auth(object, auth.expose()).map_err(during("take the PIN"))?;
    }
    for _ in 0..PCR_CHANGED_TRIES {
        let session = esys.start_policy(parent).map_err(during("start a session"))?;
        let unsealed = satisfy(esys, session, policy)
            .and_then(|()| esys.unseal(object, session).map_err(Unsatisfied::Rc));
        match unsealed {
            Ok(mut data) => {
                return Ok(SealedSecret::from_unsealed(std::mem::take(&mut *data)));
            }
            Err(error) => {
                esys.flush(session);
                match error {
                    Unsatisfied::Meaning(error) => return Err(error),
                    Unsatisfied::Rc(RC_PCR_CHANGED) => {}
                    Unsatisfied::Rc(rc) if matches!(base(rc), RC_AUTH_FAIL | RC_BAD_AUTH) => {
                        return Err(TpmError::WrongPin);
                    }
                    Unsatisfied::Rc(rc) => return Err(during("unseal")(rc)),
                }
            }
        }
    }
    Err(TpmError::PolicyFailed)
}

enum Unsatisfied {
    Rc(Rc),
    Meaning(TpmError),
}

impl From<Rc> for Unsatisfied {
    fn from(rc: Rc) -> Self {
        Self::Rc(rc)
    }
}

fn satisfy(esys: &mut Esys, session: Handle, policy: &Policy) -> Result<(), Unsatisfied> {
    for assertion in &policy.assertions {
        match assertion {
            Assertion::Pcr(selection) => policy_pcr(esys, session, selection)?,
            Assertion::Stored(stored) => policy_stored(esys, session, stored)?,
            Assertion::AuthValue => esys.policy_auth_value(session)?,
            // systemd gives each of the two a shard of its own.
            Assertion::Authorize(_) => return Err(Unsatisfied::Meaning(TpmError::BadObject)),
        }
    }
    Ok(())
}

fn policy_pcr(
    esys: &mut Esys,
    session: Handle,
    selection: &PcrSelection,
) -> Result<(), Unsatisfied> {
    let pcrs = selection.pcrs.iter().copied().collect();
    let list = pcr::selection_list([(selection.bank, pcrs)])
        .map_err(|error| Unsatisfied::Meaning(super::error::during("select PCRs")(error)))?;
    Ok(esys.policy_pcr(session, &list.into())?)
}

/// The steps, then the index's approval. The index is looked at first: one that is gone, or is
/// another, approves nothing.
fn policy_stored(
    esys: &mut Esys,
    session: Handle,
    stored: &StoredPolicy,
) -> Result<(), Unsatisfied> {
    let index = stored.index;
    let gone = || Unsatisfied::Meaning(TpmError::IndexGone { index });
    let handle = match esys.find(index) {
        Ok((handle, name)) if name == stored.name => handle,
        Ok(_) => return Err(gone()),
        Err(rc) if base(rc) == RC_HANDLE => return Err(gone()),
        Err(rc) => return Err(rc.into()),
    };
    for step in &stored.steps {
        match step {
            Step::Pcr(selection) => policy_pcr(esys, session, selection)?,
            Step::Or(branches) => {
                let branches: Vec<_> = branches.iter().map(PolicyDigest::as_bytes).collect();
                esys.policy_or(session, &branches)?;
            }
        }
    }
    esys.policy_authorize_nv(session, handle).map_err(|rc| match base(rc) {
        RC_VALUE | RC_POLICY_FAIL | RC_NV_UNINITIALIZED => {
            Unsatisfied::Meaning(TpmError::IndexDiffers { index })
        }
        RC_AUTH_FAIL | RC_BAD_AUTH => Unsatisfied::Meaning(TpmError::AuthRequired),
        _ => rc.into(),
    })
}

/// The code without what it says of parameters, handles and sessions.
fn base(rc: Rc) -> Rc {
    if rc & RC_FORMAT_ONE == 0 { rc & 0xfff } else { rc & 0x0bf }
}

/// Turns a response code into our error; `during` completes "the TPM failed to …".
pub(super) fn during(during: &'static str) -> impl Fn(Rc) -> TpmError {
    move |rc| match base(rc) {
        RC_LOCKOUT => TpmError::Lockout,
        RC_POLICY_FAIL | RC_VALUE => TpmError::PolicyFailed,
        _ => TpmError::Response { during, message: format!("response code {rc:#x}") },
    }
}
