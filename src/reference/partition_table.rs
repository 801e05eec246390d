//! A GUID partition table with one partition, an EFI system partition (UEFI 2.10, 5.3).

use crc::{CRC_32_ISO_HDLC, Crc};

use crate::measurement::efi::Guid;

/// That of tables and headers.
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// Bytes of a block.
pub const BLOCK: u64 = 512;
/// Entries of a table, and the blocks that they take.
const ENTRIES: u32 = 128;
const ENTRY_LEN: u32 = 128;
const ENTRY_BLOCKS: u64 = 32;
const HEADER_LEN: u32 = 92;
/// These are of no disk but this one, and not measured into a PCR that is sealed to.
const DISK: Guid = Guid::from_fields(0x766d_7365, 0x616c, 0x4000, [0x80, 0, 0, 0, 0, 0, 0, 1]);
const PARTITION: Guid = Guid::from_fields(0x766d_7365, 0x616c, 0x4000, [0x80, 0, 0, 0, 0, 0, 0, 2]);

/// A table of a disk that is as long as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionTable {
    first: u64,
    len: u64,
}

impl PartitionTable {
    /// Of a partition that begins with the block `first` and has `len` blocks.
    pub fn of(first: u64, len: u64) -> Self {
        Self { first, len }
    }

    /// How many blocks the disk has.
    pub fn blocks(&self) -> u64 {
        self.first + self.len + ENTRY_BLOCKS + 1
    }

    /// Both copies of it, and the one that keeps older programs away, each with the byte where it begins.
    pub fn parts(&self) -> Vec<(u64, Vec<u8>)> {
        let entries = self.entries();
        let last = self.blocks() - 1;
        let copies = [(1, last, 2), (last, 1, last - ENTRY_BLOCKS)];
        let copies = copies.into_iter().flat_map(|(own, other, at)| {
            let header = self.header(own, other, at, CHECKSUM.checksum(&entries));
            [(own * BLOCK, header), (at * BLOCK, entries.clone())]
        });
        [(0, self.protection())].into_iter().chain(copies).collect()
    }

    fn entries(&self) -> Vec<u8> {
        let mut entries = [*Guid::ESP.as_bytes(), *PARTITION.as_bytes()].concat();
        for block in [self.first, self.first + self.len - 1] {
            entries.extend(block.to_le_bytes());
        }
        entries.resize((ENTRIES * ENTRY_LEN) as usize, 0);
        entries
    }

    fn header(&self, own: u64, other: u64, entries: u64, crc_of_entries: u32) -> Vec<u8> {
        let usable = [2 + ENTRY_BLOCKS, self.blocks() - ENTRY_BLOCKS - 2];
        let mut header = b"EFI PART\0\0\x01\0".to_vec();
        header.extend(HEADER_LEN.to_le_bytes());
        // Its own checksum counts as zero, and what follows is reserved.
        header.extend([0; 8]);
        header.extend([own, other].into_iter().chain(usable).flat_map(u64::to_le_bytes));
        header.extend(DISK.as_bytes());
        header.extend(entries.to_le_bytes());
        header.extend([ENTRIES, ENTRY_LEN, crc_of_entries].into_iter().flat_map(u32::to_le_bytes));
        let crc = CHECKSUM.checksum(&header);
        header.splice(16..20, crc.to_le_bytes());
        header
    }

    /// A table of the older form, with one partition of type 0xee that is all of the disk.
    fn protection(&self) -> Vec<u8> {
        let len = u32::try_from(self.blocks() - 1).unwrap_or(u32::MAX);
        let mut block = vec![0; 446];
        block.extend([0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
        block.extend(len.to_le_bytes());
        block.resize(510, 0);
        block.extend([0x55, 0xaa]);
        block
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measurement::efi::Gpt;

    proptest! {
        /// What was written is read as it was meant, and nothing lies over anything else.
        #[test]
        fn a_table_tells_its_partition(first in 34_u64..1 << 20, len in 1_u64..1 << 24) {
            let table = PartitionTable::of(first, len);
            let parts = table.parts();
            let (header, entries) = (&parts[1].1, &parts[2].1);
            let event = [&header[..], &1_u64.to_le_bytes(), &entries[..128]].concat();
            let read = Gpt::decode(&event).unwrap().partitions;
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(read[0].type_guid, Guid::ESP);
            prop_assert_eq!((read[0].first_lba, read[0].last_lba), (first, first + len - 1));
            let mut places: Vec<_> = parts.iter().map(|(at, it)| (*at, at + it.len() as u64)).collect();
            places.push((first * BLOCK, (first + len) * BLOCK));
            places.sort_unstable();
            prop_assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            prop_assert!(places.iter().all(|(_, end)| *end <= table.blocks() * BLOCK));
        }
    }
}
