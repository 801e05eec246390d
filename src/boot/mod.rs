//! The boot step: pin → tokens → choose → unseal → open → latch.

mod approvals;
mod choose;
mod crypttab;
mod expected;
mod kernel_line;
mod latch;
mod machine;
mod mismatch;
mod open;
mod policy_disk;
mod release;
mod report;
mod seal_point;

pub use approvals::{Approvals, Sources};
pub use choose::{Candidate, Choice, Judgement, Verdict};
pub use crypttab::{BootVolume, crypttab_device, crypttab_lines};
pub use expected::{
    EXPECTED_FOLDER, keep_further_expected, read_expected, remove_expected, write_expected,
    write_further_expected,
};
pub use kernel_line::KernelLine;
pub use latch::{LATCH_WORD, latch, latch_measured, latch_volume, volume_measurement};
pub use machine::Machine;
pub use mismatch::{Lacking, Mismatch, PcrDifference, Unapproved};
pub use open::{Opening, open_and_latch};
pub(crate) use release::passphrase;
pub use release::{Means, Released, name_foreign, refusal, release};
pub use report::{
    BOOT_REPORT, BootReport, LatchState, LogPosition, OpenedBy, TpmState, Unmeasured, VolumeReport,
};
pub use seal_point::{BootLogs, SealPoint};
