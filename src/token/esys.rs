//! Serialized `ESYS_TR` objects, in which systemd keeps handles with their Names
//! (`iesys_MU_IESYS_RESOURCE_Unmarshal`): handle, `TPM2B_NAME`, resource type, public area.

use super::blob::take_sized;
use crate::tpm::SrkPublic;

/// `IESYSC_KEY_RSRC` and `IESYSC_NV_RSRC`.
const KEY: u32 = 1;
const NV: u32 = 2;
/// First octets of handles: persistent objects and NV indices.
const PERSISTENT: u32 = 0x81;
const NV_INDEX: u32 = 0x01;

/// Handle and Name of a persistent key.
pub(super) fn parse_key(bytes: &[u8]) -> Option<(u32, Vec<u8>)> {
    parse(bytes, PERSISTENT, KEY)
}

/// Handle and Name of an NV index.
pub(super) fn parse_index(bytes: &[u8]) -> Option<(u32, Vec<u8>)> {
    parse(bytes, NV_INDEX, NV)
}

fn parse(bytes: &[u8], range: u32, wanted: u32) -> Option<(u32, Vec<u8>)> {
    let (handle, mut rest) = bytes.split_first_chunk::<4>()?;
    let handle = u32::from_be_bytes(*handle);
    let name = take_sized(&mut rest)?;
    let (kind, mut rest) = rest.split_first_chunk::<4>()?;
    let _public = take_sized(&mut rest)?;
    let fits = handle >> 24 == range && u32::from_be_bytes(*kind) == wanted && rest.is_empty();
    fits.then_some((handle, name))
}

impl SrkPublic {
    /// The serialized key that systemd keeps in `tpm2_srk` (`tpm2_serialize`).
    pub(super) fn to_esys(&self) -> Vec<u8> {
        let mut out = self.handle.to_be_bytes().to_vec();
        let sized = |out: &mut Vec<u8>, part: &[u8]| {
            // TPM structures are far below 64 KiB.
            out.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend(part);
        };
        sized(&mut out, &self.name);
        out.extend(KEY.to_be_bytes());
        sized(&mut out, &self.public);
        out
    }

    pub(super) fn is_rsa(&self) -> bool {
        self.public.starts_with(&[0x00, 0x01])
    }
}
