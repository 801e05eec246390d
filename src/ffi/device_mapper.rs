//! The kernel's tables of device-mapper devices (`linux/dm-ioctl.h`).

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use zeroize::Zeroizing;

/// `struct dm_ioctl`.
const HEADER: usize = 312;
const NAME: std::ops::Range<usize> = 48..176;
const UUID: std::ops::Range<usize> = 176..305;
/// `struct dm_target_spec`; the parameters follow it.
const SPEC: usize = 40;
const TARGET_TYPE: std::ops::Range<usize> = 24..40;
const BUFFER: usize = 16 << 10;
/// `DM_TABLE_STATUS`
const TABLE_STATUS: Opcode = opcode::read_write::<[u8; HEADER]>(0xfd, 12);
/// `DM_STATUS_TABLE_FLAG`: the table, not the status. `DM_SECURE_DATA_FLAG`: wipe the kernel's copy.
const FLAGS: u32 = 1 << 4 | 1 << 15;

/// What the kernel says of a device: its UUID, and type and parameters of each target. A volume key
/// that is not in a keyring is among the parameters.
pub(crate) struct Table {
    pub(crate) uuid: String,
    pub(crate) targets: Vec<(String, Zeroizing<String>)>,
}

/// Asks for a device's table by the control device; `None` where there is no such device.
pub(crate) fn table(control: impl AsFd, name: &str) -> Result<Option<Table>, Errno> {
    let mut buffer = Zeroizing::new([0_u8; BUFFER]);
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = buffer.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    if name.len() >= NAME.len() {
        return Err(Errno::INVAL);
    }
    put(0, &4_u32.to_ne_bytes());
    put(12, &(BUFFER as u32).to_ne_bytes());
    put(16, &(HEADER as u32).to_ne_bytes());
    put(28, &FLAGS.to_ne_bytes());
    put(NAME.start, name.as_bytes());
    // SAFETY: the buffer begins with a `struct dm_ioctl` that gives its length, and the kernel writes
    // no further than that.
    let updater = unsafe { Updater::<TABLE_STATUS, [u8; BUFFER]>::new(&mut buffer) };
    // SAFETY: as above; the opcode is the one that takes this structure.
    match unsafe { ioctl(control, updater) } {
        Ok(()) => {}
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    Ok(Some(parse(&*buffer).ok_or(Errno::OVERFLOW)?))
}

fn parse(buffer: &[u8]) -> Option<Table> {
    let number = |bytes: &[u8], at: usize| {
        let field = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_ne_bytes(field)).ok()
    };
    let data = buffer.get(number(buffer, 16)?..number(buffer, 12)?)?;
    let mut targets = Vec::new();
    let mut at = 0;
    for _ in 0..number(buffer, 20)? {
        let spec = data.get(at..)?;
        targets.push((text(spec.get(TARGET_TYPE)?)?, Zeroizing::new(text(spec.get(SPEC..)?)?)));
        // Counted from the first target, and the next one comes later.
        at = number(spec, 20).filter(|next| *next > at)?;
    }
    Some(Table { uuid: text(buffer.get(UUID)?)?, targets })
}

/// Text up to its NUL.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(bytes.get(..end)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table as the kernel gives it, of two targets.
    fn sample() -> Vec<u8> {
        let mut buffer = vec![0_u8; HEADER + 200];
        let mut put = |at: usize, bytes: &[u8]| buffer[at..at + bytes.len()].copy_from_slice(bytes);
        put(12, &512_u32.to_ne_bytes());
        put(16, &312_u32.to_ne_bytes());
        put(20, &2_u32.to_ne_bytes());
        put(UUID.start, b"CRYPT-LUKS2-00-root");
        put(HEADER + 20, &64_u32.to_ne_bytes());
        put(HEADER + 24, b"crypt");
        put(HEADER + SPEC, b"aes-xts-plain64 :64:k 0");
        put(HEADER + 64 + 20, &128_u32.to_ne_bytes());
        put(HEADER + 64 + 24, b"linear");
        put(HEADER + 64 + SPEC, b"253:0 8");
        buffer
    }

    #[test]
    fn targets_are_read() {
        let table = parse(&sample()).expect("a table");
        assert_eq!(table.uuid, "CRYPT-LUKS2-00-root");
        let targets: Vec<_> =
            table.targets.iter().map(|(kind, line)| (kind.as_str(), line.as_str())).collect();
        assert_eq!(targets, [("crypt", "aes-xts-plain64 :64:k 0"), ("linear", "253:0 8")]);
    }

    #[test]
    fn lengths_are_checked() {
        for length in 0..512 {
            let _ = parse(&sample()[..length]);
        }
        let mut wild = sample();
        wild[HEADER + 20..HEADER + 24].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(parse(&wild).is_none());
        // Four thousand million targets, each followed by itself.
        wild[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
        wild[HEADER + 20..HEADER + 24].copy_from_slice(&[0; 4]);
        assert!(parse(&wild).is_none());
    }
}
