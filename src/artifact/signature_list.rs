//! `EFI_SIGNATURE_LIST`s: what the variables of Secure Boot and shim's key lists are made of.

use std::collections::HashSet;
use std::fmt;

use crate::measurement::efi::Guid;
use crate::measurement::reader::Reader;
use crate::measurement::variable::CERT_SHA256;

/// Bytes of a list before its own header and its entries.
const FIXED_LEN: u32 = 28;
/// Bytes of an entry's owner.
const OWNER_LEN: u32 = 16;

/// One list: entries of one type and one size (UEFI 2.10, 32.4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureList {
    /// What the entries are: `EFI_CERT_X509_GUID`, `EFI_CERT_SHA256_GUID` and their like.
    pub kind: Guid,
    /// The header of the type; empty for every type that the specification defines.
    header: Vec<u8>,
    /// Bytes of one entry, its owner included: at least 16.
    entry_len: u32,
    /// The entries, one after the other.
    entries: Vec<u8>,
}

/// The value of a variable such as `db`: lists, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignatureLists(Vec<SignatureList>);

/// Bytes that are not signature lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureListError {
    /// More bytes than are read ([`SignatureLists::MAX_LEN`]).
    TooLong {
        /// Bytes found.
        found: usize,
    },
    /// A list ends before its fixed part does, or has more bytes than there are.
    Truncated {
        /// Where the list starts, in bytes.
        offset: usize,
        /// Bytes that the list should have.
        expected: u32,
        /// Bytes that are left.
        found: usize,
    },
    /// The sizes of a list contradict each other.
    Sizes {
        /// Where the list starts, in bytes.
        offset: usize,
        /// `SignatureListSize`.
        list: u32,
        /// `SignatureHeaderSize`.
        header: u32,
        /// `SignatureSize`.
        entry: u32,
    },
}

impl fmt::Display for SignatureListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { found } => {
                write!(f, "{found} bytes, at most {} are read", SignatureLists::MAX_LEN)
            }
            Self::Truncated { offset, expected, found } => write!(
                f,
                "signature list at byte {offset} should have {expected} bytes, {found} are left"
            ),
            Self::Sizes { offset, list, header, entry } => write!(
                f,
                "signature list at byte {offset}: {list} bytes cannot hold a header of {header} and \
                 entries of {entry}"
            ),
        }
    }
}

impl std::error::Error for SignatureListError {}

impl SignatureList {
    /// A list of entries that all have the size of the first; none where there is no entry, one of
    /// another size, or one shorter than its owner.
    pub fn new(kind: Guid, entries: &[&[u8]]) -> Option<Self> {
        let len = entries.first()?.len();
        let entry_len = u32::try_from(len).ok().filter(|len| *len >= OWNER_LEN)?;
        let same = entries.iter().all(|entry| entry.len() == len);
        same.then(|| Self { kind, header: vec![], entry_len, entries: entries.concat() })
    }

    /// The entries (`EFI_SIGNATURE_DATA`): 16 bytes of owner, then certificate or hash.
    pub fn entries(&self) -> impl Iterator<Item = &[u8]> {
        // An entry has at least 16 bytes, by construction.
        self.entries.chunks_exact((self.entry_len as usize).max(1))
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, SignatureListError> {
        let (offset, found) = (reader.offset(), reader.rest().len());
        let truncated = |expected| SignatureListError::Truncated { offset, expected, found };
        let fixed = || truncated(FIXED_LEN);
        let kind = Guid::from_bytes(reader.array().ok_or_else(fixed)?);
        let list = reader.u32().ok_or_else(fixed)?;
        let (header, entry) = (reader.u32().ok_or_else(fixed)?, reader.u32().ok_or_else(fixed)?);
        let sizes = || SignatureListError::Sizes { offset, list, header, entry };
        let entries_len = list
            .checked_sub(FIXED_LEN)
            .and_then(|rest| rest.checked_sub(header))
            .filter(|rest| entry >= OWNER_LEN && rest.is_multiple_of(entry))
            .ok_or_else(sizes)?;
        let taken = reader.take_u64(header.into()).zip(reader.take_u64(entries_len.into()));
        let (header, entries) = taken.ok_or_else(|| truncated(list))?;
        Ok(Self { kind, header: header.to_vec(), entry_len: entry, entries: entries.to_vec() })
    }

    fn write(&self, out: &mut Vec<u8>) {
        let len = FIXED_LEN as usize + self.header.len() + self.entries.len();
        let words = [len, self.header.len(), self.entry_len as usize];
        out.extend(self.kind.as_bytes());
        for word in words {
            out.extend(u32::try_from(word).unwrap_or(u32::MAX).to_le_bytes());
        }
        out.extend(&self.header);
        out.extend(&self.entries);
    }
}

impl SignatureLists {
    /// Longest value that is read, in bytes.
    pub const MAX_LEN: usize = 1 << 20;

    /// Parses the value of a variable. [`SignatureLists::to_bytes`] gives the same bytes back.
    ///
    /// # Errors
    /// [`SignatureListError`], with the offset of the list that is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureListError> {
        if bytes.len() > Self::MAX_LEN {
            return Err(SignatureListError::TooLong { found: bytes.len() });
        }
        let mut reader = Reader::new(bytes);
        let mut lists = vec![];
        while !reader.is_empty() {
            lists.push(SignatureList::parse(&mut reader)?);
        }
        Ok(Self(lists))
    }

    /// The lists as the variable holds them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![];
        self.0.iter().for_each(|list| list.write(&mut out));
        out
    }

    /// The lists in order.
    pub fn lists(&self) -> &[SignatureList] {
        &self.0
    }

    /// Every entry with its type, in the order in which a firmware tries them.
    pub fn entries(&self) -> impl Iterator<Item = (Guid, &[u8])> {
        self.0.iter().flat_map(|list| list.entries().map(|entry| (list.kind, entry)))
    }

    /// The SHA-256 hashes among the entries, without their owners.
    pub fn hashes(&self) -> impl Iterator<Item = &[u8]> {
        let hashes = self.entries().filter(|(kind, _)| *kind == CERT_SHA256);
        hashes.filter_map(|(_, entry)| entry.get(OWNER_LEN as usize..))
    }

    /// What the variable holds after `new` was appended to it: entries that are there already are
    /// left out, and so is a list of which nothing is left (`FilterSignatureList` of EDK II). What
    /// `new` holds twice is appended twice.
    #[must_use]
    pub fn appended(&self, new: &Self) -> Self {
        let present: HashSet<_> = self.entries().collect();
        let filtered = new.0.iter().filter_map(|list| {
            let fresh = list.entries().filter(|entry| !present.contains(&(list.kind, *entry)));
            let entries = fresh.flatten().copied().collect::<Vec<_>>();
            let left = !entries.is_empty();
            left.then(|| SignatureList { entries, ..list.clone() })
        });
        Self(self.0.iter().cloned().chain(filtered).collect())
    }
}

impl From<Vec<SignatureList>> for SignatureLists {
    fn from(lists: Vec<SignatureList>) -> Self {
        Self(lists)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measurement::variable::CERT_X509;

    fn entry(byte: u8, len: usize) -> Vec<u8> {
        vec![byte; len]
    }

    fn list(kind: Guid, entries: &[Vec<u8>]) -> SignatureList {
        let entries: Vec<_> = entries.iter().map(Vec::as_slice).collect();
        SignatureList::new(kind, &entries).unwrap()
    }

    #[test]
    fn appending_leaves_out_what_is_there_and_lists_of_which_nothing_is_left() {
        let (a, b, c) = (entry(1, 48), entry(2, 48), entry(3, 48));
        let present = SignatureLists(vec![list(CERT_SHA256, &[a.clone(), b.clone()])]);
        let twice = list(CERT_SHA256, &[c.clone(), a.clone(), c.clone()]);
        let known = list(CERT_SHA256, std::slice::from_ref(&b));
        // The same bytes under another type are another entry.
        let other = list(CERT_X509, std::slice::from_ref(&a));
        let appended = present.appended(&SignatureLists(vec![twice, known, other.clone()]));
        let expected = [list(CERT_SHA256, &[a, b]), list(CERT_SHA256, &[c.clone(), c]), other];
        assert_eq!(appended.lists(), expected);
        assert_eq!(SignatureLists::parse(&appended.to_bytes()).unwrap(), appended);
    }

    #[track_caller]
    fn refused(words: [u32; 3], rest: usize, wanted: &str) {
        let mut bytes = CERT_SHA256.as_bytes().to_vec();
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.resize(bytes.len() + rest, 7);
        let error = SignatureLists::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        refused([28, 0, 0], 0, "entries of 0");
        refused([44, 0, 15], 16, "entries of 15");
        refused([27, 0, 16], 0, "27 bytes cannot hold");
        refused([45, 0, 16], 17, "45 bytes cannot hold");
        refused([44, u32::MAX, 16], 16, "a header of 4294967295");
        refused([60, 0, 16], 16, "should have 60 bytes, 44 are left");
        refused([44, 0, 16], 17, "at byte 44 should have 28 bytes, 1 are left");
        let long = vec![0; SignatureLists::MAX_LEN + 1];
        assert!(matches!(SignatureLists::parse(&long), Err(SignatureListError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn whatever_parses_is_written_back(words in prop::collection::vec(0u32..80, 3),
                                           rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = CERT_SHA256.as_bytes().to_vec();
            words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
            bytes.extend(rest);
            if let Ok(lists) = SignatureLists::parse(&bytes) {
                prop_assert_eq!(lists.to_bytes(), bytes);
                prop_assert_eq!(lists.appended(&lists), lists);
            }
        }
    }
}
