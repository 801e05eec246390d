//! Boot files where the system keeps them: below folders, or one by one as they were named.

mod folder;
mod named;

pub use folder::{FileSource, Folder};
pub use named::{Named, NamedFile};
