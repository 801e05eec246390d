//! LUKS2 tokens as JSON, and the types they stand for. Unknown fields survive a rewrite.

mod blob;
mod esys;
mod field;
mod journal_head;
mod pin;
mod record;
mod summary;
mod systemd_tpm2;

pub use blob::SealedObject;
pub use field::TokenError;
pub use journal_head::{JournalHead, NoJournalHead};
pub use pin::{PinDerivation, PinKeys};
pub use record::{BootEntry, EntryState, Pending, Record, boot_id};
pub use summary::Summary;
pub use systemd_tpm2::{Kind, Sealed, SystemdTpm2, Writer};
