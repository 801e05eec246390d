use proptest::prelude::*;

use super::*;
use crate::artifact::hashing::digest;
use crate::artifact::sample::{Memory, TABLE, image};
use crate::measurement::{Digest, PcrBank};

fn authenticode(bytes: Vec<u8>) -> Result<Digest, PeError> {
    let file = Memory(bytes);
    let pe = Pe::parse(&file)?;
    Ok(digest(&[pe.authenticode(&file)], &[PcrBank::Sha256]).unwrap()[0][0])
}

fn set(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

const CHECKSUM: usize = 0x98 + 64;
const SECURITY_ENTRY: usize = 0x98 + 144;

#[test]
fn neither_checksum_nor_signatures_are_covered() {
    let plain = image(&[(".text", b"code"), (".data", b"data")], 0);
    let mut expected = plain[..CHECKSUM].to_vec();
    expected.extend(&plain[CHECKSUM + 4..SECURITY_ENTRY]);
    expected.extend(&plain[SECURITY_ENTRY + 8..]);
    let unsigned = authenticode(plain.clone()).unwrap();
    assert_eq!(unsigned, PcrBank::Sha256.hash(&expected));

    let signed = image(&[(".text", b"code"), (".data", b"data")], 64);
    assert_eq!(authenticode(signed), Ok(unsigned));
    let mut summed = plain.clone();
    set(&mut summed, CHECKSUM, 77);
    assert_eq!(authenticode(summed), Ok(unsigned));
    let mut changed = plain;
    changed[0x900] ^= 1;
    assert_ne!(authenticode(changed), Ok(unsigned));
}

#[test]
fn sections_count_by_their_place_and_trailing_data_counts() {
    let straight = image(&[(".a", b"first"), (".b", b"second")], 0);
    let mut swapped = straight.clone();
    let (one, two) = (straight[TABLE..TABLE + 40].to_vec(), straight[TABLE + 40..][..40].to_vec());
    swapped[TABLE..TABLE + 40].copy_from_slice(&two);
    swapped[TABLE + 40..TABLE + 80].copy_from_slice(&one);
    let covered = |bytes: &[u8]| Pe::parse(&Memory(bytes.to_vec())).unwrap().covered;
    assert_eq!(covered(&straight), covered(&swapped));
    let mut longer = straight.clone();
    longer.push(0);
    assert_ne!(authenticode(longer), authenticode(straight));
}

#[test]
fn what_overlaps_or_lies_outside_is_refused() {
    let good = image(&[(".a", &[1; 600]), (".b", &[2; 600])], 16);
    let edited = |edits: &[(usize, u32)]| {
        let mut bytes = good.clone();
        edits.iter().for_each(|(at, value)| set(&mut bytes, *at, *value));
        authenticode(bytes).unwrap_err()
    };
    let beyond = |error: PeError| matches!(error, PeError::Beyond { .. });
    let overlap = |error: PeError| matches!(error, PeError::Overlap { .. });
    assert!(beyond(edited(&[(0x3c, 0xffff_fff0)])));
    assert!(beyond(edited(&[(TABLE + 16, u32::MAX)])));
    assert!(beyond(edited(&[(TABLE + 20, u32::MAX - 8)])));
    assert!(beyond(edited(&[(0x98 + 60, 0x100)])));
    assert!(beyond(edited(&[(0x98 + 60, u32::MAX)])));
    assert!(beyond(edited(&[(0x86, 0x00f0_ffff)])));
    assert!(overlap(edited(&[(TABLE + 16, 0x800)])));
    assert!(overlap(edited(&[(SECURITY_ENTRY + 4, u32::MAX)])));
    assert!(matches!(edited(&[(0x98, 0)]), PeError::Magic { .. }));
    assert!(matches!(authenticode(vec![]).unwrap_err(), PeError::Beyond { .. }));
    assert!(matches!(authenticode(b"MZ".to_vec()).unwrap_err(), PeError::Beyond { .. }));
}

proptest! {
    /// No image makes the digest cover more than the file, or anything outside of it.
    #[test]
    fn any_damage_is_bounded(edits in prop::collection::vec((0_usize..0x400, any::<u8>()), 0..12)) {
        let mut bytes = image(&[(".a", &[1; 700]), (".b", &[2; 700]), (".c", b"")], 8);
        for (at, value) in edits {
            bytes[at] = value;
        }
        let file = Memory(bytes);
        if let Ok(pe) = Pe::parse(&file) {
            prop_assert!(pe.authenticode(&file).len() <= file.len());
            prop_assert!(digest(&[pe.authenticode(&file)], &[PcrBank::Sha256]).is_ok());
        }
    }
}
