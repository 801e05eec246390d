//! Sessions that keep secrets off the channel to the TPM.

use tss_esapi::Context;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::SymmetricDefinition;

use super::error::{TpmError, during};

/// Starts a session salted with `key`, whose first parameters travel encrypted both ways
/// (AES-128-CFB, SHA-256: `tpm2_make_encryption_session`). It ends with the first command that
/// uses it, so that it needs no flush.
pub(super) fn start(
    context: &mut Context,
    key: KeyHandle,
    kind: SessionType,
    encrypt: bool,
) -> Result<AuthSession, TpmError> {
    let session = context
        .execute_without_session(|context| {
            context.start_auth_session(
                Some(key),
                None,
                None,
                kind,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
        })
        .map_err(during("start a session"))?
        .ok_or(TpmError::Response {
            during: "start a session",
            message: "it gave no session".into(),
        })?;
    let (attributes, mask) = SessionAttributesBuilder::new()
        .with_decrypt(encrypt)
        .with_encrypt(encrypt)
        .with_continue_session(false)
        .build();
    context
        .tr_sess_set_attributes(session, attributes, mask)
        .map_err(during("set up a session"))?;
    Ok(session)
}

/// Forgets a session that the TPM closed with its last command.
pub(super) fn forget(context: &mut Context, session: AuthSession) {
    let mut handle = SessionHandle::from(session).into();
    // The wrapper believes that the session is still to be flushed and would say so with a command.
    let _ = context.tr_close(&mut handle);
}

/// Flushes a session that did not come to its last command.
pub(super) fn abandon(context: &mut Context, session: AuthSession) {
    let _ = context.flush_context(SessionHandle::from(session).into());
}
