//! Real parts for tests: private software TPMs, recorded boots, LUKS2 images, systemd as a peer.
//!
//! ```text
//! Recording ── extend ──▶ Swtpm ◀── Proxy ◀── the program under test ──▶ Image
//!  (a boot)               (a TPM)  (counts, stalls, cuts)              (a LUKS2 disk)
//! ```
//!
//! [`Machine`] is these parts in one: what a test of the command line starts with.
//! The kit knows nothing of vmseal's library on purpose: it reads logs and talks to the TPM by its
//! own few lines, so that a mistake in the library cannot hide behind the same mistake in its test.

// Test support: a part that does not work must end the test, at once and with its cause.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod authority;
pub mod disk;
pub mod header_edit;
pub mod image;
pub mod machine;
pub mod proxy;
pub mod run;
pub mod swtpm;
pub mod system;
pub mod systemd;
pub mod virtual_boot;
pub mod wire;

pub use authority::Authority;
pub use disk::Disk;
pub use image::Image;
pub use machine::Machine;
pub use proxy::Proxy;
pub use run::{Ran, run, tool};
pub use swtpm::Swtpm;
pub use system::System;
pub use systemd::Systemd;
pub use virtual_boot::Recording;
