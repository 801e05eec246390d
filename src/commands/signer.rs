//! Whose signatures a volume opens for, with `--policy authority`: this machine's own, or those of
//! somebody whose public key was given.

use std::fs::File;
use std::io::Read;

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::authority::{AuthorityError, Holder, Store, leave_signatures};
use vmseal::enroll::Plan;
use vmseal::luks::Metadata;
use vmseal::policy::{AuthorityKey, Signatures, SigningKey, verified};
use vmseal::token::Record;
use vmseal::tpm::Tpm;

use super::carriers::retire_old_key;
use super::terminal::Talk;
use super::{authority, inputs};
use crate::cli::{Enroll, Global, PolicyMode};

/// Whose signatures the volume is to open for.
pub enum Signer {
    /// Those of the holder of this key.
    Given(AuthorityKey),
    /// This machine's own.
    Own(Box<Own>),
}

/// This machine's own key.
pub struct Own {
    store: Store,
    key: SigningKey,
    old: Option<AuthorityKey>,
    /// Whether it is made in this run, and not written before the volume is open.
    is_new: bool,
}

impl Signer {
    /// The key that the arguments ask for; `None` with literal PCR values, with the reason where it is
    /// not what was asked for. A key of its own that the machine lacks is made, and not written yet.
    ///
    /// # Errors
    /// [`Error::AuthorityKey`], [`Error::Authority`].
    pub fn of(
        global: &Global,
        args: &Enroll,
        tpm: &Tpm,
    ) -> Result<(Option<Self>, Option<Error>), Error> {
        if args.policy == Some(PolicyMode::Pcr) {
            return Ok((None, None));
        }
        if args.authority_public.is_some() {
            return given(args).map(|key| (key.map(Self::Given), None));
        }
        let store = authority::store(global, args.authority_key.as_deref());
        let is_asked_for = args.policy.is_some() || args.authority_key.is_some();
        if !is_asked_for && !inputs::is_of_system(global, &args.volume.device) {
            return Ok((None, None));
        }
        let own = match store.read() {
            Err(AuthorityError::Missing { .. }) if !is_asked_for => {
                let place = store.require_protected().map_err(Error::from);
                if let Err(error) = place.and_then(|()| authority::owner(global, tpm, false)) {
                    return Ok((None, Some(error)));
                }
                let key = SigningKey::generate().map_err(AuthorityError::from)?;
                Own { store, key, old: None, is_new: true }
            }
            Err(AuthorityError::Missing { .. }) => {
                store.require_protected()?;
                // Whatever refuses must do so before a passphrase is asked for.
                authority::owner(global, tpm, false)?;
                let key = SigningKey::generate().map_err(AuthorityError::from)?;
                Own { store, key, old: None, is_new: true }
            }
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let key = store.own(&authority::owner(global, tpm, false)?)?;
                let old = store.old();
                Own { store, key, old, is_new: false }
            }
        };
        Ok((Some(Self::Own(Box::new(own))), None))
    }

    /// The public half.
    pub fn public(&self) -> &AuthorityKey {
        match self {
            Self::Given(key) => key,
            Self::Own(own) => own.key.public(),
        }
    }

    /// This machine's own key, where it is that.
    pub fn own(&self) -> Option<&Own> {
        match self {
            Self::Given(_) => None,
            Self::Own(own) => Some(own),
        }
    }
}

impl Own {
    /// Writes a new key, before anything is sealed to it.
    ///
    /// # Errors
    /// [`AuthorityError::Exists`] where another run was quicker; those of writing.
    pub fn write(&self, global: &Global, tpm: &Tpm, talk: Talk) -> Result<(), Error> {
        if !self.is_new {
            return Ok(());
        }
        let owner = authority::owner(global, tpm, true)?;
        self.store.init(&Holder::Machine(owner), &self.key)?;
        let path = self.store.path().display();
        talk.remark(format_args!(
            "made the authority key {path}, which approves this machine's boots"
        ));
        Ok(())
    }

    /// The signature of the planned boot, and those of boots that this key approved before, of which
    /// the header's record tells: what does not verify does not count.
    ///
    /// # Errors
    /// Those of signing.
    pub fn sign(&self, plan: &Plan, metadata: &Metadata) -> Result<Signatures, Error> {
        let mut signatures = match Record::find(&metadata.tokens()) {
            Some((_, Ok(record))) => verified(&record.signatures, &self.keys()),
            _ => Signatures::default(),
        };
        if let (Some(authorization), Some(digest)) = (plan.authorization(), plan.to_be_signed()) {
            let signed = self.key.sign(&authorization, digest).map_err(AuthorityError::from)?;
            signatures.merge(signed);
        }
        Ok(signatures)
    }

    /// The key whose place this one has taken, while volumes may carry it.
    pub fn old(&self) -> Option<&AuthorityKey> {
        self.old.as_ref()
    }

    /// After the enrolment: leaves the signatures in a file for others, and the old key goes where
    /// nothing needs it. The volume is sealed, whatever comes of this.
    pub fn finish(&self, global: &Global, args: &Enroll, signatures: &Signatures, talk: Talk) {
        match leave_signatures(&global.root, &self.keys(), signatures, &[]) {
            Ok(path) => talk.detail(format_args!("left the signatures in {}", path.display())),
            Err(error) => {
                talk.remark(format_args!("cannot leave the signatures in a file: {error}"));
            }
        }
        retire_old_key(global, &self.store, Some(&args.volume), talk);
    }

    /// What a dry run says of it.
    pub fn plan_prose(&self) -> Option<String> {
        let path = self.store.path().display();
        self.is_new.then(|| format!("the authority key {path} would be made first"))
    }

    /// What `--json` says of it.
    pub fn to_json(&self) -> Value {
        json!({ "path": self.store.path(), "made": self.is_new })
    }

    /// Whether the key is a throw-away one, as long as nothing is written.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    fn keys(&self) -> Vec<&AuthorityKey> {
        [self.key.public()].into_iter().chain(&self.old).collect()
    }
}

/// The key of which only the public half is at hand.
///
/// # Errors
/// [`Error::AuthorityKey`].
pub fn given(args: &Enroll) -> Result<Option<AuthorityKey>, Error> {
    let Some(path) = args.authority_public.as_deref() else { return Ok(None) };
    let refused = |cause: String| Error::AuthorityKey { path: path.to_owned(), cause };
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(AuthorityKey::MAX_PEM as u64 + 1).read_to_end(&mut pem))
        .map_err(|error| refused(error.to_string()))?;
    AuthorityKey::from_pem(&pem).map(Some).map_err(|error| refused(error.to_string()))
}
