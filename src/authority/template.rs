//! A host's keys for the machines of a template: the one that approves and, while a rotation is not
//! finished, the one before it, by which machines that were not enrolled again still open.

use std::path::Path;

use super::error::AuthorityError;
use super::key_file::KeyFile;
use super::owner::Holder;
use super::store::{Store, of_another, read};
use crate::policy::{AuthorityKey, Signatures, SigningKey, VerifyingKeys};

/// The keys that sign for a template.
pub struct TemplateKeys {
    present: SigningKey,
    old: Option<SigningKey>,
    verifying: VerifyingKeys,
}

impl TemplateKeys {
    fn new(present: SigningKey, old: Option<SigningKey>) -> Self {
        let both = [Some(&present), old.as_ref()].into_iter().flatten();
        let public: Vec<&AuthorityKey> = both.map(SigningKey::public).collect();
        let verifying = VerifyingKeys::of(&public);
        Self { present, old, verifying }
    }

    /// The key that approves.
    pub fn present(&self) -> &SigningKey {
        &self.present
    }

    /// The key before it, while a rotation is not finished.
    pub fn old(&self) -> Option<&SigningKey> {
        self.old.as_ref()
    }

    /// Both, the present one first.
    pub fn all(&self) -> impl Iterator<Item = &SigningKey> {
        [Some(&self.present), self.old.as_ref()].into_iter().flatten()
    }

    /// Those of `signatures` that one of the keys made, and that verify.
    pub fn verified(&self, signatures: &Signatures) -> Signatures {
        self.verifying.verified(signatures)
    }

    /// The present key alone.
    #[must_use]
    pub fn without_old(self) -> Self {
        Self::new(self.present, None)
    }
}

impl Store {
    /// The keys of the template of this name, and of no other.
    ///
    /// # Errors
    /// Those of [`Store::read`], and [`AuthorityError::OfAnother`]; of the key before too: machines may
    /// open by it alone, so that it is not passed over.
    pub fn keys_of(&self, name: &str) -> Result<TemplateKeys, AuthorityError> {
        let present = self.of(name)?;
        let old_path = self.old_path();
        let old = match read(&old_path, true) {
            Err(AuthorityError::Missing { .. }) => None,
            old => Some(self.require_of(name, &old_path, old?)?.key),
        };
        // After a rotation that was cut short it is the present one.
        let old = old.filter(|old| old.public() != present.public());
        Ok(TemplateKeys::new(present, old))
    }

    /// The public half of a template's key, where another may take its place now.
    ///
    /// # Errors
    /// Those of [`Store::rotate_template`] but of writing.
    pub fn rotatable(&self, name: &str) -> Result<AuthorityKey, AuthorityError> {
        // One that others could read is all the more to be replaced.
        let present = self.require_of(name, self.path(), read(self.path(), false)?)?;
        self.require_finished(&present)?;
        Ok(present.key.public().clone())
    }

    /// Puts `key` in the place of a template's key, which stays beside it: machines open by it until
    /// they are enrolled again. Returns its public half.
    ///
    /// # Errors
    /// [`AuthorityError::Unfinished`] while a key before the present one is kept: machines may open by
    /// that one alone. [`AuthorityError::OfAnother`], and those of reading and writing.
    pub fn rotate_template(
        &self,
        name: &str,
        key: &SigningKey,
    ) -> Result<AuthorityKey, AuthorityError> {
        let _lock = self.lock()?;
        let old = self.rotatable(name)?;
        self.replace(true, &KeyFile::to_text(&Holder::Template(name.to_owned()), key)?)?;
        Ok(old)
    }

    /// The file, which must be of the template of this name.
    pub(super) fn require_of(
        &self,
        name: &str,
        path: &Path,
        file: KeyFile,
    ) -> Result<KeyFile, AuthorityError> {
        match &file.holder {
            Holder::Template(of) if of == name => Ok(file),
            found => {
                let expected = Holder::Template(name.to_owned()).to_string();
                Err(of_another(path, expected, found))
            }
        }
    }
}
