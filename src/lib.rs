//! wip
pub mod exit;
pub mod measurement;
pub mod secret;
