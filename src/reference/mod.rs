//! Reference boots on a host: a throw-away machine of a template, with a TPM that the host owns,
//! stopped at the seal point.
//!
//! ```text
//! Template ──▶ QemuLine ──▶ QEMU ── commands ──▶ Relay ──▶ swtpm
//!                            │                     └──▶ CommandStream ── Extends, PcrValues ─┐
//!                            └── GuestMemory ── EventLogs ──────────────────────────── fit ──┴──▶ Recorded
//! ```
//!
//! What was measured is what the TPM was told; what it was that was measured is the guest's word, and
//! taken only where it tells of those very digests. The seal point is the first command that would
//! extend the PCR of the latch; that one never reaches the TPM.

mod boot;
mod boot_disk;
mod command_stream;
mod compare;
mod error;
mod fit;
mod inherited;
mod memory;
mod partition_table;
mod pcr_read;
mod qemu;
mod relay;
mod scratch;
mod store;
mod users;

pub use boot::{Recorded, record};
pub use command_stream::{CommandStream, Extend, StreamError};
pub use compare::compare;
pub use error::{ReferenceError, Seen};
pub use fit::{Fitted, Unfit, fit};
pub use qemu::{Accelerator, Kept, Place, QemuLine, Size};
pub use scratch::Scratch;
pub use store::{Entry, References};
