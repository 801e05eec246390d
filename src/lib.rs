//! wip
pub mod boot;
pub mod coverage;
pub mod enroll;
pub mod error;
pub mod exit;
pub mod ffi;
pub mod luks;
pub mod measurement;
pub mod policy;
pub mod recovery;
pub mod secret;
pub mod token;
pub mod tpm;

pub use error::Error;
