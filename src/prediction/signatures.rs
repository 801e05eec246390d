//! The signatures that a PE image carries: its attribute certificate table.

use crate::artifact::Source;

/// `IMAGE_DIRECTORY_ENTRY_SECURITY`.
const SECURITY_DIRECTORY: u64 = 4;
/// `WIN_CERT_TYPE_PKCS_SIGNED_DATA`.
const PKCS_SIGNED_DATA: u16 = 2;
/// Most bytes of signatures that are read.
const MAX_TABLE: u32 = 1 << 20;
/// Most signatures of one image.
const MAX_SIGNATURES: usize = 16;

/// The PKCS #7 structures of an image that was parsed as one, in order. An image without a table
/// that can be read has none.
pub(super) fn signatures(source: &dyn Source) -> Vec<Vec<u8>> {
    let Some(table) = table(source) else { return Vec::new() };
    let mut found = Vec::new();
    let mut rest = table.as_slice();
    while let (Some((header, _)), true) = (rest.split_first_chunk::<8>(), found.len() < MAX_SIGNATURES)
    {
        let [l0, l1, l2, l3, _, _, t0, t1] = *header;
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let Some(data) = rest.get(8..len) else { break };
        if u16::from_le_bytes([t0, t1]) == PKCS_SIGNED_DATA {
            found.push(data.to_vec());
        }
        let Some(after) = rest.get(len.next_multiple_of(8)..) else { break };
        rest = after;
    }
    found
}

fn table(source: &dyn Source) -> Option<Vec<u8>> {
    let number = |offset: u64| {
        let mut bytes = [0; 4];
        source.read_exact_at(offset, &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let optional = u64::from(number(0x3c)?) + 24;
    // PE32+ has wider fields before the directories.
    let directories = match number(optional)? & 0xffff {
        0x20b => optional + 112,
        0x10b => optional + 96,
        _ => return None,
    };
    if u64::from(number(directories - 4)?) <= SECURITY_DIRECTORY {
        return None;
    }
    let entry = directories + 8 * SECURITY_DIRECTORY;
    let (start, len) = (number(entry)?, number(entry + 4)?);
    if len == 0 || len > MAX_TABLE {
        return None;
    }
    let mut table = vec![0; len as usize];
    source.read_exact_at(start.into(), &mut table).ok()?;
    Some(table)
}
