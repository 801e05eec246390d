//! What was measured: event logs, their replay, and the PCR values that follow from them.

pub mod data;
mod describe;
pub mod diff;
pub mod digest;
pub mod efi;
pub mod event;
pub mod eventlog;
mod initrd_word;
pub mod pcr;
pub(crate) mod reader;
pub mod replay;
pub mod text;
pub mod userspace;
pub mod variable;

pub use data::{EventData, Tag};
pub use digest::{Digest, DigestError, PcrBank};
pub use event::{Event, EventDigest, EventType};
pub use eventlog::{Algorithm, EventLog, EventLogError, LogFormat};
pub use initrd_word::InitrdWord;
pub use pcr::{PcrError, PcrIndex, PcrSelection, PcrValues};
pub use replay::{Difference, differences, first_difference, replay};
pub use text::LogText;
pub use userspace::{UserspaceEvent, UserspaceLog, UserspaceLogError};
