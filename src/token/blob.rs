//! The sealed object inside a token: `TPM2B_PRIVATE ‖ TPM2B_PUBLIC [‖ TPM2B_ENCRYPTED_SECRET]`
//! (`tpm2_marshal_blob`).

use super::TokenError;

const TPM_ALG_KEYEDHASH: u16 = 0x0008;
/// `TPMA_OBJECT_USERWITHAUTH`: the (empty) password alone would release the secret.
const USER_WITH_AUTH: u32 = 1 << 6;

/// A sealed object outside the TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedObject {
    private: Vec<u8>,
    public: Vec<u8>,
    seed: Option<Vec<u8>>,
}

impl SealedObject {
    /// An object that the TPM made: the content of its `TPM2B_PRIVATE` and its `TPMT_PUBLIC`.
    pub fn new(private: Vec<u8>, public: Vec<u8>) -> Self {
        Self { private, public, seed: None }
    }

    /// An object that was made without the TPM: it is imported by what `seed`, the content of a
    /// `TPM2B_ENCRYPTED_SECRET`, gives to the parent alone.
    pub fn duplicate(private: Vec<u8>, public: Vec<u8>, seed: Vec<u8>) -> Self {
        Self { private, public, seed: Some(seed) }
    }

    /// Reads a token's blob.
    ///
    /// # Errors
    /// [`TokenError::Value`] when sizes do not add up or it is no sealed object.
    pub fn parse(blob: &[u8]) -> Result<Self, TokenError> {
        let bad = |found: &str| TokenError::Value { field: "tpm2-blob", found: found.to_owned() };
        let mut rest = blob;
        let private = take_sized(&mut rest).ok_or_else(|| bad("truncated private area"))?;
        let public = take_sized(&mut rest).ok_or_else(|| bad("truncated public area"))?;
        let seed = if rest.is_empty() {
            None
        } else {
            Some(take_sized(&mut rest).ok_or_else(|| bad("truncated seed"))?)
        };
        if !rest.is_empty() {
            return Err(bad("bytes after the end"));
        }
        let object = Self { private, public, seed };
        let (algorithm, attributes, _) =
            object.header().ok_or_else(|| bad("truncated public area"))?;
        if algorithm != TPM_ALG_KEYEDHASH {
            return Err(bad("not a sealed object"));
        }
        if attributes & USER_WITH_AUTH != 0 {
            return Err(bad("an object that needs no policy"));
        }
        Ok(object)
    }

    /// The token's blob.
    pub fn to_blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        for part in
            [Some(&self.private), Some(&self.public), self.seed.as_ref()].into_iter().flatten()
        {
            // TPM structures are far below 64 KiB.
            blob.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            blob.extend(part);
        }
        blob
    }

    /// Content of the `TPM2B_PRIVATE`.
    pub fn private(&self) -> &[u8] {
        &self.private
    }

    /// The marshalled `TPMT_PUBLIC`.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Content of the `TPM2B_ENCRYPTED_SECRET`, where the object was computed outside the TPM and
    /// must be imported first.
    pub fn seed(&self) -> Option<&[u8]> {
        self.seed.as_deref()
    }

    /// The digest of the policy that releases the secret.
    pub fn auth_policy(&self) -> &[u8] {
        self.header().map_or(&[], |(_, _, policy)| policy)
    }

    /// `type`, `objectAttributes` and `authPolicy` of the `TPMT_PUBLIC` (part 2, 12.2.4).
    fn header(&self) -> Option<(u16, u32, &[u8])> {
        let (algorithm, rest) = self.public.split_first_chunk::<2>()?;
        let (_name_algorithm, rest) = rest.split_first_chunk::<2>()?;
        let (attributes, rest) = rest.split_first_chunk::<4>()?;
        let (size, rest) = rest.split_first_chunk::<2>()?;
        let policy = rest.get(..u16::from_be_bytes(*size).into())?;
        Some((u16::from_be_bytes(*algorithm), u32::from_be_bytes(*attributes), policy))
    }
}

/// Takes a TPM2B: 16 bits of size, then as many bytes.
pub(super) fn take_sized(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let (size, after) = rest.split_first_chunk::<2>()?;
    let (body, after) = after.split_at_checked(u16::from_be_bytes(*size).into())?;
    *rest = after;
    Some(body.to_vec())
}
