//! Where the journal ended when somebody noted it, in few bytes: whoever cuts, edits or replaces the
//! journal must change every copy of this too.

use std::fmt;
use std::str::FromStr;

use crate::measurement::{Digest, PcrBank};

/// The last line of a journal, and which journal that is. As text: `SEQ:HASH:BEGIN`, the number in
/// decimal, the other two in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalHead {
    /// Number of the line, from 1.
    pub seq: u32,
    /// SHA-256 of the line.
    pub hash: Digest,
    /// The first bytes of SHA-256 of line 1, which no other journal has.
    pub begin: [u8; 4],
}

/// A text that is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoJournalHead;

impl fmt::Display for NoJournalHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the head of a journal")
    }
}

impl std::error::Error for NoJournalHead {}

impl JournalHead {
    /// Most bytes of its text.
    pub const MAX_LEN: usize = 10 + 1 + 64 + 1 + 8;
}

impl fmt::Display for JournalHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.seq, self.hash, hex::encode(self.begin))
    }
}

impl FromStr for JournalHead {
    type Err = NoJournalHead;

    fn from_str(text: &str) -> Result<Self, NoJournalHead> {
        let mut parts = text.split(':');
        let (Some(seq), Some(hash), Some(begin), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NoJournalHead);
        };
        let mut head = Self {
            seq: seq.parse().map_err(|_| NoJournalHead)?,
            hash: Digest::from_hex(PcrBank::Sha256, hash).map_err(|_| NoJournalHead)?,
            begin: [0; 4],
        };
        hex::decode_to_slice(begin, &mut head.begin).map_err(|_| NoJournalHead)?;
        // One head, one text: no signs, no leading zeros, no capitals.
        if head.seq == 0 || head.to_string() != text {
            return Err(NoJournalHead);
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_short_and_has_one_text() {
        let hash = PcrBank::Sha256.hash(b"line");
        let head = JournalHead { seq: u32::MAX, hash, begin: [0xab; 4] };
        let text = head.to_string();
        assert_eq!(text.len(), JournalHead::MAX_LEN);
        assert_eq!(text.parse(), Ok(head));
        let hex = hash.to_string();
        for wrong in [
            format!("0:{hex}:abababab"),
            format!("+1:{hex}:abababab"),
            format!("01:{hex}:abababab"),
            format!("1:{hex}:ABABABAB"),
            format!("1:{hex}:abab"),
            format!("1:{hex}:abababab:"),
            format!("4294967296:{hex}:abababab"),
            hex.clone(),
            String::new(),
        ] {
            assert_eq!(wrong.parse::<JournalHead>(), Err(NoJournalHead), "{wrong}");
        }
    }
}
