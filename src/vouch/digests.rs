//! The two digests under which package databases know a file.

use std::io;

use md5::{Digest as _, Md5};
use sha2::Sha256;

use crate::artifact::Source;
use crate::measurement::{Digest, PcrBank};

/// Bytes that are read at a time.
const CHUNK: u64 = 256 << 10;
/// MD5 of nothing (RFC 1321, A.5).
const MD5_OF_NOTHING: [u8; 16] = [
    0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04, 0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8, 0x42, 0x7e,
];

/// The digests of a file's bytes.
///
/// MD5 is there because dpkg's database has nothing else, and is good for finding again the bytes
/// that somebody else packaged: a second preimage of them is out of reach. Two files of one MD5 can
/// be made by one who makes both, so whoever gets a crafted file into an installed package has its
/// twin vouched for too. What root installs is trusted with more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileDigests {
    /// SHA-256, as in rpm's database and in notes of what was built.
    pub sha256: Digest,
    /// MD5, as in dpkg's database.
    pub md5: [u8; 16],
}

impl FileDigests {
    /// The digests of all bytes of a source, which is read once, from first to last.
    ///
    /// # Errors
    /// Those of [`Source::read_exact_at`].
    pub fn of(source: &dyn Source) -> io::Result<Self> {
        let (mut sha256, mut md5) = (Sha256::new(), Md5::new());
        let len = source.len();
        let mut buffer = vec![0; usize::try_from(len.min(CHUNK)).map_err(io::Error::other)?];
        let mut at = 0;
        while at < len {
            let wanted = usize::try_from((len - at).min(CHUNK)).map_err(io::Error::other)?;
            let chunk = buffer.get_mut(..wanted).ok_or(io::ErrorKind::InvalidInput)?;
            source.read_exact_at(at, chunk)?;
            sha256.update(&*chunk);
            md5.update(&*chunk);
            at += wanted as u64;
        }
        let sha256 = Digest::from_bytes(PcrBank::Sha256, &sha256.finalize());
        Ok(Self { sha256: sha256.map_err(io::Error::other)?, md5: md5.finalize().into() })
    }

    /// The digests of bytes that are at hand.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self { sha256: PcrBank::Sha256.hash(bytes), md5: Md5::digest(bytes).into() }
    }

    /// Whether these are the digests of an empty file.
    pub fn is_of_nothing(&self) -> bool {
        self.md5 == MD5_OF_NOTHING || self.sha256 == PcrBank::Sha256.hash(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl Source for Bytes {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            assert!(buffer.len() as u64 <= CHUNK);
            let from = offset as usize;
            let bytes = self.0.get(from..from + buffer.len());
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    fn of(bytes: &[u8]) -> FileDigests {
        FileDigests::of(&Bytes(bytes.to_vec())).unwrap()
    }

    #[test]
    fn both_digests_are_those_of_the_standards() {
        let abc = of(b"abc");
        assert_eq!(hex::encode(abc.md5), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(abc.sha256, PcrBank::Sha256.hash(b"abc"));
        assert!(of(b"").is_of_nothing() && !abc.is_of_nothing());
        assert_eq!(of(b"").md5, MD5_OF_NOTHING);
    }

    #[test]
    fn chunks_make_no_difference() {
        for len in [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let found = of(&bytes);
            assert_eq!(found, FileDigests::of_bytes(&bytes), "{len}");
        }
    }
}
