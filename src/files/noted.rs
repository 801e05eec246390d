//! Files and folders as they were at one moment, by what the system tells of them: nothing of what
//! is in them is looked at.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::artifact::Identity;

/// Most files of all folders.
const MAX_FILES: usize = 65_536;
/// How deep folders may lie in each other.
const MAX_DEPTH: usize = 32;

/// Files as they were. Of a block device nothing tells whether it was written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    paths: Vec<PathBuf>,
    seen: BTreeMap<PathBuf, Option<Identity>>,
}

impl Noted {
    /// These files, and all that lies below these folders.
    ///
    /// # Errors
    /// The system's, and where there are too many; with the path.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self, (PathBuf, io::Error)> {
        let paths: Vec<PathBuf> = paths.into_iter().map(Path::to_owned).collect();
        let mut seen = BTreeMap::new();
        for path in &paths {
            // A link that is named stands for what it leads to; a link in a folder for itself.
            let metadata = std::fs::metadata(path).ok();
            note(path, metadata, 0, &mut seen)?;
        }
        Ok(Self { paths, seen })
    }

    /// The first path that is not as it was.
    pub fn changed(&self) -> Option<PathBuf> {
        let now = match Self::of(self.paths.iter().map(PathBuf::as_path)) {
            Ok(now) => now.seen,
            Err((path, _)) => return Some(path),
        };
        let differs = |path: &&PathBuf| self.seen.get(*path) != now.get(*path);
        self.seen.keys().chain(now.keys()).find(differs).cloned()
    }
}

fn note(
    path: &Path,
    metadata: Option<Metadata>,
    depth: usize,
    seen: &mut BTreeMap<PathBuf, Option<Identity>>,
) -> Result<(), (PathBuf, io::Error)> {
    let failed = |error: io::Error| (path.to_owned(), error);
    let is_dir = metadata.as_ref().is_some_and(Metadata::is_dir);
    seen.insert(path.to_owned(), metadata.as_ref().map(identity));
    if seen.len() > MAX_FILES || depth > MAX_DEPTH {
        return Err(failed(io::Error::other(format!(
            "more than {MAX_FILES} files, or folders more than {MAX_DEPTH} deep"
        ))));
    }
    if is_dir {
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            note(&entry.path(), entry.metadata().ok(), depth + 1, seen)?;
        }
    }
    Ok(())
}

fn identity(metadata: &Metadata) -> Identity {
    let is_device = !metadata.is_file() && !metadata.is_dir() && !metadata.is_symlink();
    Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        len: metadata.len(),
        // Its node is touched whenever somebody opens it.
        modified: if is_device { (0, 0) } else { (metadata.mtime(), metadata.mtime_nsec()) },
        changed: if is_device { (0, 0) } else { (metadata.ctime(), metadata.ctime_nsec()) },
        within: [0; 32],
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// What `change` does below a folder that holds `disk/file` is noticed.
    fn noticed(change: impl FnOnce(&Path)) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        fs::create_dir(&disk).unwrap();
        fs::write(disk.join("file"), "some").unwrap();
        let absent = folder.path().join("absent");
        let noted = Noted::of([disk.as_path(), &absent]).unwrap();
        assert_eq!(noted.changed(), None);
        change(&disk);
        let changed = noted.changed()?;
        Some(changed.strip_prefix(folder.path()).unwrap().display().to_string())
    }

    #[test]
    fn what_is_not_as_it_was_is_noticed_by_its_path() {
        let file = Some("disk/file".to_owned());
        assert_eq!(noticed(|disk| fs::write(disk.join("file"), "other").unwrap()), file);
        assert_eq!(noticed(|disk| fs::write(disk.join("file"), "same").unwrap()), file);
        let swapped = noticed(|disk| {
            fs::write(disk.join("new"), "some").unwrap();
            fs::rename(disk.join("new"), disk.join("file")).unwrap();
        });
        assert_eq!(swapped.as_deref(), Some("disk"));
        let added = noticed(|disk| symlink("/etc", disk.join("etc")).unwrap());
        assert_eq!(added.as_deref(), Some("disk"));
        let made = noticed(|disk| fs::write(disk.with_file_name("absent"), "").unwrap());
        assert_eq!(made.as_deref(), Some("absent"));
        assert_eq!(noticed(|disk| fs::remove_dir_all(disk).unwrap()).as_deref(), Some("disk"));
    }

    #[test]
    fn folders_without_end_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        // A link is not followed.
        symlink(folder.path(), folder.path().join("again")).unwrap();
        Noted::of([folder.path()]).unwrap();
        let deep = (0..=MAX_DEPTH).fold(folder.path().to_owned(), |path, _| path.join("d"));
        fs::create_dir_all(deep).unwrap();
        let (_, error) = Noted::of([folder.path()]).unwrap_err();
        assert!(error.to_string().contains("deep"), "{error}");
    }
}
