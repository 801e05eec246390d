//! What was measured: event logs, their replay, and the PCR values that follow from them.

pub mod digest;
pub mod pcr;

pub use digest::{Digest, DigestError, PcrBank};
pub use pcr::{PcrError, PcrIndex, PcrSelection, PcrValues};
