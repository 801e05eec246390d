//! Files of databases and settings, read whole: of a bounded length, and never through a link.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, Mode, OFlags, open, openat};

/// A folder that stays the same one, whatever its path comes to mean.
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Opens it, which no link stands for.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(open(path, flags, Mode::empty())?))
    }

    /// The first `most` names in it, in the order of their bytes.
    pub fn names(&self, most: usize) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            match entry?.file_name().to_bytes() {
                b"." | b".." => {}
                _ if names.len() == most => break,
                name => names.push(OsStr::from_bytes(name).to_owned()),
            }
        }
        names.sort();
        Ok(names)
    }

    /// A file in it, of at most `most` bytes. A link, a pipe or a device is no file.
    pub fn read(&self, name: impl AsRef<OsStr>, most: u64) -> io::Result<(Vec<u8>, Metadata)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.0, name.as_ref(), flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        if metadata.len() > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        // It may have grown since.
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok((bytes, metadata))
    }

    /// What the system says of the folder itself.
    pub fn metadata(&self) -> io::Result<Metadata> {
        File::from(self.0.try_clone()?).metadata()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_files_are_read_and_only_short_ones() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "12345").unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink("file", at("link")).unwrap();
        symlink(folder.path(), at("way-out")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RWXU).unwrap();
        let opened = Folder::open(folder.path()).unwrap();

        assert_eq!(opened.names(9).unwrap(), ["file", "folder", "link", "pipe", "way-out"]);
        assert_eq!(opened.names(2).unwrap().len(), 2);
        assert_eq!(opened.read("file", 5).unwrap().0, b"12345");
        assert_eq!(opened.read("file", 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        for name in ["folder", "link", "pipe", "missing"] {
            assert!(opened.read(name, 5).is_err(), "{name}");
        }
        assert!(Folder::open(&at("way-out")).is_err());
        assert!(Folder::open(&at("file")).is_err());
    }
}
