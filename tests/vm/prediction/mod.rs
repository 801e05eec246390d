//! Predictions beside real boots: one thing is changed, what the boot will measure is predicted from
//! the files, then it is booted and the PCRs are read.
//!
//! ```text
//! Machine (files, firmware) ── record ──▶ Recording (log, PCRs)
//!    │ base                                  │ base log
//!    └────────────▶ vmseal predict ◀─────────┘
//!    next ─────────────▶ │ predicted PCRs  ══ PCRs read in the boot of next
//! ```

mod base;
mod direct;
mod foretold;
mod grub;
mod recording;
mod secure_boot;
mod systemd_boot;
mod uki;

use base::Base;
use foretold::Foretold;
use recording::Recording;

use crate::machine::Machine;

/// The command line of all kernels here, unless it is what changes.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1";
/// What it changes to.
const OTHER_COMMAND_LINE: &str = "console=ttyS0 panic=-1 loglevel=3";
