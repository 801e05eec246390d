//! Trees that hold only some of a boot's files: small inputs without kernels and modules.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::layers::DigestTable;
use crate::artifact::{Files, FilesError, Found, KnownDigests, Volume};

/// Files, and beneath them those that must be there too: what a log speaks of, and the modules that
/// GRUB's own list names. Where a tree is whole, nothing lies beneath it.
pub(super) struct Partial<'a> {
    files: &'a dyn Files,
    whole: Vec<Volume>,
    evidence: &'a DigestTable,
    /// Another boot's files: a kernel that is there is taken to have been there before.
    kernels: Option<&'a dyn Files>,
    modules: RefCell<BTreeMap<(Volume, String), BTreeSet<String>>>,
}

impl<'a> Partial<'a> {
    /// `files` upon `trees`, those of them that are folders or images.
    pub(super) fn new(
        files: &'a dyn Files,
        trees: &dyn Files,
        evidence: &'a DigestTable,
        kernels: Option<&'a dyn Files>,
    ) -> Self {
        let whole = [Volume::Esp, Volume::Boot].into_iter();
        let whole = whole.filter(|volume| is_whole(trees, *volume, evidence)).collect();
        Self { files, whole, evidence, kernels, modules: RefCell::default() }
    }

    /// Whether all files of a volume are at hand.
    pub(super) fn is_whole(&self, volume: Volume) -> bool {
        self.whole.contains(&volume)
    }

    /// Whether GRUB's list of modules beside it names a module: they are installed together.
    fn is_listed_module(&self, volume: Volume, path: &str) -> Result<bool, FilesError> {
        let Some((folder, name)) = path.strip_suffix(".mod").and_then(|path| path.rsplit_once('/'))
        else {
            return Ok(false);
        };
        let key = (volume, folder.to_owned());
        if let Some(modules) = self.modules.borrow().get(&key) {
            return Ok(modules.contains(name));
        }
        let list = self.files.find(volume, &format!("{folder}/moddep.lst"))?;
        let modules = list.map(|found| names_of(&found)).unwrap_or_default();
        let is_listed = modules.contains(name);
        self.modules.borrow_mut().insert(key, modules);
        Ok(is_listed)
    }

    fn is_beneath(&self, volume: Volume, path: &str) -> Result<Option<KnownDigests>, FilesError> {
        let other = match volume {
            Volume::Esp => Volume::Boot,
            Volume::Boot => Volume::Esp,
        };
        // The log does not say which device is which.
        if self.files.find(other, path)?.is_some() {
            return Ok(None);
        }
        if let Some(known) = self.evidence.get(volume, path) {
            return Ok(Some(known.clone()));
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_kernel = ["vmlinuz", "initrd", "initramfs", "linux"]
            .iter()
            .any(|start| name.starts_with(start));
        let was_there = match self.kernels.filter(|_| is_kernel) {
            Some(kernels) => kernels.find(volume, path)?.is_some(),
            None => self.is_listed_module(volume, path)?,
        };
        Ok(was_there.then(KnownDigests::default))
    }
}

impl Files for Partial<'_> {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        if let Some(found) = self.files.find(volume, path)? {
            return Ok(Some(found));
        }
        if self.is_whole(volume) {
            return Ok(None);
        }
        Ok(self.is_beneath(volume, path)?.map(Found::Digests))
    }

    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError> {
        self.files.names(volume, folder)
    }
}

/// Whether a tree has the bytes of a program that the log speaks of: then it has all files.
fn is_whole(trees: &dyn Files, volume: Volume, evidence: &DigestTable) -> bool {
    let is_program = |path: &String| {
        let lower = path.to_ascii_lowercase();
        let name = lower.rsplit('/').next().unwrap_or_default();
        lower.ends_with(".mod") || lower.ends_with(".efi") || name.starts_with("vmlinuz")
    };
    evidence
        .paths()
        .filter(is_program)
        .any(|path| matches!(trees.find(volume, &path), Ok(Some(Found::Bytes(_)))))
}

/// Longest `moddep.lst` that is read.
const MAX_LIST: u64 = 1 << 20;

fn names_of(found: &Found) -> BTreeSet<String> {
    let Found::Bytes(source) = found else { return BTreeSet::new() };
    let len = usize::try_from(source.len().min(MAX_LIST)).unwrap_or(0);
    let mut bytes = vec![0; len];
    if source.read_exact_at(0, &mut bytes).is_err() {
        return BTreeSet::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let names = text.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.to_owned()).collect()
}
