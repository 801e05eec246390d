//! A TPM that is elsewhere: the public half of its storage root key, as `tpm2_readpublic` and
//! `systemd-analyze srk` write it.

mod wrap;

use std::fmt;

use super::{SRK_HANDLE, SrkPublic};
use crate::measurement::PcrBank;

/// `TPM_ALG_ID` (part 2, 6.3) and `TPM_ECC_CURVE` (6.4).
const RSA: u16 = 0x0001;
const AES: u16 = 0x0006;
const SHA256: u16 = 0x000b;
const NULL: u16 = 0x0010;
const ECC: u16 = 0x0023;
const CFB: u16 = 0x0043;
const P256: u16 = 0x0003;
/// `TPMA_OBJECT` (8.3): what makes it a storage key that never leaves its TPM.
const FIXED: u32 = 1 << 1 | 1 << 4;
const STORAGE: u32 = 1 << 16 | 1 << 17;
const SIGN: u32 = 1 << 18;

/// A file that is no public storage root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SrkFileError {
    /// Its sizes do not add up.
    Malformed,
    /// Some other key, or one that this cannot seal to.
    Unfit {
        /// Which part of it.
        part: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: u32,
    },
}

impl fmt::Display for SrkFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not a TPM2B_PUBLIC"),
            Self::Unfit { part, expected, found } => {
                write!(f, "{part}: expected {expected}, found 0x{found:x}")
            }
        }
    }
}

impl std::error::Error for SrkFileError {}

/// A storage root key of which only the public half is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrkElsewhere {
    /// As tokens remember it.
    pub srk: SrkPublic,
    numbers: Numbers,
}

/// What others encrypt to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Numbers {
    /// A point on NIST P-256, 32 bytes a coordinate.
    Ecc([u8; 32], [u8; 32]),
    /// Modulus of 2048 bits; the exponent is 65537.
    Rsa(Vec<u8>),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], SrkFileError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(SrkFileError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, SrkFileError> {
        let bytes = self.take(2)?.first_chunk().ok_or(SrkFileError::Malformed)?;
        Ok(u16::from_be_bytes(*bytes))
    }

    fn u32(&mut self) -> Result<u32, SrkFileError> {
        let bytes = self.take(4)?.first_chunk().ok_or(SrkFileError::Malformed)?;
        Ok(u32::from_be_bytes(*bytes))
    }

    fn sized(&mut self) -> Result<&'a [u8], SrkFileError> {
        let length = self.u16()?;
        self.take(length.into())
    }

    fn expect(
        &mut self,
        part: &'static str,
        value: u16,
        expected: &'static str,
    ) -> Result<(), SrkFileError> {
        match self.u16()? {
            found if found == value => Ok(()),
            found => Err(SrkFileError::Unfit { part, expected, found: found.into() }),
        }
    }
}

impl SrkElsewhere {
    /// Most bytes of a file.
    pub const MAX_FILE: usize = 1024;

    /// Reads a `TPM2B_PUBLIC`. The key is taken to lie at [`SRK_HANDLE`].
    ///
    /// # Errors
    /// [`SrkFileError`], also for a key that could leave its TPM.
    pub fn from_file(bytes: &[u8]) -> Result<Self, SrkFileError> {
        let mut reader = Reader(bytes);
        let public = reader.sized()?;
        if !reader.0.is_empty() {
            return Err(SrkFileError::Malformed);
        }
        let numbers = parse(public)?;
        wrap::check(&numbers)?;
        let digest = PcrBank::Sha256.hash(public);
        let name = [&SHA256.to_be_bytes(), digest.as_bytes()].concat();
        Ok(Self { srk: SrkPublic { handle: SRK_HANDLE, name, public: public.to_vec() }, numbers })
    }
}

/// Reads a `TPMT_PUBLIC` (12.2.4) of a storage key with systemd's or the TCG's parameters.
fn parse(public: &[u8]) -> Result<Numbers, SrkFileError> {
    let mut reader = Reader(public);
    let algorithm = reader.u16()?;
    reader.expect("name algorithm", SHA256, "SHA-256")?;
    let found = reader.u32()?;
    let unfit = |part, expected, found| Err(SrkFileError::Unfit { part, expected, found });
    if found & FIXED != FIXED || found & STORAGE != STORAGE || found & SIGN != 0 {
        return unfit("attributes", "a storage key that never leaves its TPM", found);
    }
    reader.sized()?;
    reader.expect("symmetric algorithm", AES, "AES")?;
    reader.expect("symmetric key bits", 128, "128")?;
    reader.expect("symmetric mode", CFB, "CFB")?;
    reader.expect("scheme", NULL, "none")?;
    let numbers = match algorithm {
        ECC => {
            reader.expect("curve", P256, "NIST P-256")?;
            reader.expect("key derivation", NULL, "none")?;
            Numbers::Ecc(coordinate(reader.sized()?)?, coordinate(reader.sized()?)?)
        }
        RSA => {
            reader.expect("key bits", 2048, "2048")?;
            match reader.u32()? {
                0 | 65537 => {}
                found => return unfit("exponent", "65537", found),
            }
            let modulus = reader.sized()?;
            if modulus.len() != 256 {
                return Err(SrkFileError::Malformed);
            }
            Numbers::Rsa(modulus.to_vec())
        }
        found => return unfit("algorithm", "ECC or RSA", found.into()),
    };
    match reader.0.is_empty() {
        true => Ok(numbers),
        false => Err(SrkFileError::Malformed),
    }
}

/// A number of 32 bytes at most, with the zeros in front of it that a TPM may leave out.
fn coordinate(bytes: &[u8]) -> Result<[u8; 32], SrkFileError> {
    let mut whole = [0; 32];
    let from = whole.len().checked_sub(bytes.len()).ok_or(SrkFileError::Malformed)?;
    whole.get_mut(from..).ok_or(SrkFileError::Malformed)?.copy_from_slice(bytes);
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The generator of the curve (SEC 2, 2.4.2) as a key.
    fn ecc() -> Vec<u8> {
        let mut public = vec![0, 0x23, 0, 0x0b, 0, 3, 4, 0x72, 0, 0, 0, 6, 0, 128, 0, 0x43];
        public.extend([0, 0x10, 0, 3, 0, 0x10]);
        for number in [
            "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
            "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
        ] {
            public.extend([0, 32]);
            public.extend(hex::decode(number).expect("hexadecimal digits"));
        }
        [(public.len() as u16).to_be_bytes().to_vec(), public].concat()
    }

    #[test]
    fn a_storage_key_is_read_and_its_name_is_that_of_its_public_area() {
        let key = SrkElsewhere::from_file(&ecc()).expect("a storage key");
        assert_eq!((key.srk.handle, key.srk.name.len()), (SRK_HANDLE, 34));
        assert!(matches!(key.numbers, Numbers::Ecc(x, _) if x.starts_with(&[0x6b, 0x17])));
        assert_eq!(coordinate(&[9; 31]).map(|whole| (whole[0], whole[1])), Ok((0, 9)));
        assert_eq!(coordinate(&[9; 33]), Err(SrkFileError::Malformed));
    }

    #[test]
    fn what_is_not_one_is_named() {
        let unfit = |at: usize, byte: u8| {
            let mut bytes = ecc();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            SrkElsewhere::from_file(&bytes).map_err(|error| error.to_string())
        };
        for (at, byte, part) in [
            (3, 0x24, "algorithm"),
            (5, 0x0c, "name algorithm"),
            // Neither fixed nor restricted, or one that signs.
            (9, 0x60, "attributes"),
            (7, 0x00, "attributes"),
            (7, 0x07, "attributes"),
            (15, 0, "symmetric key bits"),
            (17, 0x44, "symmetric mode"),
            (21, 4, "curve"),
            (30, 0, "point"),
        ] {
            let said = unfit(at, byte).expect_err(part);
            assert!(said.starts_with(&format!("{part}: expected")), "{said}");
        }
        for length in 0..ecc().len() {
            assert!(SrkElsewhere::from_file(ecc().get(..length).unwrap_or_default()).is_err());
        }
        assert!(SrkElsewhere::from_file(&[ecc(), vec![0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = SrkElsewhere::from_file(&bytes);
        }
    }
}
