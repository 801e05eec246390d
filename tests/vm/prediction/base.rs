//! The boot that predictions start from.

use std::sync::OnceLock;

use super::{Foretold, Machine, Recording};

/// A machine and its boot, which is recorded once and serves many predictions.
pub struct Base {
    machine: fn() -> Machine,
    recording: OnceLock<Recording>,
}

impl Base {
    pub const fn of(machine: fn() -> Machine) -> Self {
        Self { machine, recording: OnceLock::new() }
    }

    /// The same files again.
    pub fn machine(&self) -> Machine {
        (self.machine)()
    }

    pub fn recording(&self) -> &Recording {
        self.recording.get_or_init(|| self.machine().record())
    }

    /// Predicts what the machine will measure, then boots it. The change moves exactly these PCRs,
    /// and each PCR is as was predicted.
    #[track_caller]
    pub fn foretells(&self, next: &Machine, moved: &[u8]) -> Recording {
        let base = self.recording();
        let foretold = Foretold::by(&self.machine(), base, next);
        let measured = next.record();
        assert_eq!(measured.moved(base), moved, "the PCRs that the change moves");
        foretold.is(&measured);
        measured
    }
}
