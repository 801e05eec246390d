//! wip
pub mod exit;
pub mod luks;
pub mod measurement;
pub mod policy;
pub mod secret;
pub mod token;
pub mod tpm;
