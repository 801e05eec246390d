//! Unified kernel images: which sections count, and what systemd-stub measures of them.

use std::fmt;

use super::Source;
use super::hashing::{Piece, Recipe};
use super::measured::{Content, Pending};
use super::pe::{Pe, PeError, Section};
use crate::measurement::PcrIndex;
use crate::measurement::text::printable;

/// Bytes of a section that is read as text: command line, os-release, keys.
const TEXT_MAX: u32 = 1 << 20;
/// What stands before the text of a command line in an image, where it is told.
pub const CMDLINE_WORDS: &str = "section .cmdline: ";
/// Longest such text; the kernel takes no more on x86.
const CMDLINE_MAX: usize = 2048;
/// Bytes that a section may have in memory beyond those in the file.
const ZEROS_MAX: u32 = 1 << 20;
/// `Machine` of x86-64, whose firmware has no devicetree.
const X86_64: u16 = 0x8664;

/// A unified kernel image, or an addon to one.
pub struct Uki<'a> {
    source: &'a dyn Source,
    pe: Pe,
}

/// Sections with a meaning, by systemd's names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sections {
    found: Vec<(&'static str, Section)>,
}

/// An image whose boot cannot be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UkiError {
    /// The image, or the kernel in it, is no PE image.
    Pe(PeError),
    /// The image was not made with systemd-stub, or with one that is not known.
    Stub {
        /// What its `.sdmagic` says, where it has one.
        found: Option<String>,
    },
    /// A section that a boot needs is not there.
    Missing {
        /// Its name.
        section: &'static str,
    },
    /// There is no such profile.
    Profile {
        /// The number that was asked for.
        found: u32,
    },
    /// Sections of one name: which of them counts depends on the stub's release.
    Ambiguous {
        /// The name.
        section: &'static str,
    },
    /// Whether a section counts depends on the machine's hardware.
    Hardware {
        /// Its name.
        section: &'static str,
    },
    /// A section is larger than can be true.
    Size {
        /// Its name.
        section: String,
        /// Bytes that it may have.
        expected: u32,
        /// Bytes that it has.
        found: u32,
    },
    /// The kernel is older than the initrd protocol of EFI (Linux 5.8).
    OldKernel,
    /// Something that the stub's release may or may not do.
    Release {
        /// The stub's major version.
        found: u32,
        /// What it may do.
        what: String,
    },
}

impl fmt::Display for UkiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pe(error) => error.fmt(f),
            Self::Stub { found: None } => f.write_str("not an image made with systemd-stub"),
            Self::Stub { found: Some(found) } => {
                write!(f, "unknown release of systemd-stub: {}", printable(found, 64))
            }
            Self::Missing { section } => write!(f, "the image has no {section} section"),
            Self::Profile { found } => write!(f, "the image has no profile {found}"),
            Self::Ambiguous { section } => write!(f, "the image has several {section} sections"),
            Self::Hardware { section } => {
                write!(f, "whether {section} counts depends on the machine's hardware")
            }
            Self::Size { section, expected, found } => {
                let name = printable(section, 8);
                write!(f, "section {name} has {found} bytes, at most {expected} are believed")
            }
            Self::OldKernel => f.write_str("the kernel in the image is older than Linux 5.8"),
            Self::Release { found, what } => {
                write!(f, "systemd-stub {found} may or may not {}", printable(what, 128))
            }
        }
    }
}

impl std::error::Error for UkiError {}

impl From<PeError> for UkiError {
    fn from(error: PeError) -> Self {
        Self::Pe(error)
    }
}

/// The sections that systemd-stub measures, in its order (`unified_sections`), and the first release
/// that does.
const MEASURED: &[(&str, u32)] = &[
    (".linux", 252),
    (".osrel", 252),
    (".cmdline", 252),
    (".initrd", 252),
    (".ucode", 256),
    (".splash", 252),
    (".dtb", 252),
    (".uname", 254),
    (".sbat", 254),
    (".pcrpkey", 252),
    (".profile", 257),
    (".dtbauto", 257),
    (".hwids", 257),
    (".efifw", 258),
];
/// Known to the stub, never measured: it holds the signature of the values measured.
const SIGNATURES: &str = ".pcrsig";
/// Releases of systemd-stub whose sources were read.
const RELEASES: std::ops::RangeInclusive<u32> = 252..=262;

impl<'a> Uki<'a> {
    /// Reads the headers of an image or addon.
    ///
    /// # Errors
    /// [`UkiError::Pe`].
    pub fn open(source: &'a dyn Source) -> Result<Self, UkiError> {
        Ok(Self { source, pe: Pe::parse(source)? })
    }

    /// The headers.
    pub fn pe(&self) -> &Pe {
        &self.pe
    }

    /// Whether the image has sections of a kernel image: what firmware starts is a UKI.
    pub fn has_kernel(&self) -> bool {
        self.pe.sections().iter().any(|section| section.name == b".linux")
    }

    /// The firmware's measurement of the image, in PCR 4.
    pub fn image(&self) -> Pending<'a> {
        let content = Content::Recipe(self.pe.authenticode(self.source));
        Pending::image(self.source.len(), content)
    }

    /// The major version of the stub, from its `.sdmagic`.
    ///
    /// # Errors
    /// [`UkiError::Stub`] for another stub, or a release that is not known.
    pub fn release(&self) -> Result<u32, UkiError> {
        let magic = self.pe.sections().iter().find(|section| section.name == b".sdmagic");
        let magic = magic.ok_or(UkiError::Stub { found: None })?;
        let text = String::from_utf8_lossy(&self.text(magic)?).into_owned();
        let version = text.split_once("LoaderInfo: systemd-stub ").map(|(_, version)| version);
        let version = version.ok_or_else(|| UkiError::Stub { found: Some(text.clone()) })?;
        let digits = version.split(|other: char| !other.is_ascii_digit()).next();
        let release = digits.and_then(|digits| digits.parse().ok());
        release.filter(|release| RELEASES.contains(release)).ok_or_else(|| UkiError::Stub {
            found: Some(version.trim_end_matches(" ####\0").into()),
        })
    }

    /// The sections of a profile, which begin with those of the base (`find_sections`). Before 257
    /// there are no profiles.
    ///
    /// # Errors
    /// [`UkiError::Profile`], [`UkiError::Ambiguous`] or [`UkiError::Hardware`].
    pub fn sections(&self, release: u32, profile: u32) -> Result<Sections, UkiError> {
        let mut sections = Sections::default();
        let table = self.pe.sections();
        if release < 257 {
            self.find(table, release, &mut sections)?;
            return Ok(sections);
        }
        // The base, then each profile from its `.profile` on.
        let starts_one = |section: &Section| section.name == b".profile";
        let mut parts = table.chunk_by(|_, next| !starts_one(next)).peekable();
        let base = parts.next_if(|part| !part.first().is_some_and(starts_one));
        self.find(base.unwrap_or_default(), release, &mut sections)?;
        match (parts.nth(profile as usize), profile) {
            (Some(part), _) => self.find(part, release, &mut sections)?,
            (None, 0) => {}
            (None, found) => return Err(UkiError::Profile { found }),
        }
        Ok(sections)
    }

    /// The sections of an addon, in which profiles do not count.
    ///
    /// # Errors
    /// [`UkiError::Ambiguous`] or [`UkiError::Hardware`].
    pub fn sections_of_addon(&self, release: u32) -> Result<Sections, UkiError> {
        let mut sections = Sections::default();
        self.find(self.pe.sections(), release, &mut sections)?;
        Ok(sections)
    }

    /// Adds the sections of a part of the table, in place of those of the same name.
    fn find(&self, part: &[Section], release: u32, into: &mut Sections) -> Result<(), UkiError> {
        let hwids = part.iter().any(|section| section.name == b".hwids");
        let known = MEASURED.iter().filter(|(_, since)| release >= *since).map(|(name, _)| *name);
        for name in known.chain([SIGNATURES]) {
            // Before 257 the last one counts, and a longer name counts as well.
            let matching = |section: &&Section| match release {
                257.. => section.name == name.as_bytes(),
                _ => section.name.starts_with(name.as_bytes()),
            };
            let mut matches = part.iter().filter(matching);
            let Some(section) = matches.next() else { continue };
            if release < 257 && (matches.next().is_some() || section.name != name.as_bytes()) {
                return Err(UkiError::Ambiguous { section: name });
            }
            match name {
                // A devicetree is chosen by the firmware's own, or by identifiers of the hardware.
                ".dtbauto" if self.pe.machine() == X86_64 && !hwids => continue,
                ".dtbauto" | ".efifw" => return Err(UkiError::Hardware { section: name }),
                _ => {}
            }
            into.found.retain(|(other, _)| *other != name);
            into.found.push((name, section.clone()));
        }
        Ok(())
    }

    /// A section's bytes in memory.
    ///
    /// # Errors
    /// [`UkiError::Size`] where it would mostly be zeros.
    pub fn content(&self, section: &Section) -> Result<Recipe<'a>, UkiError> {
        let in_file = section.raw_size.min(section.virtual_size);
        let zeros = section.virtual_size - in_file;
        if zeros > ZEROS_MAX {
            let expected = in_file.saturating_add(ZEROS_MAX);
            return Err(section.oversized(expected));
        }
        let mut recipe = Recipe::range(self.source, section.raw_start.into(), in_file.into());
        recipe.push(Piece::Zeros { len: zeros.into() });
        Ok(recipe)
    }

    /// A section that is read as text, as it lies in memory.
    ///
    /// # Errors
    /// [`UkiError::Size`] beyond 1 MiB, [`UkiError::Pe`] when it cannot be read.
    pub fn text(&self, section: &Section) -> Result<Vec<u8>, UkiError> {
        if section.virtual_size > TEXT_MAX {
            return Err(section.oversized(TEXT_MAX));
        }
        let mut bytes = vec![0; section.virtual_size as usize];
        let in_file = section.raw_size.min(section.virtual_size) as usize;
        let read = bytes.get_mut(..in_file).unwrap_or_default();
        let failed = |error: std::io::Error| PeError::Read { cause: error.to_string() };
        self.source.read_exact_at(section.raw_start.into(), read).map_err(failed)?;
        Ok(bytes)
    }

    /// What the stub measures into PCR 11: for each section its name with a NUL, then its bytes
    /// (`measure_sections`).
    ///
    /// # Errors
    /// As [`Uki::content`].
    pub fn measured(&self, sections: &Sections) -> Result<Vec<Pending<'a>>, UkiError> {
        let mut pending = vec![];
        for (name, _) in MEASURED {
            let Some(section) = sections.get(name) else { continue };
            let words = [format!("section {name}"), self.told(name, section)];
            let recipes = [Recipe::bytes(format!("{name}\0")), self.content(section)?];
            for (words, recipe) in words.into_iter().zip(recipes) {
                let (pcr, content) = (PcrIndex::KERNEL_BOOT, Content::Recipe(recipe));
                pending.push(Pending { pcr, words, content });
            }
        }
        Ok(pending)
    }

    /// A section in words: of the command line its text too, where that can be told whole.
    fn told(&self, name: &str, section: &Section) -> String {
        let text = match name {
            ".cmdline" => self.text(section).ok(),
            _ => None,
        };
        let text = text.and_then(|bytes| {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            let text = std::str::from_utf8(bytes.get(..end)?).ok()?;
            Some(printable(text.trim_end(), CMDLINE_MAX + 1))
                .filter(|text| text.len() <= CMDLINE_MAX)
        });
        match text {
            Some(text) => format!("{CMDLINE_WORDS}{text}"),
            None => format!("section {name}"),
        }
    }

    /// The firmware's measurement of the kernel in the image, in PCR 4, when the stub loads it with
    /// Secure Boot off. With Secure Boot on the stub vouches for it, and it is not measured.
    ///
    /// # Errors
    /// [`UkiError::Missing`], [`UkiError::Pe`] or [`UkiError::OldKernel`].
    pub fn kernel(&self, sections: &Sections) -> Result<Pending<'a>, UkiError> {
        let section = sections.get(".linux").ok_or(UkiError::Missing { section: ".linux" })?;
        if section.virtual_size > section.raw_size {
            return Err(section.oversized(section.raw_size));
        }
        let (start, len) = (section.raw_start.into(), section.virtual_size.into());
        let pe = Pe::parse(&Window { source: self.source, start, len })?;
        if pe.major_image_version() < 1 {
            return Err(UkiError::OldKernel);
        }
        Ok(Pending::image(len, Content::Recipe(pe.authenticode_at(self.source, start))))
    }
}

impl Section {
    fn oversized(&self, expected: u32) -> UkiError {
        let section = String::from_utf8_lossy(&self.name).into_owned();
        UkiError::Size { section, expected, found: self.virtual_size }
    }
}

impl Sections {
    /// A section by its name; one without bytes is not there.
    pub fn get(&self, name: &str) -> Option<&Section> {
        let found = self.found.iter().find(|(other, _)| *other == name);
        found.map(|(_, section)| section).filter(|section| section.virtual_size > 0)
    }
}

/// Some bytes of a source as a source.
struct Window<'a> {
    source: &'a dyn Source,
    start: u64,
    len: u64,
}

impl Source for Window<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len) {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.source.read_exact_at(self.start + offset, buffer)
    }
}

#[cfg(test)]
mod tests;
