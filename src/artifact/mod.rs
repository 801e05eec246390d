//! What will be measured: the files, variables and partition tables that a boot to come reads,
//! digested while they are read, so that the bytes shown are the bytes hashed. Pure over readers.

pub mod authority;
pub mod cpio;
mod der;
pub mod efi_stub;
pub mod efivar;
pub mod files;
pub mod gpt;
pub mod grub;
pub mod hashing;
mod measured;
pub mod mok;
pub mod pe;
pub mod qemu_kernel;
#[cfg(test)]
mod sample;
pub mod signature_list;
pub mod stub;
pub mod ucs2;
pub mod uki;
pub mod variable_change;
pub mod variable_store;
pub mod variable_update;

pub use files::{Files, FilesError, Found, Identity, KnownDigests, Source, Volume};
pub use measured::{Content, Measured, Pending};
