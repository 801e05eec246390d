//! Signatures of the journal's lines, by the machine's own key.

use serde_json::{Value, json};

use super::{Holder, Owner, Store};
use crate::policy::{AuthorityKey, SigningKey, is_signed_by};
use crate::reseal::{Line, Signature};

impl Store {
    /// The key that signs the journal of this machine; none where it is not there, or is another
    /// machine's by its ID. The TPM is not asked: a line may be due when there is none.
    pub fn scribe(&self) -> Option<SigningKey> {
        let file = self.read().ok()?;
        let machine = Owner::of_machine(self.root(), None).ok()?;
        match &file.holder {
            Holder::Machine(owner) if owner.machine_id() == machine.machine_id() => Some(file.key),
            _ => None,
        }
    }
}

/// Signs what a line says.
pub fn sign_line(key: &SigningKey, message: &[u8]) -> Option<Signature> {
    let bytes = key.sign_message(message).ok()?;
    Some(Signature { pkfp: key.public().fingerprint().to_string(), bytes })
}

/// What a line says of a key that was replaced: by it, earlier lines are checked ever after.
pub fn replaced(old: &AuthorityKey) -> Value {
    json!({ "pkfp": old.fingerprint().to_string(), "pem": old.pem() })
}

/// Keys whose signatures in a journal are believed.
pub struct Scribes(Vec<AuthorityKey>);

impl Scribes {
    /// Those of `store`, and every one before them that `lines` tell of: each line that names a
    /// replaced key is signed by the key that came after it.
    pub fn of(store: &Store, lines: &[Line]) -> Self {
        let own = store.read().ok().map(|file| file.key.public().clone());
        let mut scribes = Self(own.into_iter().chain(store.old()).collect());
        for line in lines.iter().rev() {
            let Some(old) = line.body.get("replaced") else { continue };
            let pem = old.get("pem").and_then(Value::as_str).unwrap_or_default();
            let Ok(key) = AuthorityKey::from_pem(pem.as_bytes()) else { continue };
            let signed = line.signature.as_ref();
            let is_believed =
                signed.is_some_and(|signed| scribes.check(signed, &line.message()) == Some(true));
            if is_believed && !scribes.0.contains(&key) {
                scribes.0.push(key);
            }
        }
        scribes
    }

    /// Whether a signature is genuine; `None` where its key is not known.
    pub fn check(&self, signature: &Signature, message: &[u8]) -> Option<bool> {
        let key = self.0.iter().find(|key| key.fingerprint().to_string() == signature.pkfp)?;
        Some(is_signed_by(key, message, &signature.bytes))
    }
}
