//! A token in words.

use std::fmt;

use super::{PinDerivation, SystemdTpm2};
use crate::measurement::pcr::join_pcrs;
use crate::policy::Assertion;

/// What must hold for a token to open, such as `signed PCRs 11 and PCRs 7 (sha256), with a PIN`.
pub struct Summary<'a>(pub(super) &'a SystemdTpm2);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(token) = self;
        let mut parts = vec![];
        for assertion in token
            .policies(&[])
            .into_iter()
            .next()
            .unwrap_or_default()
            .into_iter()
            .flat_map(|policy| policy.assertions)
        {
            let part = match assertion {
                Assertion::Authorize(authorization) => {
                    let pcrs = join_pcrs(&authorization.pcrs.pcrs);
                    format!("signed PCRs {pcrs} ({})", authorization.pcrs.bank)
                }
                Assertion::Stored(stored) => format!("pcrlock's NV index {:#x}", stored.index),
                Assertion::Pcr(selection) => {
                    format!("PCRs {} ({})", join_pcrs(&selection.pcrs), selection.bank)
                }
                Assertion::AuthValue => continue,
            };
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        match parts.as_slice() {
            [] if token.kind == super::Kind::Literal => f.write_str("no PCR")?,
            [] => f.write_str("a pcrlock policy")?,
            parts => f.write_str(&parts.join(" and "))?,
        }
        match token.pin {
            None => Ok(()),
            Some(PinDerivation::Argon2id { .. }) => f.write_str(", with a PIN (Argon2id)"),
            Some(_) => f.write_str(", with a PIN"),
        }?;
        if token.objects.iter().any(|object| object.seed().is_some()) {
            f.write_str(", sealed outside the TPM")?;
        }
        Ok(())
    }
}
