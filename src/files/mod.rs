//! Boot files where the system keeps them: below folders, in images, or one by one as they
//! were named.

mod folder;
mod image;
mod named;
mod noted;
mod payload;
pub mod running;
mod watched;

pub use folder::{FileSource, Folder};
pub use image::{Image, ImageError};
pub use named::{Named, NamedFile};
pub use noted::Noted;
pub use payload::Payload;
pub use watched::{Seen, Watched};

use std::path::Path;

use crate::artifact::{Files, Volume};

/// The files of a volume: below a folder, or in an image or on a block device.
///
/// # Errors
/// [`ImageError`].
pub fn open(volume: Volume, path: &Path) -> Result<Box<dyn Files>, ImageError> {
    let metadata = std::fs::metadata(path);
    let metadata = metadata.map_err(|error| ImageError::Io { cause: error.to_string() })?;
    Ok(match metadata.is_dir() {
        true => Box::new(Folder::new(volume, path)),
        false => Box::new(Image::open(volume, path)?),
    })
}
