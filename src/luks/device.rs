//! Changing the header on the disk: keyslots and tokens.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::{Value, json};

use super::error::LuksError;
use super::header::{self, HeaderCopy, slot_number};
use super::lock::MetadataLock;
use super::metadata::{Metadata, compact_length};
use crate::ffi::cryptsetup::{ANY, Context, Failure};
use crate::secret::{KeyslotPassphrase, VolumeKey};

/// How long a running cryptsetup is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Keyslots and tokens that a LUKS2 header can have, each.
const NUMBERS: u32 = 32;

/// A volume whose header is to be changed. Nobody else changes it as long as this lives, so that
/// what was checked first still holds when it is written.
pub struct Device {
    context: Context,
    metadata: Metadata,
    path: PathBuf,
    _lock: MetadataLock,
}

impl Device {
    /// Locks and loads the header on `device`, or the detached one in `header`. Nothing is written,
    /// not even to repair a damaged copy; the next change rewrites both.
    ///
    /// # Errors
    /// [`LuksError::Busy`] when another process keeps the lock for 5 seconds, and those of
    /// [`HeaderCopy::read`].
    pub fn open(device: &Path, header: Option<&Path>) -> Result<Self, LuksError> {
        let path = header.unwrap_or(device);
        let lock = MetadataLock::acquire(path, PATIENCE)?;
        // Tells a missing, foreign or damaged header apart, within bounds.
        drop(HeaderCopy::read(device, header)?);
        let context = Context::load(path, device).map_err(|failure| LuksError::HeaderDamaged {
            path: path.to_owned(),
            detail: failure.detail,
        })?;
        let metadata = Metadata::of(&context, path)?;
        Ok(Self { context, metadata, path: path.to_owned(), _lock: lock })
    }

    /// What the header says now.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Opens a keyslot, or any, and compares the key with the digest of the volume's data.
    ///
    /// # Errors
    /// As [`HeaderCopy::open_keyslot`].
    pub fn open_keyslot(
        &mut self,
        keyslot: Option<u32>,
        passphrase: &KeyslotPassphrase,
    ) -> Result<(u32, VolumeKey), LuksError> {
        header::open_keyslot(&mut self.context, &self.metadata, keyslot, passphrase)
    }

    /// Checks, before anything is written, that so many new keyslots and these new tokens will fit,
    /// where token `replaced` makes room for one of them. The tokens' own `keyslots` should have
    /// their final length.
    ///
    /// # Errors
    /// [`LuksError::NoFreeKeyslot`], [`LuksError::NoFreeToken`], [`LuksError::JsonAreaFull`].
    pub fn require_space(
        &self,
        keyslots: u32,
        tokens: &[Value],
        replaced: Option<u32>,
    ) -> Result<(), LuksError> {
        let count = |name| u32::try_from(self.metadata.objects(name).len()).unwrap_or(NUMBERS);
        let present = self.metadata.tokens();
        let replaced = replaced.and_then(|id| present.get(&id));
        let new_tokens = u32::try_from(tokens.len()).unwrap_or(NUMBERS);
        let new_areas = u64::from(keyslots);
        if count("keyslots").saturating_add(keyslots) > NUMBERS
            || (new_areas > 0 && self.metadata.free_keyslot_areas() < new_areas)
        {
            return Err(LuksError::NoFreeKeyslot);
        }
        let going = u32::from(replaced.is_some());
        if count("tokens").saturating_add(new_tokens).saturating_sub(going) > NUMBERS {
            return Err(LuksError::NoFreeToken);
        }
        // A number of two digits, its quotes, colon and comma.
        const ENTRY: u64 = 6;
        let tokens = tokens.iter().map(|token| ENTRY + compact_length(token)).sum::<u64>();
        let needed = tokens + new_areas * (ENTRY + KEYSLOT_IN_DIGEST + longest_keyslot());
        let room = replaced.map_or(0, |token| ENTRY + compact_length(token));
        let free = self.metadata.json_space().free() + room;
        if needed > free { Err(LuksError::JsonAreaFull { needed, free }) } else { Ok(()) }
    }

    /// Adds a keyslot at the first free number, with PBKDF2, SHA-512 and 1000 iterations: only for
    /// passphrases that carry their own entropy.
    ///
    /// # Errors
    /// [`LuksError::ForeignVolumeKey`], [`LuksError::NoFreeKeyslot`], [`LuksError::JsonAreaFull`].
    pub fn add_keyslot(
        &mut self,
        key: &VolumeKey,
        passphrase: &KeyslotPassphrase,
    ) -> Result<u32, LuksError> {
        self.require_space(1, &[], None)?;
        let added = self.context.add_keyslot(key, passphrase);
        let added = added.map_err(|failure| match Errno::from_raw_os_error(failure.errno) {
            Errno::PERM => LuksError::ForeignVolumeKey,
            _ => self.failed("add a keyslot", failure),
        })?;
        self.reload()?;
        Ok(u32::try_from(added).unwrap_or_default())
    }

    /// Overwrites a keyslot and removes it. Tokens lose their reference to it and stay.
    ///
    /// # Errors
    /// [`LuksError::NoSuchKeyslot`].
    pub fn remove_keyslot(&mut self, keyslot: u32) -> Result<(), LuksError> {
        if !self.metadata.objects("keyslots").contains_key(&keyslot) {
            return Err(LuksError::NoSuchKeyslot { keyslot });
        }
        let number = slot_number(Some(keyslot))?;
        let removed = self.context.destroy_keyslot(number);
        removed.map_err(|failure| self.failed("remove a keyslot", failure))?;
        self.reload()
    }

    /// Writes a token at the first free number.
    ///
    /// # Errors
    /// [`LuksError::NoFreeToken`], [`LuksError::JsonAreaFull`], [`LuksError::InvalidToken`].
    pub fn add_token(&mut self, token: &Value) -> Result<u32, LuksError> {
        self.require_space(0, std::slice::from_ref(token), None)?;
        self.set_token(ANY, Some(token))
    }

    /// Writes a token over the one at `id`.
    ///
    /// # Errors
    /// [`LuksError::NoSuchToken`], [`LuksError::JsonAreaFull`], [`LuksError::InvalidToken`].
    pub fn replace_token(&mut self, id: u32, token: &Value) -> Result<(), LuksError> {
        let tokens = self.metadata.tokens();
        let old = tokens.get(&id).ok_or(LuksError::NoSuchToken { token: id })?;
        let needed = compact_length(token);
        let free = self.metadata.json_space().free().saturating_add(compact_length(old));
        if needed > free {
            return Err(LuksError::JsonAreaFull { needed, free });
        }
        self.set_token(token_number(id)?, Some(token)).map(|_| ())
    }

    /// Removes a token; its keyslots stay.
    ///
    /// # Errors
    /// [`LuksError::NoSuchToken`].
    pub fn remove_token(&mut self, id: u32) -> Result<(), LuksError> {
        if !self.metadata.objects("tokens").contains_key(&id) {
            return Err(LuksError::NoSuchToken { token: id });
        }
        self.set_token(token_number(id)?, None).map(|_| ())
    }

    fn set_token(&mut self, id: i32, token: Option<&Value>) -> Result<u32, LuksError> {
        let json = token.map(Value::to_string);
        let written = self.context.set_token(id, json.as_deref());
        let written = written.map_err(|failure| match Errno::from_raw_os_error(failure.errno) {
            Errno::INVAL if token.is_some() => LuksError::InvalidToken,
            _ => self.failed("write a token", failure),
        })?;
        self.reload()?;
        Ok(u32::try_from(written).unwrap_or_default())
    }

    fn failed(&self, operation: &'static str, failure: Failure) -> LuksError {
        match Errno::from_raw_os_error(failure.errno) {
            Errno::BUSY => LuksError::Busy { path: self.path.clone() },
            _ => LuksError::library(operation, failure),
        }
    }

    fn reload(&mut self) -> Result<(), LuksError> {
        self.metadata = Metadata::of(&self.context, &self.path)?;
        Ok(())
    }
}

fn token_number(token: u32) -> Result<i32, LuksError> {
    i32::try_from(token).map_err(|_| LuksError::NoSuchToken { token })
}

/// `"31",` in the keyslots of the digest.
const KEYSLOT_IN_DIGEST: u64 = 5;

/// Bytes of JSON that a keyslot made by [`Device::add_keyslot`] takes at most.
fn longest_keyslot() -> u64 {
    compact_length(&json!({
        "type": "luks2",
        "key_size": 1000,
        "af": { "type": "luks1", "stripes": 4000, "hash": "sha256" },
        "area": {
            "type": "raw",
            "offset": "1000000000",
            "size": "1000000",
            "encryption": "serpent-xts-plain64",
            "key_size": 1000,
        },
        "kdf": {
            "type": "pbkdf2",
            "hash": "sha512",
            "iterations": 1000,
            "salt": "0123456789012345678901234567890123456789012=",
        },
    }))
}
