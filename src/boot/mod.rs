//! The boot step: pin → tokens → choose → unseal → open → latch.

mod choose;
mod latch;
mod mismatch;
mod open;
mod release;
mod seal_point;

pub use choose::{Judgement, Verdict, judge, literal_selections, name_events};
pub use latch::{LATCH_WORD, latch, latch_volume, volume_measurement};
pub use mismatch::{Mismatch, PcrDifference};
pub use open::{Opening, open_and_latch};
pub use release::{Released, name_foreign, release};
pub use seal_point::{BootLogs, SealPoint};
