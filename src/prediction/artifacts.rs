//! Digests of files, each computed once however often it is asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use super::layers::DigestTable;
use super::plan::{Planned, pcr};
use crate::artifact::hashing::{Memory, Recipe};
use crate::artifact::pe::Pe;
use crate::artifact::{Files, Found, KnownDigests, Measured, Pending, Source, Volume};
use crate::measurement::{Digest, PcrBank};

/// Largest file that is read for its text.
const MAX_TEXT: u64 = 1 << 20;

/// Digests, and whether only the log of the boot that ran speaks of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) digests: Vec<Digest>,
    pub(super) from_log: bool,
}

/// How several files are joined to one initrd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    /// The next one begins at a multiple of four: GRUB, systemd-boot 257 and later, systemd-stub.
    Aligned,
    /// One right after the other.
    Plain,
    /// It is not known which.
    Unknown,
}

type Answer = Result<Known, String>;

/// The files of one boot, as their digests.
pub(super) struct Artifacts<'a> {
    files: &'a dyn Files,
    evidence: &'a DigestTable,
    banks: Vec<PcrBank>,
    memory: &'a Memory,
    plain: RefCell<BTreeMap<(Volume, String), Answer>>,
    images: RefCell<BTreeMap<(Volume, String), Answer>>,
}

impl<'a> Artifacts<'a> {
    /// The files, what a log proves of those that are not among them, and the digests that are
    /// known already.
    pub(super) fn new(
        files: &'a dyn Files,
        evidence: &'a DigestTable,
        banks: &[PcrBank],
        memory: &'a Memory,
    ) -> Self {
        let (plain, images) = (RefCell::default(), RefCell::default());
        Self { files, evidence, banks: banks.to_vec(), memory, plain, images }
    }

    pub(super) fn files(&self) -> &'a dyn Files {
        self.files
    }

    pub(super) fn banks(&self) -> &[PcrBank] {
        &self.banks
    }

    /// Digests what several events cover at once.
    pub(super) fn measure(&self, pending: &[Pending<'_>]) -> io::Result<Vec<Measured>> {
        Pending::measure_with(pending, &self.banks, self.memory)
    }

    /// Whether a file is there, or its digests were given.
    pub(super) fn is_given(&self, volume: Volume, path: &str) -> bool {
        !matches!(self.files.find(volume, path), Ok(None))
    }

    /// Whether the log has the Authenticode digest of a file, and no other.
    pub(super) fn is_known_as_image(&self, volume: Volume, path: &str) -> bool {
        let logged = self.evidence.get(volume, path);
        logged.is_some_and(|known| known.plain.is_empty() && !known.authenticode.is_empty())
    }

    /// The digests of a file's bytes, or why they are not known.
    pub(super) fn plain(&self, volume: Volume, path: &str) -> Answer {
        let key = (volume, path.to_owned());
        if let Some(known) = self.plain.borrow().get(&key) {
            return known.clone();
        }
        let found = self.material(volume, path).and_then(|material| match material {
            Material::Bytes(source) => self.digest_of(&Recipe::whole(source.as_ref()), path),
            Material::Known(known, from_log) => known_or(known.plain, from_log, "digest", path),
        });
        self.plain.borrow_mut().insert(key, found.clone());
        found
    }

    /// The digests that PCR 4 gets of a PE image, or why they are not known.
    pub(super) fn image(&self, volume: Volume, path: &str) -> Answer {
        let key = (volume, path.to_owned());
        if let Some(known) = self.images.borrow().get(&key) {
            return known.clone();
        }
        let found = self.material(volume, path).and_then(|material| match material {
            Material::Bytes(source) => {
                let pe = Pe::parse(source.as_ref()).map_err(|error| format!("{path}: {error}"))?;
                self.digest_of(&pe.authenticode(source.as_ref()), path)
            }
            Material::Known(known, from_log) => {
                known_or(known.authenticode, from_log, "Authenticode digest", path)
            }
        });
        self.images.borrow_mut().insert(key, found.clone());
        found
    }

    /// The measurement of a PE image into PCR 4.
    pub(super) fn image_measurement(&self, volume: Volume, path: &str) -> Planned {
        let found = self.image(volume, path);
        let from_log = found.as_ref().is_ok_and(|known| known.from_log);
        Planned {
            pcr: pcr(4),
            what: format!("image {path}"),
            digests: found.map(|known| known.digests),
            source: (!from_log).then(|| path.to_owned()),
        }
    }

    /// The digests of files one after the other.
    pub(super) fn joined(&self, volume: Volume, paths: &[String], joint: Joint) -> Answer {
        if let [path] = paths {
            return self.plain(volume, path);
        }
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        for path in paths {
            match self.files.find(volume, path).map_err(|error| error.to_string())? {
                Some(Found::Bytes(source)) => sources.push(source),
                _ => {
                    return Err(format!(
                        "of several initrds the bytes are needed, and {path} has none here"
                    ));
                }
            }
        }
        let mut recipe = Recipe::default();
        for (index, source) in sources.iter().enumerate() {
            recipe.append(Recipe::whole(source.as_ref()));
            let is_odd = !recipe.len().is_multiple_of(4) && index + 1 < sources.len();
            match joint {
                Joint::Aligned => {
                    if is_odd {
                        recipe.pad4()
                    }
                }
                Joint::Plain => {}
                Joint::Unknown if is_odd => {
                    return Err("versions of systemd-boot differ in how they join several initrds"
                        .to_owned());
                }
                Joint::Unknown => {}
            }
        }
        self.digest_of(&recipe, &paths.join(" "))
    }

    /// The bytes of a small file; `None` where there is no such file or only its digest is known.
    pub(super) fn bytes(&self, volume: Volume, path: &str) -> Result<Option<Vec<u8>>, String> {
        match self.files.find(volume, path).map_err(|error| error.to_string())? {
            Some(Found::Bytes(source)) => read(source.as_ref(), MAX_TEXT).map(Some),
            Some(Found::Digests(_)) | None => Ok(None),
        }
    }

    fn digest_of(&self, recipe: &Recipe<'_>, path: &str) -> Answer {
        let rows = self.memory.digest(std::slice::from_ref(recipe), &self.banks);
        let rows = rows.map_err(|error| format!("{path}: {error}"))?;
        known_or(rows.into_iter().next().unwrap_or_default(), false, "digest", path)
    }

    fn material(&self, volume: Volume, path: &str) -> Result<Material, String> {
        let logged = self.evidence.get(volume, path);
        Ok(match self.files.find(volume, path).map_err(|error| error.to_string())? {
            Some(Found::Bytes(source)) => Material::Bytes(source),
            Some(Found::Digests(known)) => Material::Known(with_evidence(known, logged), false),
            None => match logged {
                Some(known) => Material::Known(known.clone(), true),
                None => return Err(format!("{path} is not there")),
            },
        })
    }
}

/// What a file's digests come from.
enum Material {
    Bytes(Box<dyn Source>),
    /// Whether only the log speaks of them.
    Known(KnownDigests, bool),
}

fn known_or(digests: Vec<Digest>, from_log: bool, what: &str, path: &str) -> Answer {
    if digests.is_empty() {
        return Err(format!("the {what} of {path} is not known"));
    }
    Ok(Known { digests, from_log })
}

/// Known digests, and those that the log has of the same bytes.
fn with_evidence(mut known: KnownDigests, logged: Option<&KnownDigests>) -> KnownDigests {
    let Some(logged) = logged else { return known };
    let is_same = |a: &[Digest], b: &[Digest]| {
        let mut common =
            a.iter().filter_map(|a| Some((a, b.iter().find(|b| b.bank() == a.bank())?)));
        common.next().is_some_and(|(a, b)| a == b) && common.all(|(a, b)| a == b)
    };
    let add = |known: &mut Vec<Digest>, logged: &[Digest]| {
        let is_new = |new: &&Digest| known.iter().all(|old| old.bank() != new.bank());
        let new: Vec<Digest> = logged.iter().filter(is_new).copied().collect();
        known.extend(new);
    };
    // The same bytes have the same Authenticode digest; the reverse does not hold.
    let same_bytes = is_same(&known.plain, &logged.plain);
    if same_bytes {
        add(&mut known.plain, &logged.plain);
    }
    if same_bytes || is_same(&known.authenticode, &logged.authenticode) {
        add(&mut known.authenticode, &logged.authenticode);
    }
    known
}

fn read(source: &dyn Source, limit: u64) -> Result<Vec<u8>, String> {
    let len = source.len();
    if len > limit {
        return Err(format!("{len} bytes, at most {limit} are read"));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|error| error.to_string())?];
    source.read_exact_at(0, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}
