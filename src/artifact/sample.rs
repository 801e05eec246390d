//! Small images for tests.

use std::io;

use super::Source;

/// Bytes in memory.
pub struct Memory(pub Vec<u8>);

impl Source for Memory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = from.checked_add(buffer.len()).and_then(|end| self.0.get(from..end));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

const HEADERS: usize = 0x800;
const ALIGNMENT: usize = 0x200;
/// Where [`image`] has its section table.
pub const TABLE: usize = 0x80 + 24 + 240;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A PE32+ image of these sections, `signature` bytes of signatures and no data after them.
pub fn image(sections: &[(&str, &[u8])], signature: usize) -> Vec<u8> {
    let mut bytes = vec![0; HEADERS];
    put(&mut bytes, 0, b"MZ");
    put(&mut bytes, 0x3c, &0x80_u32.to_le_bytes());
    put(&mut bytes, 0x80, b"PE\0\0\x64\x86");
    put(&mut bytes, 0x86, &(sections.len() as u16).to_le_bytes());
    put(&mut bytes, 0x94, &240_u16.to_le_bytes());
    let optional = 0x98;
    put(&mut bytes, optional, &0x020b_u16.to_le_bytes());
    put(&mut bytes, optional + 44, &1_u16.to_le_bytes());
    put(&mut bytes, optional + 60, &(HEADERS as u32).to_le_bytes());
    put(&mut bytes, optional + 64, b"csum");
    put(&mut bytes, optional + 108, &16_u32.to_le_bytes());
    let mut address = 0x1000_u32;
    for (index, (name, content)) in sections.iter().enumerate() {
        let start = bytes.len();
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0xcc);
        let entry = TABLE + 40 * index;
        let raw = (bytes.len() - start) as u32;
        put(&mut bytes, entry, name.as_bytes());
        for (field, value) in [content.len() as u32, address, raw, start as u32].iter().enumerate()
        {
            put(&mut bytes, entry + 8 + 4 * field, &value.to_le_bytes());
        }
        address = (address + content.len() as u32).next_multiple_of(0x1000);
    }
    put(&mut bytes, optional + 56, &address.to_le_bytes());
    if signature > 0 {
        let start = bytes.len() as u32;
        put(&mut bytes, optional + 144, &start.to_le_bytes());
        put(&mut bytes, optional + 148, &(signature as u32).to_le_bytes());
        bytes.resize(bytes.len() + signature, 0x5a);
    }
    bytes
}
