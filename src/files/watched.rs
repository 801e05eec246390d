//! What a prediction looked at, so that it can be told afterwards whether that is still there.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::artifact::{Files, FilesError, Found, Identity, KnownDigests, Volume};

/// Files that note what was asked of them.
pub struct Watched<'a> {
    files: &'a dyn Files,
    seen: RefCell<Seen>,
}

/// What was seen of files and folders, the absence of some among it. All that is read of a file is
/// what it was in this state: [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    files: BTreeMap<(Volume, String), State>,
    folders: BTreeMap<(Volume, String), Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Absent,
    Bytes(Option<Identity>),
    Digests(KnownDigests),
    Unreadable,
}

impl State {
    fn of(found: &Result<Option<Found>, FilesError>) -> Self {
        match found {
            Ok(None) => Self::Absent,
            Ok(Some(Found::Bytes(source))) => Self::Bytes(source.identity()),
            Ok(Some(Found::Digests(known))) => Self::Digests(known.clone()),
            Err(_) => Self::Unreadable,
        }
    }
}

impl<'a> Watched<'a> {
    /// `files`, watched from now on.
    pub fn new(files: &'a dyn Files) -> Self {
        Self { files, seen: RefCell::default() }
    }

    /// What was seen of them.
    pub fn into_seen(self) -> Seen {
        self.seen.into_inner()
    }
}

impl Files for Watched<'_> {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        let found = self.files.find(volume, path);
        let state = State::of(&found);
        let mut seen = self.seen.borrow_mut();
        // The first sight counts: what changed since then is another file.
        seen.files.entry((volume, path.to_owned())).or_insert(state);
        found
    }

    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError> {
        let names = self.files.names(volume, folder);
        let mut seen = self.seen.borrow_mut();
        let known = names.clone().unwrap_or_default();
        seen.folders.entry((volume, folder.to_owned())).or_insert(known);
        names
    }
}

impl Seen {
    /// The files that were there with their bytes.
    pub fn files(&self) -> impl Iterator<Item = (Volume, &str)> {
        let there = self.files.iter().filter(|(_, state)| matches!(state, State::Bytes(_)));
        there.map(|((volume, path), _)| (*volume, path.as_str()))
    }

    /// The file in the very state in which it was seen.
    pub fn reopen(
        &self,
        files: &dyn Files,
        volume: Volume,
        path: &str,
    ) -> Option<Box<dyn crate::artifact::Source>> {
        let Some(State::Bytes(identity)) = self.files.get(&(volume, path.to_owned())) else {
            return None;
        };
        match files.find(volume, path) {
            Ok(Some(Found::Bytes(source))) if source.identity() == *identity => Some(source),
            _ => None,
        }
    }

    /// The first path that is not as it was seen: another file, the same one written to, gone, or
    /// new; a folder with other names in it.
    pub fn changed(&self, files: &dyn Files) -> Option<String> {
        let file = self.files.iter().find(|((volume, path), state)| {
            let now = State::of(&files.find(*volume, path));
            // Without an identity nothing tells that it is the same.
            now != **state || now == State::Bytes(None)
        });
        let folder = || {
            self.folders.iter().find(|((volume, folder), names)| {
                files.names(*volume, folder).unwrap_or_default() != **names
            })
        };
        let file = file.map(|((_, path), _)| path.clone());
        file.or_else(|| folder().map(|((_, folder), _)| folder.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::files::Folder;

    /// What `change` does to a folder is noticed.
    #[track_caller]
    fn noticed(change: impl FnOnce(&std::path::Path)) -> Option<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        fs::write(path.join("kernel"), "kernel").expect("written");
        fs::write(path.join("other"), "evil!!").expect("written");
        let tree = Folder::new(Volume::Boot, path);
        let watched = Watched::new(&tree);
        watched.find(Volume::Boot, "/kernel").expect("read").expect("a file");
        assert!(watched.find(Volume::Boot, "/later").expect("read").is_none());
        watched.names(Volume::Boot, "/").expect("names");
        let seen = watched.into_seen();
        assert_eq!(seen.files().collect::<Vec<_>>(), [(Volume::Boot, "/kernel")]);
        assert_eq!(seen.changed(&tree), None);
        assert!(seen.reopen(&tree, Volume::Boot, "/kernel").is_some());
        change(path);
        let changed = seen.changed(&tree);
        let reopened = seen.reopen(&tree, Volume::Boot, "/kernel");
        assert_eq!(reopened.is_none(), changed.as_deref() == Some("/kernel"));
        changed
    }

    #[test]
    fn a_file_that_was_swapped_is_noticed() {
        let kernel = Some("/kernel".to_owned());
        assert_eq!(noticed(|path| fs::write(path.join("kernel"), "KERNEL").unwrap()), kernel);
        assert_eq!(
            noticed(|path| fs::rename(path.join("other"), path.join("kernel")).unwrap()),
            kernel
        );
        assert_eq!(
            noticed(|path| {
                fs::remove_file(path.join("kernel")).unwrap();
                symlink("other", path.join("kernel")).unwrap();
            }),
            kernel
        );
        assert_eq!(noticed(|path| fs::remove_file(path.join("kernel")).unwrap()), kernel);
        let rewritten = noticed(|path| {
            let path = path.join("kernel");
            let before = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, "KERNEL").unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
        });
        assert_eq!(rewritten, kernel);
    }

    #[test]
    fn what_is_new_is_noticed() {
        let later = noticed(|path| fs::write(path.join("later"), "").unwrap());
        assert_eq!(later.as_deref(), Some("/later"));
        let more = noticed(|path| fs::write(path.join("more"), "").unwrap());
        assert_eq!(more.as_deref(), Some("/"));
    }
}
