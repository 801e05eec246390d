//! Files of databases and settings, read whole: of a bounded length, and never through a link.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, BufRead, Read};
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

/// The lines of a text, without their line feeds. They are found by memchr(3): databases are long.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let before = rest;
        let len = rest.skip_until(b'\n').ok().filter(|len| *len > 0)?;
        let line = before.get(..len)?;
        Some(line.strip_suffix(b"\n").unwrap_or(line))
    })
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

    #[test]
    fn lines_are_those_between_line_feeds() {
        let of = |text| lines(text).collect::<Vec<&[u8]>>();
        assert_eq!(of(b""), [b""; 0]);
        assert_eq!(of(b"a\n\nbc"), [&b"a"[..], b"", b"bc"]);
        assert_eq!(of(b"\na\r\n"), [&b""[..], b"a\r"]);
    }
}
