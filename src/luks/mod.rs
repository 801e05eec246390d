//! LUKS2 volumes: the header as libcryptsetup understands it, the pin, keyslots, tokens, activation.
//!
//! Two ways to a header. [`HeaderCopy`] is read once and never again: what was compared with the
//! [`Pin`] is what opens the volume. [`Device`] changes the header on the disk, under the same lock
//! that cryptsetup takes.

mod activate;
mod device;
mod error;
mod header;
mod lock;
mod mapping;
mod metadata;
mod pin;
mod pins;

pub use activate::{ActivateOptions, deactivate};
pub use device::Device;
pub use error::LuksError;
pub use header::HeaderCopy;
#[cfg(feature = "cli")]
pub(crate) use lock::MetadataLock;
pub use mapping::Mapping;
pub use metadata::{JsonSpace, Keyslot, Metadata, Pbkdf, Priority};
pub use pin::{Pin, PinMismatch, Unpinnable};
pub use pins::{Pins, PinsError};
