//! What will be measured: the files, variables and partition tables that a boot to come reads,
//! digested while they are read, so that the bytes shown are the bytes hashed. Pure over readers.

pub mod cpio;
pub mod efi_stub;
pub mod files;
pub mod hashing;
mod measured;
pub mod pe;
pub mod qemu_kernel;
#[cfg(test)]
mod sample;
pub mod stub;
pub mod ucs2;
pub mod uki;

pub use files::{Files, FilesError, Found, KnownDigests, Source, Volume};
pub use measured::{Content, Measured, Pending};
