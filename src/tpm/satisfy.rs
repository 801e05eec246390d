//! Bringing a policy session to a policy's digest, assertion by assertion.

use tss_esapi::Context;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind as Kind;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, Nonce, Public, PublicKeyRsa, RsaSignature, Signature, VerifiedTicket,
};
use tss_esapi::traits::UnMarshall;

use super::error::{TpmError, during, kind};
use super::pcr;
use crate::measurement::{PcrBank, PcrSelection};
use crate::policy::{Assertion, Authorization, Policy};

/// A policy session that did not get there.
pub(super) enum Unsatisfied {
    /// What the TPM answered, to be told from a PCR that was extended meanwhile.
    Library(tss_esapi::Error),
    /// What it means.
    Meaning(TpmError),
}

impl From<tss_esapi::Error> for Unsatisfied {
    fn from(error: tss_esapi::Error) -> Self {
        Self::Library(error)
    }
}

/// Asserts all of `policy`. An NV index's policy is not for this library: see
/// [`super::stored`].
pub(super) fn satisfy(
    context: &mut Context,
    session: AuthSession,
    policy: &Policy,
) -> Result<(), Unsatisfied> {
    let session = PolicySession::try_from(session)?;
    for assertion in &policy.assertions {
        match assertion {
            Assertion::Pcr(selection) => policy_pcr(context, session, selection)?,
            Assertion::Authorize(authorization) => authorize(context, session, authorization)?,
            Assertion::AuthValue => {
                context.execute_without_session(|context| context.policy_auth_value(session))?;
            }
            Assertion::Stored(stored) => {
                let index = stored.index;
                return Err(Unsatisfied::Meaning(TpmError::IndexGone { index }));
            }
        }
    }
    Ok(())
}

/// `TPM2_PolicyPCR` of the PCRs as they are: an empty digest asks for that, and the object compares
/// the outcome.
fn policy_pcr(
    context: &mut Context,
    session: PolicySession,
    selection: &PcrSelection,
) -> Result<(), tss_esapi::Error> {
    let pcrs = selection.pcrs.iter().copied().collect();
    let list = pcr::selection_list([(selection.bank, pcrs)])?;
    context.execute_without_session(|context| context.policy_pcr(session, Digest::default(), list))
}

/// `TPM2_PolicyPCR`, then `TPM2_PolicyAuthorize` with the first signature that verifies: among
/// several for the same PCR values one may be forged.
fn authorize(
    context: &mut Context,
    session: PolicySession,
    authorization: &Authorization,
) -> Result<(), Unsatisfied> {
    policy_pcr(context, session, &authorization.pcrs)?;
    let public = Public::unmarshall(&authorization.key.public())?;
    let key = context.execute_without_session(|context| {
        context.load_external_public(public, Hierarchy::Owner)
    })?;
    let authorized = authorize_by(context, session, key, authorization);
    let _ = context.flush_context(key.into());
    authorized
}

fn authorize_by(
    context: &mut Context,
    session: PolicySession,
    key: KeyHandle,
    authorization: &Authorization,
) -> Result<(), Unsatisfied> {
    let policy_ref = authorization.policy_ref_nonce();
    for (approved, signature) in &authorization.signatures {
        let message = PcrBank::Sha256.hash_parts(&[approved.as_bytes(), &policy_ref]);
        let Some(ticket) = verify(context, key, message.as_bytes(), signature)? else { continue };
        let name = context.tr_get_name(key.into())?;
        let approved = Digest::try_from(approved.as_bytes())?;
        let policy_ref = Nonce::try_from(policy_ref)?;
        return Ok(context.execute_without_session(|context| {
            context.policy_authorize(session, approved, policy_ref, &name, ticket)
        })?);
    }
    Err(Unsatisfied::Meaning(TpmError::BadSignature))
}

/// The TPM's word that `signature` is genuine; `None` where it is not.
fn verify(
    context: &mut Context,
    key: KeyHandle,
    message: &[u8],
    signature: &[u8],
) -> Result<Option<VerifiedTicket>, Unsatisfied> {
    let Ok(bytes) = PublicKeyRsa::try_from(signature) else { return Ok(None) };
    let signature = Signature::RsaSsa(RsaSignature::create(HashingAlgorithm::Sha256, bytes)?);
    let message = Digest::try_from(message)?;
    match context
        .execute_without_session(|context| context.verify_signature(key, message, signature))
    {
        Ok(ticket) => Ok(Some(ticket)),
        Err(error) if matches!(kind(&error), Some(Kind::Signature | Kind::Size | Kind::Value)) => {
            Ok(None)
        }
        Err(error) => Err(Unsatisfied::Meaning(during("verify a signature")(error))),
    }
}
