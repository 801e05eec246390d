//! `/etc/crypttab`, one line more: everything else stays as it is, byte for byte.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use crate::boot::{crypttab_device, crypttab_lines};
use crate::error::Error;

/// Most bytes of the file.
const MAX: u64 = 1 << 20;
/// Longest name that device-mapper takes, less its NUL.
const MAX_NAME: usize = 127;

/// The file and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crypttab {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// A line for a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name that it is opened under.
    pub name: String,
    /// The key file that the line names, where it names one.
    pub key_file: Option<String>,
}

/// Whether a word can be the name of an open volume in crypttab.
pub fn is_name(word: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&byte);
    (1..=MAX_NAME).contains(&word.len())
        && word.bytes().all(is_plain)
        && !word.starts_with(['#', '.', '-'])
}

impl Crypttab {
    /// Reads the file; empty where there is none.
    ///
    /// # Errors
    /// [`Error::Crypttab`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX + 1).read_to_end(&mut bytes));
        let failed = |cause: String| Error::Crypttab { path: path.to_owned(), cause };
        match read {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error.to_string())),
            Ok(length) if length as u64 > MAX => Err(failed("it is longer than 1 MiB".into())),
            _ => Ok(Self { path: path.to_owned(), bytes }),
        }
    }

    fn lines(&self) -> Vec<Vec<String>> {
        crypttab_lines(&String::from_utf8_lossy(&self.bytes)).collect()
    }

    /// The line of the volume with this UUID, or on this device.
    pub fn entry(&self, uuid: &str, device: &Path) -> Option<Entry> {
        let by_uuid = crypttab_device(&format!("UUID={uuid}"));
        let is_of =
            |source: &String| [by_uuid.as_path(), device].contains(&&*crypttab_device(source));
        let words = self.lines().into_iter().find(|words| words.get(1).is_some_and(is_of))?;
        let key_file = words.get(2).filter(|word| !matches!(word.as_str(), "none" | "-"));
        Some(Entry { name: words.first()?.clone(), key_file: key_file.cloned() })
    }

    /// Whether a line opens something under this name.
    pub fn has_name(&self, name: &str) -> bool {
        self.lines().iter().any(|words| words.first().is_some_and(|first| first == name))
    }

    /// Adds a line and writes the file so that after a crash it is the old or the new one, with the
    /// mode and the owner that it had.
    ///
    /// # Errors
    /// [`Error::Crypttab`].
    pub fn add(&mut self, line: &str) -> Result<(), Error> {
        if self.bytes.last().is_some_and(|last| *last != b'\n') {
            self.bytes.push(b'\n');
        }
        self.bytes.extend_from_slice(line.as_bytes());
        self.bytes.push(b'\n');
        self.replace()
            .map_err(|error| Error::Crypttab { path: self.path.clone(), cause: error.to_string() })
    }

    fn replace(&self) -> io::Result<()> {
        // Where it is a link, the file behind it is replaced.
        let path = match fs::canonicalize(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.path.clone(),
            path => path?,
        };
        let folder = path.parent().unwrap_or(Path::new("/"));
        let new = folder.join(".crypttab.vmseal-new");
        let written = self.write_new(&new, &path).and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written?;
        File::open(folder)?.sync_all()
    }

    fn write_new(&self, new: &Path, old: &Path) -> io::Result<()> {
        let mut file = File::create(new)?;
        if let Ok(meta) = fs::metadata(old) {
            chown(new, Some(meta.uid()), Some(meta.gid()))?;
            file.set_permissions(meta.permissions())?;
        }
        file.write_all(&self.bytes)?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Crypttab {
        Crypttab { path: "/nonexistent".into(), bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn finds_a_volume_however_it_is_named() {
        let uuid = "6a1c1b5e-2b7f-4c3e-9d21-0f6c4f1a7b90";
        let found = |text: &str| of(text).entry(uuid, Path::new("/dev/vdb"));
        let sources = [
            format!("UUID={uuid}"),
            format!("UUID=\"{}\"", uuid.to_uppercase()),
            format!("/dev/disk/by-uuid/{uuid}"),
            "/dev/vdb".to_owned(),
        ];
        for source in sources {
            let entry = found(&format!("# a\n\tdata  {source} none luks\nb /dev/vdc")).unwrap();
            assert_eq!(entry, Entry { name: "data".into(), key_file: None }, "{source}");
            assert_eq!(found(&format!("#data {source} none")), None);
        }
        let keyed = found(&format!("d UUID={uuid} /k luks")).unwrap();
        assert_eq!(keyed.key_file.as_deref(), Some("/k"));
        assert_eq!(found("data\n\n \nother UUID=x"), None);
        assert!(of(" data x\n").has_name("data") && !of("#data x\n").has_name("data"));
    }

    #[test]
    fn a_name_is_one_word_that_no_reader_takes_for_more() {
        for name in ["data", "luks-6a1c", "a.b:c"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a b", "a/b", "#a", "..", "-a", "a\nb", "é", &"x".repeat(128)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
