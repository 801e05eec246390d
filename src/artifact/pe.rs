//! PE images: the section table, and the bytes that the Authenticode digest covers.

use std::fmt;

use super::Source;
use super::hashing::Recipe;
use crate::measurement::text::printable;

/// Bytes of a file in which all of its headers must lie.
const HEADERS_MAX: u64 = 64 << 10;
/// Bytes of a section header.
const SECTION_HEADER: usize = 40;
/// The data directory that says where the signatures lie.
const SECURITY: usize = 4;

/// The headers of a PE image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pe {
    sections: Vec<Section>,
    /// Place and length of the runs that Authenticode covers, in its order.
    covered: Vec<(u64, u64)>,
    major_image_version: u16,
    size_of_image: u32,
    machine: u16,
    signed: bool,
}

/// An entry of the section table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// `Name`, up to its first NUL.
    pub name: Vec<u8>,
    /// `VirtualSize`: bytes in memory.
    pub virtual_size: u32,
    /// `VirtualAddress`, from the image's base.
    pub virtual_address: u32,
    /// `SizeOfRawData`: bytes in the file.
    pub raw_size: u32,
    /// `PointerToRawData`: where in the file.
    pub raw_start: u32,
}

/// A file that is no PE image, or none that firmware would load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeError {
    /// The file cannot be read.
    Read {
        /// What the system said.
        cause: String,
    },
    /// Something else than a PE image stands there.
    Magic {
        /// Which signature: `MZ`, `PE` or the optional header's.
        expected: &'static str,
        /// The bytes.
        found: Vec<u8>,
    },
    /// Headers or a section end beyond what holds them.
    Beyond {
        /// What.
        what: String,
        /// Where they may end.
        expected: u64,
        /// Where they end.
        found: u64,
    },
    /// Sections and signatures cover more bytes than the file has: they overlap.
    Overlap {
        /// Bytes in the file.
        expected: u64,
        /// Bytes covered.
        found: u64,
    },
}

impl fmt::Display for PeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { cause } => f.write_str(cause),
            Self::Magic { expected, found } => {
                write!(f, "not a PE image: expected {expected}, found {}", hex::encode(found))
            }
            Self::Beyond { what, expected, found } => {
                write!(f, "bad PE image: {what} end at byte {found}, beyond {expected}")
            }
            Self::Overlap { expected, found } => {
                write!(f, "bad PE image: its parts have {found} bytes, the file {expected}")
            }
        }
    }
}

impl std::error::Error for PeError {}

/// The start of a file, with checked access.
struct Headers(Vec<u8>);

impl Headers {
    fn read(source: &dyn Source) -> Result<Self, PeError> {
        let mut bytes = vec![0; source.len().min(HEADERS_MAX) as usize];
        let failed = |error: std::io::Error| PeError::Read { cause: error.to_string() };
        source.read_exact_at(0, &mut bytes).map_err(failed)?;
        Ok(Self(bytes))
    }

    fn bytes(&self, at: usize, len: usize) -> Result<&[u8], PeError> {
        let end = at.saturating_add(len);
        self.0.get(at..end).ok_or(PeError::Beyond {
            what: String::from("headers"),
            expected: self.0.len() as u64,
            found: end as u64,
        })
    }

    fn u16(&self, at: usize) -> Result<u16, PeError> {
        Ok(self.bytes(at, 2)?.iter().rev().fold(0, |sum, byte| (sum << 8) | u16::from(*byte)))
    }

    fn u32(&self, at: usize) -> Result<u32, PeError> {
        Ok(self.bytes(at, 4)?.iter().rev().fold(0, |sum, byte| (sum << 8) | u32::from(*byte)))
    }

    fn expect(&self, at: usize, magic: &[u8], expected: &'static str) -> Result<(), PeError> {
        let found = self.bytes(at, magic.len())?;
        if found == magic { Ok(()) } else { Err(PeError::Magic { expected, found: found.into() }) }
    }
}

impl Pe {
    /// Reads the headers.
    ///
    /// # Errors
    /// [`PeError`] for a file that edk2's `PeCoffLoaderGetPeHeader` or `MeasurePeImageAndExtend`
    /// would refuse, and for one whose parts overlap in the file.
    pub fn parse(source: &dyn Source) -> Result<Self, PeError> {
        let headers = Headers::read(source)?;
        headers.expect(0, b"MZ", "MZ")?;
        let coff = headers.u32(0x3c)? as usize;
        headers.expect(coff, b"PE\0\0", "PE")?;
        let coff = coff.saturating_add(4);
        let count = usize::from(headers.u16(coff + 2)?);
        let optional = coff + 20;
        let optional_size = usize::from(headers.u16(coff + 16)?);
        let directories = optional
            + match headers.u16(optional)? {
                0x010b => 96,
                0x020b => 112,
                other => {
                    let found = other.to_le_bytes().into();
                    return Err(PeError::Magic { expected: "an optional header", found });
                }
            };
        let size_of_headers = headers.u32(optional + 60)?;
        let table = optional + optional_size;
        let table_end = table + count * SECTION_HEADER;
        within("section headers", table_end as u64, size_of_headers.into())?;
        within("headers", size_of_headers.into(), source.len())?;

        let entries = headers.bytes(table, count * SECTION_HEADER)?.chunks_exact(SECTION_HEADER);
        let sections: Vec<Section> = entries
            .map(|entry| Section::parse(&Headers(entry.into())))
            .collect::<Result<_, _>>()?;
        for section in &sections {
            let end = u64::from(section.raw_start) + u64::from(section.raw_size);
            if section.raw_size > 0 {
                within(&format!("section {}", section.shown()), end, source.len())?;
            }
        }

        let directory_count = headers.u32(directories - 4)? as usize;
        let security = directories + 8 * SECURITY;
        let signatures = if directory_count > SECURITY {
            within("data directories", security as u64 + 8, table as u64)?;
            Some((security, headers.u32(security + 4)?))
        } else {
            None
        };
        let size_of_headers = u64::from(size_of_headers);
        let covered = covered(&sections, size_of_headers, optional + 64, signatures, source.len())?;
        Ok(Self {
            sections,
            covered,
            major_image_version: headers.u16(optional + 44)?,
            size_of_image: headers.u32(optional + 56)?,
            machine: headers.u16(coff)?,
            signed: signatures.is_some_and(|(_, size)| size > 0),
        })
    }

    /// What the Authenticode digest covers: the digest that firmware, shim and GRUB's `linux`
    /// extend into PCR 4 for the image. `source` is the one that was parsed.
    pub fn authenticode<'a>(&self, source: &'a dyn Source) -> Recipe<'a> {
        self.authenticode_at(source, 0)
    }

    /// The same for an image that lies inside `source`, `offset` bytes behind its start.
    pub fn authenticode_at<'a>(&self, source: &'a dyn Source, offset: u64) -> Recipe<'a> {
        let mut recipe = Recipe::default();
        for (start, len) in &self.covered {
            recipe.append(Recipe::range(source, offset.saturating_add(*start), *len));
        }
        recipe
    }

    /// The section table, in its order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// `MajorImageVersion`: in a Linux kernel, of its EFI stub's interface.
    pub fn major_image_version(&self) -> u16 {
        self.major_image_version
    }

    /// `SizeOfImage`: bytes in memory.
    pub fn size_of_image(&self) -> u32 {
        self.size_of_image
    }

    /// Whether it has signatures, of whatever worth.
    pub fn is_signed(&self) -> bool {
        self.signed
    }

    /// `Machine`, such as 0x8664 for x86-64.
    pub fn machine(&self) -> u16 {
        self.machine
    }
}

impl Section {
    fn parse(entry: &Headers) -> Result<Self, PeError> {
        let name = entry.bytes(0, 8)?;
        Ok(Self {
            name: name.iter().copied().take_while(|byte| *byte != 0).collect(),
            virtual_size: entry.u32(8)?,
            virtual_address: entry.u32(12)?,
            raw_size: entry.u32(16)?,
            raw_start: entry.u32(20)?,
        })
    }

    /// The name for people.
    pub fn shown(&self) -> String {
        printable(&String::from_utf8_lossy(&self.name), 8)
    }
}

fn within(what: &str, found: u64, expected: u64) -> Result<(), PeError> {
    if found <= expected {
        return Ok(());
    }
    Err(PeError::Beyond { what: what.to_owned(), expected, found })
}

/// The runs that edk2's `MeasurePeImageAndExtend` digests: the headers without checksum and entry of
/// the signatures, the sections by their place in the file, and what follows as many bytes as that
/// made, less the size of the signatures.
fn covered(
    sections: &[Section],
    size_of_headers: u64,
    checksum: usize,
    signatures: Option<(usize, u32)>,
    file: u64,
) -> Result<Vec<(u64, u64)>, PeError> {
    let checksum = checksum as u64;
    let mut ends = vec![(0, checksum)];
    if let Some((entry, _)) = signatures {
        ends.push((checksum + 4, entry as u64));
        ends.push((entry as u64 + 8, size_of_headers));
    } else {
        ends.push((checksum + 4, size_of_headers));
    }
    let mut runs: Vec<(u64, u64)> =
        ends.into_iter().map(|(start, end)| (start, end.saturating_sub(start))).collect();

    let mut sorted: Vec<&Section> = sections.iter().collect();
    sorted.sort_by_key(|section| section.raw_start);
    let mut sum = size_of_headers;
    for section in sorted.into_iter().filter(|section| section.raw_size > 0) {
        runs.push((section.raw_start.into(), section.raw_size.into()));
        sum += u64::from(section.raw_size);
    }
    let signed = signatures.map_or(0, |(_, size)| u64::from(size));
    if sum > file || (sum < file && sum + signed > file) {
        return Err(PeError::Overlap { expected: file, found: sum + signed });
    }
    if sum < file {
        runs.push((sum, file - sum - signed));
    }
    runs.retain(|(_, len)| *len > 0);
    Ok(runs)
}

#[cfg(test)]
mod tests;
