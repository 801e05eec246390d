//! The modules in GRUB's own image (`include/grub/kernel.h`, `util/mkimage.c`).

use std::collections::BTreeSet;

/// Longest image that is read.
pub(super) const MAX_LEN: u64 = 32 << 20;
/// `GRUB_MODULE_MAGIC`.
const MAGIC: u32 = 0x676d_696d;
/// `OBJ_TYPE_ELF`.
const MODULE: u32 = 0;
/// Most objects in an image, and most sections of one of them.
const MAX_OBJECTS: usize = 1024;

/// What lies in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// Names of its modules.
    pub(super) modules: BTreeSet<String>,
}

impl Image {
    /// Reads the section `mods` of a PE image; `None` where it is not GRUB's.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mods = section(bytes)?;
        (number::<4>(mods, 0)? == u64::from(MAGIC)).then_some(())?;
        let (mut at, size) = (number::<8>(mods, 8)?, number::<8>(mods, 16)?);
        let mut modules = BTreeSet::new();
        for _ in 0..MAX_OBJECTS {
            if at >= size {
                break;
            }
            let start = usize::try_from(at).ok()?;
            let length = number::<4>(mods, start.checked_add(4)?)?;
            let end = usize::try_from(at.checked_add(length)?).ok()?;
            let object = mods.get(start..end)?.get(8..)?;
            if number::<4>(mods, start)? == u64::from(MODULE) {
                modules.insert(module_name(object)?);
            }
            at = at.checked_add(length)?;
        }
        Some(Self { modules })
    }
}

/// The bytes of the section `mods`.
fn section(bytes: &[u8]) -> Option<&[u8]> {
    let header = usize::try_from(number::<4>(bytes, 0x3c)?).ok()?;
    let at = |offset: usize| header.checked_add(offset);
    (bytes.get(header..at(4)?)? == b"PE\0\0").then_some(())?;
    let count = usize::try_from(number::<2>(bytes, at(6)?)?).ok()?;
    let optional = usize::try_from(number::<2>(bytes, at(20)?)?).ok()?;
    let table = at(24)?.checked_add(optional)?;
    let mut entries = bytes.get(table..)?.chunks_exact(40).take(count.min(MAX_OBJECTS));
    let entry = entries.find(|entry| entry.starts_with(b"mods\0"))?;
    slice(bytes, number::<4>(entry, 20)?, number::<4>(entry, 16)?)
}

/// The name in the section `.modname` of a module, an ELF file of 64 bits.
fn module_name(elf: &[u8]) -> Option<String> {
    elf.starts_with(b"\x7fELF\x02").then_some(())?;
    let table = number::<8>(elf, 0x28)?;
    let (size, count) = (number::<2>(elf, 0x3a)?, number::<2>(elf, 0x3c)?);
    let entry = |index: u64| slice(elf, table.checked_add(index.checked_mul(size)?)?, size);
    let content = |entry: &[u8]| slice(elf, number::<8>(entry, 0x18)?, number::<8>(entry, 0x20)?);
    let names = content(entry(number::<2>(elf, 0x3e)?)?)?;
    for index in 0..count.min(MAX_OBJECTS as u64) {
        let entry = entry(index)?;
        let name = names.get(usize::try_from(number::<4>(entry, 0)?).ok()?..)?;
        if name.starts_with(b".modname\0") {
            let text = content(entry)?.split(|byte| *byte == 0).next()?;
            return String::from_utf8(text.to_vec()).ok();
        }
    }
    None
}

fn slice(bytes: &[u8], start: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(start).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}

/// A little-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(N)?)?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(name: &str) -> Vec<u8> {
        let names = b"\0.modname\0.shstrtab\0";
        let mut out = vec![0; 0x40];
        out[..5].copy_from_slice(b"\x7fELF\x02");
        let (text_at, names_at) = (0x40_u64, 0x60_u64);
        out.extend(name.as_bytes());
        out.resize(0x60, 0);
        out.extend(names);
        out.resize(0x80, 0);
        for (name, at, size) in [(1_u32, text_at, 0x20_u64), (10, names_at, names.len() as u64)] {
            let mut entry = vec![0; 64];
            entry[..4].copy_from_slice(&name.to_le_bytes());
            entry[0x18..0x20].copy_from_slice(&at.to_le_bytes());
            entry[0x20..0x28].copy_from_slice(&size.to_le_bytes());
            out.extend(entry);
        }
        out[0x28] = 0x80;
        (out[0x3a], out[0x3c], out[0x3e]) = (64, 2, 1);
        out
    }

    /// An image with two modules and a prefix between them.
    fn image() -> Vec<u8> {
        let mut mods = vec![0; 24];
        mods[..4].copy_from_slice(&MAGIC.to_le_bytes());
        mods[8] = 24;
        for (kind, object) in
            [(0_u32, elf("ext2")), (3, b"(,gpt2)/grub\0".to_vec()), (0, elf("tpm"))]
        {
            mods.extend(kind.to_le_bytes());
            mods.extend((object.len() as u32 + 8).to_le_bytes());
            mods.extend(object);
        }
        let size = mods.len() as u64;
        mods[16..24].copy_from_slice(&size.to_le_bytes());
        let mut out = vec![0; 0x100];
        out[0x3c] = 0x40;
        out[0x40..0x44].copy_from_slice(b"PE\0\0");
        out[0x46] = 1;
        out[0x58..0x5c].copy_from_slice(b"mods");
        out[0x58 + 16..0x58 + 20].copy_from_slice(&(size as u32).to_le_bytes());
        out[0x58 + 21] = 1;
        out.extend(mods);
        out
    }

    #[test]
    fn modules_are_named() {
        let modules = Image::parse(&image()).unwrap().modules;
        assert_eq!(modules.into_iter().collect::<Vec<_>>(), ["ext2", "tpm"]);
    }

    #[test]
    fn other_images_are_none() {
        assert_eq!(Image::parse(b"MZ"), None);
        let whole = image();
        for cut in 0..whole.len() {
            assert_eq!(Image::parse(&whole[..cut]), None, "{cut}");
        }
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] = 0xff;
            let _ = Image::parse(&broken);
        }
    }
}
