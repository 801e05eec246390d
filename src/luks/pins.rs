//! The file of pinned volumes, `/etc/vmseal/pins.json`.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::error::LuksError;
use super::lock::MetadataLock;
use super::pin::{Entry, Pin, PinMismatch, digest_of, mismatch};
use crate::public_file::{self, folder_of};

/// How long another enrolment that writes its pin is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that are read at most.
const FILE_MAX: u64 = 1 << 20;

/// The pins: an object from volume UUID to what is pinned of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pins {
    entries: Map<String, Value>,
}

/// Why the file of pins, or one entry, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinsError {
    /// Reading or writing failed.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word for it.
        kind: ErrorKind,
    },
    /// Longer than 1 MiB.
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not a JSON object.
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// An entry without the fields of a pin, or with fields of other types.
    MalformedEntry {
        /// Whose entry.
        uuid: String,
    },
}

impl fmt::Display for PinsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, kind } => write!(f, "{}: {kind}", path.display()),
            Self::TooLarge { path } => write!(f, "{} is longer than 1 MiB", path.display()),
            Self::Malformed { path } => write!(f, "{} is not a JSON object", path.display()),
            Self::MalformedEntry { uuid } => write!(f, "the pin of volume {uuid} is malformed"),
        }
    }
}

impl std::error::Error for PinsError {}

impl Pins {
    /// Reads the file; no pins when there is none.
    ///
    /// # Errors
    /// [`PinsError`] for a file that cannot be read, is too long or is not a JSON object.
    pub fn read(path: &Path) -> Result<Self, PinsError> {
        let mut bytes = Vec::new();
        let read =
            File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(PinsError::Io { path: path.into(), kind: error.kind() }),
            Ok(length) if length as u64 > FILE_MAX => {
                return Err(PinsError::TooLarge { path: path.into() });
            }
            Ok(_) => {}
        }
        let malformed = |_| PinsError::Malformed { path: path.into() };
        Ok(Self { entries: serde_json::from_slice(&bytes).map_err(malformed)? })
    }

    /// SHA-256 of the file's bytes, in hexadecimal: by it an initramfs says which file it carries.
    ///
    /// # Errors
    /// [`PinsError::Io`].
    pub fn file_digest(path: &Path) -> Result<String, PinsError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| PinsError::Io { path: path.into(), kind: error.kind() })?;
        Ok(hex::encode(Sha256::digest(bytes)))
    }

    /// The pin of a volume, if it has one.
    ///
    /// # Errors
    /// [`PinsError::MalformedEntry`]: the volume is pinned, and nobody can say to what.
    pub fn get(&self, uuid: &str) -> Result<Option<Pin>, PinsError> {
        let parse = |entry: &Value| serde_json::from_value::<Entry>(entry.clone());
        match self.entries.get(uuid).map(parse) {
            None => Ok(None),
            Some(Ok(entry)) => Ok(Some(Pin::new(uuid, entry))),
            Some(Err(_)) => Err(PinsError::MalformedEntry { uuid: uuid.to_owned() }),
        }
    }

    /// The pin of a volume of which only the digest is known, as `vmseal.pin=UUID:HEX` tells it.
    /// `candidate` may come from the volume itself: it counts only where it has that digest.
    pub fn from_hash(uuid: &str, hex: &str, candidate: &Value) -> Option<Pin> {
        if !digest_of(candidate).eq_ignore_ascii_case(hex) {
            return None;
        }
        let entry = serde_json::from_value::<Entry>(candidate.clone()).ok()?;
        Some(Pin::new(uuid, entry))
    }

    /// The pin that one of these digests stands for: that of the file, or of a candidate from the
    /// volume's own header.
    ///
    /// # Errors
    /// Where neither has a digest that was asked for.
    pub fn by_digest(
        &self,
        uuid: &str,
        digests: &[&str],
        candidate: Option<&Value>,
    ) -> Result<Pin, PinMismatch> {
        let candidates = self.entries.get(uuid).into_iter().chain(candidate);
        let fits = |entry: &Value| digests.iter().find_map(|hex| Self::from_hash(uuid, hex, entry));
        candidates.clone().find_map(fits).ok_or_else(|| {
            let found = candidates.last().map_or("none".to_owned(), digest_of);
            mismatch("digest of the pin", &digests.join(" or "), &found)
        })
    }

    /// Sets the pin of its volume. Fields of the old entry that vmseal does not know stay.
    pub fn set(&mut self, pin: &Pin) {
        let Ok(Value::Object(new)) = serde_json::to_value(&pin.entry) else { return };
        match self.entries.get_mut(pin.uuid()).and_then(Value::as_object_mut) {
            Some(old) => old.extend(new),
            None => {
                self.entries.insert(pin.uuid().to_owned(), new.into());
            }
        }
    }

    /// The UUIDs of all pinned volumes.
    pub fn uuids(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Changes the file as it is now: of several who do so at once, none loses another's change.
    ///
    /// # Errors
    /// Those of [`Pins::read`] and [`Pins::write`].
    pub fn update(path: &Path, change: impl FnOnce(&mut Self)) -> Result<(), PinsError> {
        let failed = |kind| PinsError::Io { path: path.into(), kind };
        let directory = folder_of(path);
        fs::create_dir_all(directory).map_err(|error| failed(error.kind()))?;
        // The directory, for the file itself is replaced.
        let _lock = MetadataLock::acquire(directory, PATIENCE).map_err(|error| match error {
            LuksError::Io { kind, .. } => failed(kind),
            LuksError::NotPermitted { .. } => failed(ErrorKind::PermissionDenied),
            _ => failed(ErrorKind::ResourceBusy),
        })?;
        let mut pins = Self::read(path)?;
        change(&mut pins);
        pins.write(path)
    }

    /// Writes the file, readable by all, so that after a crash it is the old or the new one.
    ///
    /// # Errors
    /// [`PinsError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), PinsError> {
        let text = serde_json::to_string_pretty(&self.entries).map_err(io::Error::from);
        text.and_then(|text| public_file::replace(path, format!("{text}\n").as_bytes()))
            .map_err(|error| PinsError::Io { path: path.into(), kind: error.kind() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_at_the_same_time_are_all_kept() {
        const THREADS: usize = 8;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/pins.json");
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let path = &path;
                scope.spawn(move || {
                    let add = |pins: &mut Pins| {
                        pins.entries.insert(thread.to_string(), Value::Null);
                    };
                    Pins::update(path, add).expect("an update");
                });
            }
        });
        assert_eq!(Pins::read(&path).expect("the pins").uuids().count(), THREADS);
    }
}
