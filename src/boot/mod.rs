//! The boot step: pin → tokens → choose → unseal → open → latch.

mod approvals;
mod choose;
mod expected;
mod latch;
mod mismatch;
mod open;
mod release;
mod seal_point;

pub use approvals::{Approvals, Sources};
pub use choose::{Candidate, Choice, Judgement, Verdict};
pub use expected::{EXPECTED_FOLDER, read_expected, remove_expected, write_expected};
pub use latch::{LATCH_WORD, latch, latch_volume, volume_measurement};
pub use mismatch::{Lacking, Mismatch, PcrDifference, Unapproved};
pub use open::{Opening, open_and_latch};
pub(crate) use release::passphrase;
pub use release::{Means, Released, name_foreign, refusal, release};
pub use seal_point::{BootLogs, SealPoint};
