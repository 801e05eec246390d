//! The ESYS calls that an NV index's policy needs. tss-esapi 7.7 has no `TPM2_PolicyAuthorizeNV`, and
//! its own ESYS context is out of reach, so one is opened here for a whole unseal.

use std::ffi::CString;
use std::ptr::{null, null_mut};

use tss_esapi::constants::tss::{
    TPM2_ALG_AES, TPM2_ALG_CFB, TPM2_ALG_NULL, TPM2_ALG_SHA256, TPM2_SE_POLICY,
    TPMA_SESSION_CONTINUESESSION, TPMA_SESSION_DECRYPT, TPMA_SESSION_ENCRYPT,
};
use tss_esapi::tss2_esys::*;
use zeroize::{Zeroize, Zeroizing};

/// A response code that is not success.
pub(crate) type Rc = u32;

const NONE: ESYS_TR = ESYS_TR_NONE;
const PASSWORD: ESYS_TR = ESYS_TR_PASSWORD;
const OWNER: ESYS_TR = ESYS_TR_RH_OWNER;
/// What the library says to text with a NUL in it (`TSS2_BASE_RC_BAD_VALUE` of the TCTI layer).
const BAD_VALUE: Rc = 0x000a_000b;

/// A connection to a TPM.
pub(crate) struct Esys {
    context: *mut ESYS_CONTEXT,
    tcti: *mut TSS2_TCTI_CONTEXT,
}

/// A key, an object, an index or a session that the library knows.
#[derive(Clone, Copy)]
pub(crate) struct Handle(ESYS_TR);

impl Esys {
    /// Connects as `tcti` says, in tpm2-tss's notation.
    pub(crate) fn open(tcti: &str) -> Result<Self, Rc> {
        let name = CString::new(tcti).map_err(|_| BAD_VALUE)?;
        let mut esys = Self { context: null_mut(), tcti: null_mut() };
        // SAFETY: `name` is a C string that lives through the call; the out pointer is ours.
        check(unsafe { Tss2_TctiLdr_Initialize(name.as_ptr(), &mut esys.tcti) })?;
        // SAFETY: the TCTI context was just made, and outlives the ESYS context: see `drop`.
        check(unsafe { Esys_Initialize(&mut esys.context, esys.tcti, null_mut()) })?;
        Ok(esys)
    }

    /// An object that lives in the TPM under this handle, and its Name.
    pub(crate) fn find(&mut self, tpm_handle: u32) -> Result<(Handle, Vec<u8>), Rc> {
        let mut handle = NONE;
        // SAFETY: the context is live, the out pointer is ours.
        check(unsafe {
            Esys_TR_FromTPMPublic(self.context, tpm_handle, NONE, NONE, NONE, &mut handle)
        })?;
        let mut name = null_mut();
        // SAFETY: as above; `handle` was just given by this context.
        check(unsafe { Esys_TR_GetName(self.context, handle, &mut name) })?;
        // SAFETY: on success `name` points to a structure that the library allocated for us.
        let found = unsafe { *name };
        free(name);
        let name = found.name.get(..found.size.into()).unwrap_or_default().to_vec();
        Ok((Handle(handle), name))
    }

    /// `TPM2_Import`, with the parent's empty password and without an inner wrapper.
    pub(crate) fn import(
        &mut self,
        parent: Handle,
        (duplicate, public): (&TPM2B_PRIVATE, &TPM2B_PUBLIC),
        seed: &TPM2B_ENCRYPTED_SECRET,
    ) -> Result<TPM2B_PRIVATE, Rc> {
        let no_wrapper = TPMT_SYM_DEF_OBJECT { algorithm: TPM2_ALG_NULL, ..Default::default() };
        let mut out = null_mut();
        // SAFETY: the context is live, the structures are of the library's own types and live
        // through the call, the out pointer is ours.
        check(unsafe {
            Esys_Import(
                self.context,
                parent.0,
                PASSWORD,
                NONE,
                NONE,
                null(),
                public,
                duplicate,
                seed,
                &no_wrapper,
                &mut out,
            )
        })?;
        // SAFETY: on success `out` points to a structure that the library allocated for us.
        let private = unsafe { *out };
        free(out);
        Ok(private)
    }

    /// `TPM2_Load`, with the parent's empty password.
    pub(crate) fn load(
        &mut self,
        parent: Handle,
        private: &TPM2B_PRIVATE,
        public: &TPM2B_PUBLIC,
    ) -> Result<Handle, Rc> {
        let mut handle = NONE;
        // SAFETY: the context is live, the structures are of the library's own types and live
        // through the call, the out pointer is ours.
        check(unsafe {
            Esys_Load(self.context, parent.0, PASSWORD, NONE, NONE, private, public, &mut handle)
        })?;
        Ok(Handle(handle))
    }

    /// Tells the library an object's authorization value.
    pub(crate) fn set_auth(&mut self, object: Handle, auth: &[u8]) -> Result<(), Rc> {
        let mut value = digest(auth)?;
        // SAFETY: the context is live and copies the value.
        let told = check(unsafe { Esys_TR_SetAuth(self.context, object.0, &value) });
        value.buffer.zeroize();
        told
    }

    /// A policy session with SHA-256, salted with `key`, that encrypts parameters both ways with
    /// AES-128-CFB. It ends with the command that it authorizes.
    pub(crate) fn start_policy(&mut self, key: Handle) -> Result<Handle, Rc> {
        let symmetric = TPMT_SYM_DEF {
            algorithm: TPM2_ALG_AES,
            keyBits: TPMU_SYM_KEY_BITS { aes: 128 },
            mode: TPMU_SYM_MODE { aes: TPM2_ALG_CFB },
        };
        let mut session = NONE;
        // SAFETY: the context is live, no caller nonce is given, the out pointer is ours.
        check(unsafe {
            Esys_StartAuthSession(
                self.context,
                key.0,
                NONE,
                NONE,
                NONE,
                NONE,
                null(),
                TPM2_SE_POLICY,
                &symmetric,
                TPM2_ALG_SHA256,
                &mut session,
            )
        })?;
        let flags = (TPMA_SESSION_DECRYPT | TPMA_SESSION_ENCRYPT) as TPMA_SESSION;
        let mask = flags | TPMA_SESSION_CONTINUESESSION as TPMA_SESSION;
        // SAFETY: the session was just given by this context.
        check(unsafe { Esys_TRSess_SetAttributes(self.context, session, flags, mask) })?;
        Ok(Handle(session))
    }

    /// `TPM2_PolicyPCR` of the PCRs as they are.
    pub(crate) fn policy_pcr(
        &mut self,
        session: Handle,
        pcrs: &TPML_PCR_SELECTION,
    ) -> Result<(), Rc> {
        let any = TPM2B_DIGEST::default();
        // SAFETY: the context is live, the structures live through the call.
        check(unsafe { Esys_PolicyPCR(self.context, session.0, NONE, NONE, NONE, &any, pcrs) })
    }

    /// `TPM2_PolicyOR` of up to eight digests.
    pub(crate) fn policy_or(&mut self, session: Handle, digests: &[&[u8]]) -> Result<(), Rc> {
        let mut list = TPML_DIGEST::default();
        for (slot, bytes) in list.digests.iter_mut().zip(digests) {
            *slot = digest(bytes)?;
            list.count += 1;
        }
        // SAFETY: the context is live, the list lives through the call.
        check(unsafe { Esys_PolicyOR(self.context, session.0, NONE, NONE, NONE, &list) })
    }

    /// `TPM2_PolicyAuthorizeNV`, with the owner's empty password.
    pub(crate) fn policy_authorize_nv(&mut self, session: Handle, index: Handle) -> Result<(), Rc> {
        // SAFETY: the context is live, the handles were given by it.
        check(unsafe {
            Esys_PolicyAuthorizeNV(self.context, OWNER, index.0, session.0, PASSWORD, NONE, NONE)
        })
    }

    /// `TPM2_PolicyAuthValue`.
    pub(crate) fn policy_auth_value(&mut self, session: Handle) -> Result<(), Rc> {
        // SAFETY: the context is live, the session was given by it.
        check(unsafe { Esys_PolicyAuthValue(self.context, session.0, NONE, NONE, NONE) })
    }

    /// `TPM2_Unseal`, authorized by the session, which ends when that succeeds.
    pub(crate) fn unseal(
        &mut self,
        object: Handle,
        session: Handle,
    ) -> Result<Zeroizing<Vec<u8>>, Rc> {
        let mut out = null_mut();
        // SAFETY: the context is live, the handles were given by it, the out pointer is ours.
        check(unsafe { Esys_Unseal(self.context, object.0, session.0, NONE, NONE, &mut out) })?;
        // SAFETY: on success `out` points to a structure that the library allocated for us, and
        // that nobody else sees.
        let data = unsafe { &mut *out };
        let length = usize::from(data.size);
        let secret = Zeroizing::new(data.buffer.get(..length).unwrap_or_default().to_vec());
        data.buffer.zeroize();
        free(out);
        Ok(secret)
    }

    /// `TPM2_FlushContext`.
    pub(crate) fn flush(&mut self, handle: Handle) {
        // SAFETY: the context is live; a handle that is gone already is an error, not a fault.
        let _ = unsafe { Esys_FlushContext(self.context, handle.0) };
    }
}

impl Drop for Esys {
    fn drop(&mut self) {
        // SAFETY: each is null or live and given up here, the ESYS context before its TCTI. Both
        // calls leave null where they were given null.
        unsafe {
            if !self.context.is_null() {
                Esys_Finalize(&mut self.context);
            }
            if !self.tcti.is_null() {
                Tss2_TctiLdr_Finalize(&mut self.tcti);
            }
        }
    }
}

fn check(rc: Rc) -> Result<(), Rc> {
    if rc == 0 { Ok(()) } else { Err(rc) }
}

fn digest(bytes: &[u8]) -> Result<TPM2B_DIGEST, Rc> {
    let mut out = TPM2B_DIGEST::default();
    out.buffer.get_mut(..bytes.len()).ok_or(BAD_VALUE)?.copy_from_slice(bytes);
    out.size = u16::try_from(bytes.len()).map_err(|_| BAD_VALUE)?;
    Ok(out)
}

/// Gives back what the library allocated.
fn free<T>(pointer: *mut T) {
    // SAFETY: only called with pointers that an ESYS call returned with success, once each.
    unsafe { Esys_Free(pointer.cast()) };
}
