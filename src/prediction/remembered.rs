//! A file tree whose answers are kept: where many boots are predicted from one disk, it is read once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use super::layers::InMemory;
use crate::artifact::{Files, FilesError, Found, Identity, Source, Volume};

/// Longest file whose bytes are kept, and most bytes of all: digests of longer ones are kept already.
const MAX_FILE: u64 = 1 << 20;
const MAX_BYTES: u64 = 64 << 20;
/// Most answers: scripts ask for what they like.
const MAX_ANSWERS: usize = 1 << 16;

type Kept<T> = RefCell<BTreeMap<(Volume, String), T>>;

/// A tree that does not change while this lives.
pub struct Remembered<'a> {
    files: &'a dyn Files,
    found: Kept<Option<Rc<dyn Source>>>,
    names: Kept<Vec<String>>,
    bytes: Cell<u64>,
}

impl<'a> Remembered<'a> {
    /// A tree of which nothing was asked yet.
    pub fn new(files: &'a dyn Files) -> Self {
        let (found, names) = (Kept::default(), Kept::default());
        Self { files, found, names, bytes: Cell::new(0) }
    }

    /// The file, in memory where it is short.
    fn kept(&self, source: Box<dyn Source>) -> io::Result<Rc<dyn Source>> {
        let len = source.len();
        let all = self.bytes.get().saturating_add(len);
        let Some(bytes) = usize::try_from(len).ok().filter(|_| len <= MAX_FILE && all <= MAX_BYTES)
        else {
            return Ok(source.into());
        };
        let mut bytes = vec![0; bytes];
        source.read_exact_at(0, &mut bytes)?;
        self.bytes.set(all);
        Ok(Rc::new(Short { bytes: InMemory(bytes), identity: source.identity() }))
    }
}

impl Files for Remembered<'_> {
    fn find(&self, volume: Volume, path: &str) -> Result<Option<Found>, FilesError> {
        let key = (volume, path.to_owned());
        let shared = |source: &Rc<dyn Source>| Found::Bytes(Box::new(source.clone()));
        if let Some(known) = self.found.borrow().get(&key) {
            return Ok(known.as_ref().map(shared));
        }
        let source = match self.files.find(volume, path)? {
            None => None,
            Some(Found::Bytes(source)) => {
                let failed = |error: io::Error| FilesError {
                    path: path.to_owned(),
                    cause: error.to_string(),
                };
                Some(self.kept(source).map_err(failed)?)
            }
            digests => return Ok(digests),
        };
        let found = source.as_ref().map(shared);
        let mut known = self.found.borrow_mut();
        if known.len() < MAX_ANSWERS {
            known.insert(key, source);
        }
        Ok(found)
    }

    fn names(&self, volume: Volume, folder: &str) -> Result<Vec<String>, FilesError> {
        let key = (volume, folder.to_owned());
        if let Some(known) = self.names.borrow().get(&key) {
            return Ok(known.clone());
        }
        let names = self.files.names(volume, folder)?;
        let mut known = self.names.borrow_mut();
        if known.len() < MAX_ANSWERS {
            known.insert(key, names.clone());
        }
        Ok(names)
    }
}

/// A file whose bytes are in memory.
struct Short {
    bytes: InMemory,
    identity: Option<Identity>,
}

impl Source for Short {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.bytes.read_exact_at(offset, buffer)
    }

    fn identity(&self) -> Option<Identity> {
        self.identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what it is asked.
    #[derive(Default)]
    struct Counting(Cell<usize>);

    impl Files for Counting {
        fn find(&self, _: Volume, path: &str) -> Result<Option<Found>, FilesError> {
            self.0.set(self.0.get() + 1);
            let len = match path {
                "/short" => 3,
                "/long" => MAX_FILE + 1,
                "/broken" => {
                    return Err(FilesError { path: path.to_owned(), cause: "broken".to_owned() });
                }
                _ => return Ok(None),
            };
            let bytes = vec![7; usize::try_from(len).unwrap()];
            Ok(Some(Found::Bytes(Box::new(InMemory(bytes)))))
        }

        fn names(&self, _: Volume, _: &str) -> Result<Vec<String>, FilesError> {
            self.0.set(self.0.get() + 1);
            Ok(vec!["short".to_owned()])
        }
    }

    #[test]
    fn what_was_answered_is_answered_again_without_asking() {
        let files = Counting::default();
        let remembered = Remembered::new(&files);
        for _ in 0..3 {
            for (path, len) in [("/short", 3), ("/long", MAX_FILE + 1)] {
                let found = remembered.find(Volume::Boot, path).unwrap();
                let Some(Found::Bytes(source)) = found else { panic!("{path}") };
                assert_eq!(source.len(), len);
                let mut last = [0];
                source.read_exact_at(len - 1, &mut last).unwrap();
                assert_eq!(last, [7]);
                assert!(source.read_exact_at(len, &mut last).is_err());
                assert!(source.read_exact_at(u64::MAX, &mut last).is_err());
            }
            assert!(remembered.find(Volume::Boot, "/gone").unwrap().is_none());
            assert_eq!(remembered.names(Volume::Boot, "/").unwrap(), ["short"]);
        }
        assert_eq!(files.0.get(), 4);
        // The volumes are two, and a failure is asked for again.
        assert!(remembered.find(Volume::Esp, "/gone").unwrap().is_none());
        for _ in 0..2 {
            assert!(remembered.find(Volume::Boot, "/broken").is_err());
        }
        assert_eq!(files.0.get(), 7);
    }
}
