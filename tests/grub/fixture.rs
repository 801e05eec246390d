//! Files of a recorded boot: small ones with their bytes, the others by digest.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vmseal::artifact::{Files, FilesError, Found, KnownDigests, Source, Volume};
use vmseal::measurement::{Digest, EventLog, PcrBank};

pub struct Bytes(pub Vec<u8>);

impl Source for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let bytes = self.0.get(start..start + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Files by volume and path.
#[derive(Default, Clone)]
pub struct MemoryFiles {
    bytes: BTreeMap<(Volume, String), Vec<u8>>,
    digests: BTreeMap<(Volume, String), KnownDigests>,
}

impl MemoryFiles {
    pub fn put(&mut self, volume: Volume, path: &str, bytes: impl Into<Vec<u8>>) {
        self.bytes.insert((volume, path.to_owned()), bytes.into());
    }

    pub fn remove(&mut self, volume: Volume, path: &str) {
        self.bytes.remove(&(volume, path.to_owned()));
        self.digests.remove(&(volume, path.to_owned()));
    }

    pub fn text(&self, volume: Volume, path: &str) -> String {
        String::from_utf8(self.bytes[&(volume, path.to_owned())].clone()).unwrap()
    }
}

impl Files for MemoryFiles {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        let key = (volume, path.to_owned());
        if let Some(bytes) = self.bytes.get(&key) {
            return Ok(Some(Found::Bytes(Box::new(Bytes(bytes.clone())))));
        }
        Ok(self.digests.get(&key).cloned().map(Found::Digests))
    }

    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError> {
        let start = format!("{folder}/");
        let paths = self.bytes.keys().chain(self.digests.keys());
        let below =
            paths.filter(|(v, _)| *v == volume).filter_map(|(_, path)| path.strip_prefix(&start));
        let mut names: Vec<_> =
            below.map(|rest| rest.split('/').next().unwrap().to_owned()).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }
}

pub fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/eventlogs").join(name)
}

pub fn log(name: &str) -> EventLog {
    EventLog::parse(&std::fs::read(case(name).join("log.bin")).unwrap()).unwrap()
}

/// The files of a case. Where `/boot` is a folder of the root file system, its paths keep `/boot`.
pub fn files(name: &str) -> MemoryFiles {
    let folder = case(name);
    let boot_is_folder = name.starts_with("shim-");
    let place = |key: &str| match key.split_once('/') {
        Some(("esp", path)) => Some((Volume::Esp, format!("/{path}"))),
        Some(("boot", _)) if boot_is_folder => Some((Volume::Boot, format!("/{key}"))),
        Some(("boot", path)) => Some((Volume::Boot, format!("/{path}"))),
        // Older families have one volume, and no prefix.
        Some(_) => Some((Volume::Esp, format!("/{key}"))),
        None => None,
    };
    let mut files = MemoryFiles::default();
    if let Ok(json) = std::fs::read(folder.join("artifacts.json")) {
        let artifacts: BTreeMap<String, Value> = serde_json::from_slice(&json).unwrap();
        for (key, value) in artifacts {
            let Some(place) = place(&key) else { continue };
            let digest = Digest::from_hex(PcrBank::Sha256, value["sha256"].as_str().unwrap());
            let known = KnownDigests {
                size: value["size"].as_u64(),
                plain: vec![digest.unwrap()],
                authenticode: vec![],
            };
            files.digests.insert(place, known);
        }
    }
    for (root, prefix) in [("inputs/boot", "boot"), ("inputs/esp", "esp"), ("esp", "esp")] {
        for (path, bytes) in below(&folder.join(root)) {
            let (volume, path) = place(&format!("{prefix}/{path}")).unwrap();
            files.put(volume, &path, bytes);
        }
    }
    files
}

fn below(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = vec![];
    let Ok(entries) = folder.read_dir() else { return found };
    for entry in entries.map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            let inner = below(&entry.path());
            found.extend(inner.into_iter().map(|(path, bytes)| (format!("{name}/{path}"), bytes)));
        } else {
            found.push((name, std::fs::read(entry.path()).unwrap()));
        }
    }
    found
}
