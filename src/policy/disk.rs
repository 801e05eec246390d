//! A disk that has nothing but signatures: how a host hands them to a guest that shows no firmware
//! configuration. A line that says what it is, the JSON, and NULs up to a whole number of sectors.

/// What the disk begins with.
const MAGIC: &str = "vmseal-policy 1\n";
/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// Most bytes of such a disk.
pub const MAX_DISK: usize = 1 << 20;

/// The disk that holds this text.
pub fn to_disk(json: &str) -> String {
    let len = (MAGIC.len() + json.len()).next_multiple_of(SECTOR);
    let mut disk = String::with_capacity(len);
    disk.push_str(MAGIC);
    disk.push_str(json);
    while disk.len() < len {
        disk.push('\0');
    }
    disk
}

/// What a disk holds; nothing where it is another disk.
pub fn from_disk(disk: &[u8]) -> Option<&[u8]> {
    let text = disk.strip_prefix(MAGIC.as_bytes()).filter(|_| disk.len() <= MAX_DISK)?;
    text.split(|byte| *byte == 0).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_holds_whole_sectors_and_gives_back_what_it_holds() {
        for len in [0, 1, 495, 496, 497, 3000] {
            let json = "j".repeat(len);
            let disk = to_disk(&json);
            assert_eq!(disk.len() % SECTOR, 0, "{len}");
            assert!(disk.len() - len < MAGIC.len() + SECTOR, "{len}");
            assert_eq!(from_disk(disk.as_bytes()), Some(json.as_bytes()), "{len}");
        }
    }

    #[test]
    fn another_disk_holds_nothing() {
        let long = to_disk(&"j".repeat(MAX_DISK));
        for disk in ["", "vmseal-policy 2\n{}", "vmseal-policy 1", "{}", long.as_str()] {
            assert_eq!(from_disk(disk.as_bytes()), None);
        }
        assert_eq!(from_disk(b"vmseal-policy 1\n{}"), Some(&b"{}"[..]));
    }
}
