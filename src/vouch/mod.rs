//! Who vouches for a boot file.

mod digests;

pub use digests::FileDigests;
