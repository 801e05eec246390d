//! The expected events of approved boots, in the encrypted root: what a boot to come is compared
//! with. What lies in `/boot` for explanations is a copy of them that anybody may have edited.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use super::error::StoreError;
use super::state::{Approved, State};
use super::store::Store;
use crate::measurement::diff::Expected;

impl Store {
    /// Keeps the events of an approved boot: afterwards they are there whole, or not.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::TooLarge`] for more events than are read again.
    pub fn keep_events(&self, boot: &Approved, events: &Expected) -> Result<(), StoreError> {
        let path = self.events_file(&boot.id());
        let limit = Expected::MAX_LEN as u64;
        let text =
            events.to_json().ok_or_else(|| StoreError::TooLarge { path: path.clone(), limit })?;
        let new = path.with_extension("new");
        let write = || -> io::Result<()> {
            let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let mut file =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| StoreError::io(&path, &error))
    }

    /// The events of an approved boot. `None` where they are not there or cannot be read: then
    /// everything in a boot to come counts as a change.
    pub fn events(&self, boot: &Approved) -> Option<Expected> {
        let mut bytes = Vec::new();
        let file = File::open(self.events_file(&boot.id())).ok()?;
        file.take(Expected::MAX_LEN as u64 + 1).read_to_end(&mut bytes).ok()?;
        Expected::parse(&bytes).ok().filter(|events| events.bank == boot.values.bank())
    }

    /// Removes the events of boots that are no longer approved. They only take room.
    pub fn sweep_events(&self, state: &State) {
        let all = state.volumes.values().flat_map(|volume| &volume.entries);
        let known: Vec<_> = all.map(|boot| self.events_file(&boot.id())).collect();
        let folder = self.events_file("").parent().map(fs::read_dir);
        let files = folder.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
        for path in files.filter(|path| !known.contains(path)) {
            let _ = fs::remove_file(path);
        }
    }

    fn events_file(&self, id: &str) -> PathBuf {
        self.folder().join("expected").join(format!("{id}.json"))
    }
}
