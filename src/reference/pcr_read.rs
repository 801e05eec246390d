//! `TPM2_PCR_Read`, as bytes: what the TPM itself says that its PCRs hold.

use crate::measurement::reader::Reader;
use crate::measurement::{Digest, PcrBank, PcrIndex, PcrValues};

/// PCRs of one command: a response has room for eight digests.
const AT_ONCE: u8 = 8;

/// Commands that together read all PCRs of a bank.
pub fn commands(bank: PcrBank) -> Vec<(u8, Vec<u8>)> {
    let command = |octet: u8| {
        let mut mask = [0; 3];
        if let Some(mask) = mask.get_mut(usize::from(octet)) {
            *mask = 0xff;
        }
        // No sessions, the length of all of it, the code, one selection of three octets.
        let head = [0x80, 1, 0, 0, 0, 20, 0, 0, 1, 0x7e, 0, 0, 0, 1];
        let [high, low] = bank.alg_id().to_be_bytes();
        [&head[..], &[high, low, 3], &mask].concat()
    };
    (0..PcrIndex::COUNT / AT_ONCE).map(|octet| (octet * AT_ONCE, command(octet))).collect()
}

/// Takes the eight values from `first` on out of a response. `None` where there are not that many,
/// as with a bank that the TPM does not keep.
pub fn take_values(values: &mut PcrValues, first: u8, response: &[u8]) -> Option<()> {
    let mut reader = Reader::new(response);
    let be_u32 = |reader: &mut Reader<'_>| reader.array().map(u32::from_be_bytes);
    reader.take(6)?;
    if be_u32(&mut reader)? != 0 {
        return None;
    }
    // The counter of updates, then one selection again.
    reader.take(4)?;
    if be_u32(&mut reader)? != 1 {
        return None;
    }
    reader.take(2 + 1 + 3)?;
    if be_u32(&mut reader)? != u32::from(AT_ONCE) {
        return None;
    }
    for pcr in first..first + AT_ONCE {
        let len = reader.array().map(u16::from_be_bytes)?;
        let digest = Digest::from_bytes(values.bank(), reader.take(len.into())?).ok()?;
        values.set(PcrIndex::new(pcr.into()).ok()?, digest);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_eight_values_and_no_others() {
        let commands = commands(PcrBank::Sha256);
        assert_eq!(commands.iter().map(|(first, _)| *first).collect::<Vec<_>>(), [0, 8, 16]);
        assert!(commands.iter().all(|(_, command)| command.len() == 20));
        let mut response = vec![0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        response.extend([0, 0, 0, 1, 0, 0xb, 3, 0, 0xff, 0, 0, 0, 0, 8]);
        for byte in 0..8 {
            response.extend([&[0, 32][..], &[byte; 32]].concat());
        }
        let mut values = PcrValues::new(PcrBank::Sha256);
        assert_eq!(take_values(&mut values, 8, &response), Some(()));
        let value = values.get(PcrIndex::new(9).unwrap()).unwrap();
        assert_eq!(value.as_bytes(), [1; 32]);
        for len in 0..response.len() {
            assert_eq!(take_values(&mut values, 8, &response[..len]), None, "{len}");
        }
        assert_eq!(take_values(&mut PcrValues::new(PcrBank::Sha384), 0, &response), None);
    }
}
