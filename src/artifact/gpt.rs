//! The partition table of the boot disk, as PCR 5 measures it.

use std::fmt;
use std::io;

use super::{Measured, Source};
use crate::measurement::reader::Reader;
use crate::measurement::{Event, EventType, PcrBank, PcrIndex};

/// Bytes of `EFI_PARTITION_TABLE_HEADER` that are measured.
const HEADER_LEN: usize = 92;
/// Bytes of the smallest entry.
const ENTRY_LEN: u32 = 128;
/// Most bytes of entries that are read; 16 KiB are usual.
const MAX_ENTRIES_LEN: u64 = 1 << 20;

/// Why a partition table cannot be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GptError {
    /// Reading failed, or the disk is too short.
    Read {
        /// Where, in bytes.
        offset: u64,
        /// Bytes wanted.
        expected: u64,
        /// What the system said.
        cause: String,
    },
    /// Neither block 1 of 512 nor of 4096 bytes holds a table.
    NoTable,
    /// A field of the header that no firmware would accept.
    Header {
        /// The field.
        field: &'static str,
        /// What it holds.
        found: u64,
    },
}

impl fmt::Display for GptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { offset, expected, cause } => {
                write!(f, "cannot read {expected} bytes at byte {offset} of the disk: {cause}")
            }
            Self::NoTable => f.write_str("the disk has no GUID partition table"),
            Self::Header { field, found } => {
                write!(f, "the partition table's {field} is {found}, which no table has")
            }
        }
    }
}

impl std::error::Error for GptError {}

/// The data of the `EV_EFI_GPT_EVENT` of a disk: the header of its primary table, the number of
/// used entries, and those entries (`UEFI_GPT_DATA`, PFP 10.2.5; `Tcg2MeasureGptTable` of EDK II).
/// The first 34 blocks of a disk are enough of it.
///
/// # Errors
/// [`GptError`].
pub fn gpt_event_data(disk: &dyn Source) -> Result<Vec<u8>, GptError> {
    let (block_len, header) = header(disk)?;
    let fields = || {
        let mut reader = Reader::new(&header);
        reader.take(24)?;
        let my_lba = reader.u64()?;
        reader.take(40)?;
        Some((my_lba, reader.u64()?, reader.u32()?, reader.u32()?))
    };
    let (my_lba, entries_lba, count, entry_len) = fields().ok_or(GptError::NoTable)?;
    let refused = |field, found| Err(GptError::Header { field, found });
    if my_lba != 1 {
        return refused("own block number", my_lba);
    }
    if count == 0 {
        return refused("number of entries", 0);
    }
    if !entry_len.is_multiple_of(ENTRY_LEN) || !(entry_len / ENTRY_LEN).is_power_of_two() {
        return refused("entry size", entry_len.into());
    }
    let len = u64::from(count) * u64::from(entry_len);
    if len > MAX_ENTRIES_LEN {
        return refused("number of entries", count.into());
    }
    let Some(offset) = entries_lba.checked_mul(block_len) else {
        return refused("first block of entries", entries_lba);
    };
    let entries = read(disk, offset, len)?;
    let used: Vec<&[u8]> = entries
        .chunks_exact(entry_len as usize)
        .filter(|entry| entry.iter().take(16).any(|byte| *byte != 0))
        .collect();
    Ok([&header, (used.len() as u64).to_le_bytes().as_slice(), &used.concat()].concat())
}

/// The measurement of a disk's partition table.
///
/// # Errors
/// [`GptError`].
pub fn gpt_measurement(disk: &dyn Source, banks: &[PcrBank]) -> Result<Measured, GptError> {
    let raw = gpt_event_data(disk)?;
    let event =
        Event { number: 0, pcr: 5, event_type: EventType::EfiGptEvent, digests: vec![], raw };
    let pcr = PcrIndex::new(5).map_err(|_| GptError::NoTable)?;
    Ok(Measured::of_bytes(pcr, banks, &event.raw, event.data().to_string()))
}

/// The size of a block and the header in block 1.
fn header(disk: &dyn Source) -> Result<(u64, Vec<u8>), GptError> {
    for block_len in [512, 4096] {
        if disk.len() < block_len + HEADER_LEN as u64 {
            break;
        }
        let header = read(disk, block_len, HEADER_LEN as u64)?;
        if header.starts_with(b"EFI PART") {
            return Ok((block_len, header));
        }
    }
    Err(GptError::NoTable)
}

fn read(disk: &dyn Source, offset: u64, len: u64) -> Result<Vec<u8>, GptError> {
    let failed =
        |error: io::Error| GptError::Read { offset, expected: len, cause: error.to_string() };
    // Allocated only where the disk can have that many.
    let enough = offset.checked_add(len).is_some_and(|end| end <= disk.len());
    if !enough {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    disk.read_exact_at(offset, &mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Disk(Vec<u8>);

    impl Source for Disk {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let end = offset as usize + buffer.len();
            buffer.copy_from_slice(&self.0[offset as usize..end]);
            Ok(())
        }
    }

    /// A disk with two used entries of four.
    fn disk(block_len: usize, entry_len: usize) -> Vec<u8> {
        let mut bytes = vec![0; 2 * block_len + 4 * entry_len];
        let header = &mut bytes[block_len..];
        header[..8].copy_from_slice(b"EFI PART");
        header[24] = 1;
        header[72] = 2;
        header[80] = 4;
        header[84..88].copy_from_slice(&(entry_len as u32).to_le_bytes());
        for used in [1, 3] {
            bytes[2 * block_len + used * entry_len] = used as u8;
        }
        bytes
    }

    #[test]
    fn both_block_sizes_and_larger_entries() {
        for (block_len, entry_len) in [(512, 128), (4096, 128), (512, 256)] {
            let bytes = disk(block_len, entry_len);
            let data = gpt_event_data(&Disk(bytes.clone())).unwrap();
            assert_eq!(data.len(), 92 + 8 + 2 * entry_len);
            assert_eq!(data[..92], bytes[block_len..block_len + 92]);
            assert_eq!(data[92..100], 2u64.to_le_bytes());
            assert_eq!((data[100], data[100 + entry_len]), (1, 3));
        }
    }

    #[track_caller]
    fn refused(change: impl Fn(&mut Vec<u8>), wanted: &str) {
        let mut bytes = disk(512, 128);
        change(&mut bytes);
        let error = gpt_event_data(&Disk(bytes)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }

    #[test]
    fn tables_that_cannot_be_are_refused() {
        refused(Vec::clear, "no GUID partition table");
        refused(|bytes| bytes[512] = 0, "no GUID partition table");
        refused(|bytes| bytes[512 + 24] = 2, "own block number is 2");
        refused(|bytes| bytes[512 + 80] = 0, "number of entries is 0");
        refused(|bytes| bytes[512 + 83] = 0xff, "number of entries is 4278190084");
        refused(|bytes| bytes[512 + 84] = 0, "entry size is 0");
        refused(|bytes| bytes[512 + 84] = 64, "entry size is 64");
        refused(|bytes| bytes[512 + 85] = 1, "entry size is 384");
        refused(|bytes| bytes[512 + 79] = 0xff, "first block of entries is 18374686479671623682");
        refused(|bytes| bytes.truncate(1200), "cannot read 512 bytes at byte 1024");
    }

    proptest! {
        #[test]
        fn hostile_tables_end(at in 512usize..604, bytes in prop::collection::vec(any::<u8>(), 1..16)) {
            let mut disk = disk(512, 128);
            disk.splice(at..at + bytes.len(), bytes);
            let _ = gpt_event_data(&Disk(disk));
        }
    }
}
