//! The one place with unsafe code: calls that have no safe wrapper.
//!
//! libcryptsetup-rs cannot load a header beside its data device, dump the metadata as JSON or check
//! a volume key against a digest, and its handles panic on some return values; so [`luks`] goes
//! through the narrow wrapper here. Every `unsafe` block says why it is sound.
//!
//! [`luks`]: crate::luks
#![allow(unsafe_code)]

#[cfg(feature = "cli")]
pub(crate) mod child;
pub(crate) mod cryptsetup;
pub(crate) mod device_mapper;
mod environment;
pub(crate) mod esys;

pub use environment::quiet_tss2;
