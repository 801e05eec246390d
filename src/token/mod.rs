//! LUKS2 tokens as JSON, and the types they stand for. Unknown fields survive a rewrite.

mod blob;
mod field;
mod record;
mod systemd_tpm2;

pub use blob::SealedObject;
pub use field::TokenError;
pub use record::{BootEntry, EntryState, Pending, Record};
pub use systemd_tpm2::{Kind, SystemdTpm2};
