//! What was approved on this machine, and who did it: the state and the journal; what may be approved
//! with nobody asked.
//!
//! ```text
//! State, EventLog, Prediction ──▶ Plan ── approval ──▶ State ──▶ the record in the header
//! Draft ── sign ──▶ Line ──▶ journal.jsonl
//!                     └─▶ JournalHead ──▶ state.json, the record in the header
//! ```
//!
//! The line is on the disk before its head is noted anywhere, and both before the change that they
//! tell of: what opens a volume is on record, whatever instant the power fails at.

#[cfg(feature = "cli")]
mod approval;
mod change;
mod command_line;
#[cfg(feature = "cli")]
mod conf;
mod error;
mod events;
mod journal;
mod line;
mod plan;
mod state;
mod store;
mod syslog;
mod time;

#[cfg(feature = "cli")]
pub use approval::{Artifact, Artifacts, objections};
pub use change::{ChangeKind, ChangedEvent, MENU};
pub use command_line::CommandLine;
#[cfg(feature = "cli")]
pub use conf::{Conf, ConfError, Consent};
pub use error::StoreError;
pub use journal::{Check, Finding, Verified, Witness, verify};
pub use line::{Draft, Kind, Line, Sign, Signature, message};
pub use plan::{BootPlan, NewBoot, Outlook, Plan, Situation, Wanted};
pub use state::{Approved, Standing, State, VolumeState};
pub use store::{Alone, Locked, Seen, Store};
pub use syslog::tell_syslog;
pub use time::rfc3339;
