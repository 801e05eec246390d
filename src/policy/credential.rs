//! systemd's credentials that anybody can read: encrypted with the empty key, so that a copy of a
//! pcrlock policy for the initrd has the form of a credential (`CRED_AES256_GCM_BY_NULL`).

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::measurement::PcrBank;

/// Identifier of this kind of credential.
const BY_NULL: [u8; 16] = [
    0x05, 0x84, 0x69, 0xda, 0xf6, 0xf5, 0x43, 0x24, 0x80, 0x05, 0x49, 0xda, 0x0f, 0x8e, 0xa2, 0xfb,
];
/// Bytes of key, block, initialisation vector and tag.
const SIZES: [u32; 4] = [32, 1, IV as u32, 16];
const IV: usize = 12;
/// Identifier, the four sizes and the vector, then up to a multiple of 8.
const HEADER: usize = 48;
/// Time stamp, expiry, and the length of the name.
const METADATA: usize = 20;

/// The content of a credential, base64 text with white space; `None` where it is of another kind or
/// damaged.
pub(super) fn open(text: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = STANDARD.decode(text).ok()?;
    let (header, sealed) = bytes.split_at_checked(HEADER)?;
    let (identifier, rest) = header.split_first_chunk::<16>()?;
    let (sizes, rest) = rest.split_first_chunk::<16>()?;
    let (sizes, _) = sizes.as_chunks::<4>();
    if *identifier != BY_NULL || !sizes.iter().map(|size| u32::from_le_bytes(*size)).eq(SIZES) {
        return None;
    }
    let vector = Nonce::from_slice(rest.get(..IV)?);
    // The key is what is left of host key and TPM key where there is neither.
    let key = PcrBank::Sha256.hash(b"");
    let cipher = Aes256Gcm::new_from_slice(key.as_bytes()).ok()?;
    let plain = cipher.decrypt(vector, Payload { msg: sealed, aad: header }).ok()?;
    let (metadata, _) = plain.split_at_checked(METADATA)?;
    let name = u32::from_le_bytes(*metadata.last_chunk::<4>()?);
    let start = METADATA.checked_add(usize::try_from(name).ok()?)?.checked_next_multiple_of(8)?;
    plain.get(start..).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `systemd-creds encrypt --with-key=null` of 257, by names of two lengths.
    #[test]
    fn a_credential_of_systemd_opens() {
        for (text, content) in CREDENTIALS {
            assert_eq!(open(text.as_bytes()).as_deref(), Some(content.as_bytes()));
            let mut damaged = STANDARD.decode(text).unwrap();
            damaged[50] ^= 1;
            assert_eq!(open(STANDARD.encode(damaged).as_bytes()), None);
            for end in 0..text.len() {
                assert_eq!(open(&text.as_bytes()[..end]), None);
            }
        }
    }

    const CREDENTIALS: [(&str, &str); 2] = [
        (
            "BYRp2vb1QySABUnaD46i+yAAAAABAAAADAAAABAAAACfDFbSbvGvQHGAkskAAAAAiKEo67AqIhEpWTsVgx00jOo8sSAc43cXUO0GPhqk8yVKLpUind+OoFBbfloxwDAtXDSdM73r4X2lkTM=",
            r#"{"hello":1}"#,
        ),
        (
            "BYRp2vb1QySABUnaD46i+yAAAAABAAAADAAAABAAAACeaoolN14v0+LWBk4AAAAAOHHvwWHPCWBU4WEmv7djv2VOPXxjAksPdWqmCHZuoqb2UUVp3Vwi3G4mruU5W0YHgqvtwu9WlBK4MqgX/A6VPsXzFQ==",
            r#"{"hello":1}"#,
        ),
    ];
}
