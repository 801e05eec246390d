//! What will be measured: the files, variables and partition tables that a boot to come reads,
//! digested while they are read, so that the bytes shown are the bytes hashed. Pure over readers.

pub mod files;
pub mod grub;
mod measured;

pub use files::{Files, FilesError, Found, KnownDigests, Source, Volume};
pub use measured::Measured;
