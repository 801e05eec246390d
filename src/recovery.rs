//! Recovery keys in systemd's form (`make_recovery_key`): 32 random bytes as modhex, eight groups of
//! eight letters that lie in the same place on most keyboard layouts.

use zeroize::Zeroizing;

use crate::secret::KeyslotPassphrase;

const MODHEX: [u8; 16] = *b"cbdefghijklnrtuv";
const BYTES: usize = 32;
const GROUP: usize = 8;

/// The token type that marks a keyslot as opened by a recovery key (`cryptenroll-recovery.c`).
pub const TOKEN_TYPE: &str = "systemd-recovery";

/// A recovery key: text to be written down, and a keyslot's passphrase.
pub struct RecoveryKey(Zeroizing<String>);

impl RecoveryKey {
    /// A new key.
    ///
    /// # Errors
    /// The kernel's random number generator's, when it is not available.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        getrandom::fill(bytes.as_mut())?;
        Ok(Self::from_bytes(&bytes))
    }

    fn from_bytes(bytes: &[u8; BYTES]) -> Self {
        // The capacity keeps the text from being moved, and left behind, while it grows.
        let mut text = Zeroizing::new(String::with_capacity(BYTES * 2 + BYTES * 2 / GROUP));
        let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        for (index, nibble) in nibbles.enumerate() {
            if index > 0 && index % GROUP == 0 {
                text.push('-');
            }
            text.extend(MODHEX.get(usize::from(nibble)).copied().map(char::from));
        }
        Self(text)
    }

    /// The text, dashes included.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The passphrase of its keyslot: the text.
    pub fn to_keyslot_passphrase(&self) -> KeyslotPassphrase {
        KeyslotPassphrase::new(self.0.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_eight_modhex_letters() {
        let mut bytes = [0; BYTES];
        bytes[0] = 0x0f;
        bytes[31] = 0xa5;
        let key = RecoveryKey::from_bytes(&bytes);
        assert_eq!(key.expose().len(), 71);
        assert!(key.expose().starts_with("cvcccccc-"));
        assert!(key.expose().ends_with("-cccccclg"));
        assert!(key.expose().split('-').all(|group| group.len() == 8));
    }
}
