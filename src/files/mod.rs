//! Boot files where the system keeps them: below folders, in images, or one by one as they
//! were named.

mod folder;
mod image;
mod named;
mod payload;
pub mod running;
mod watched;

pub use folder::{FileSource, Folder};
pub use image::{Image, ImageError};
pub use named::{Named, NamedFile};
pub use payload::Payload;
pub use watched::{Seen, Watched};
