//! How one measurement of the boot to come was arrived at.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::measurement::{Digest, PcrIndex};

/// What stands before the text of a command line that the kernel measures itself, where it is known.
pub const LOAD_OPTIONS: &str = "command line that the kernel was started with: ";

/// What becomes of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// Taken from the log of the boot that ran.
    CarriedOver,
    /// Measured from an artifact, with the result that the log has too.
    Remeasured,
    /// Measured from an artifact that is another one now.
    Replaced,
    /// Measured for the first time.
    New,
    /// No longer measured.
    Gone,
}

impl Fate {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CarriedOver => "carried over",
            Self::Remeasured => "re-measured",
            Self::Replaced => "replaced",
            Self::New => "new",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Fate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One measurement, before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The PCR.
    pub pcr: PcrIndex,
    /// What is measured, in words: printable ASCII, bounded.
    pub what: String,
    /// What becomes of it.
    pub fate: Fate,
    /// What the boot that ran measured, at most one digest a bank; none for a new one.
    pub old: Vec<Digest>,
    /// What the boot to come measures, or why that cannot be told; none for one that is gone.
    pub new: Result<Vec<Digest>, String>,
    /// The file that it was measured from.
    pub source: Option<String>,
}

impl Account {
    /// Whether the boot to come measures something else than the boot that ran.
    pub fn is_changed(&self) -> bool {
        matches!(self.fate, Fate::Replaced | Fate::New | Fate::Gone) || self.new.is_err()
    }
}
