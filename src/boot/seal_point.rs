//! The seal point: what the PCRs hold when the boot step reads them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::Error;
use crate::measurement::diff::{Note, notes};
use crate::measurement::replay::{first_difference, replay};
use crate::measurement::{
    Digest, EventLog, InitrdWord, PcrBank, PcrIndex, PcrValues, UserspaceLog,
};
use crate::token::BootEntry;

/// The logs of one boot.
#[derive(Debug, Clone)]
pub struct BootLogs {
    /// The firmware's log, which loader and kernel continue.
    pub firmware: EventLog,
    /// systemd's own log, where the boot has one.
    pub userspace: Option<UserspaceLog>,
}

/// What a boot's PCRs hold at the seal point, and the events that made them so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealPoint {
    /// The values of all PCRs. PCR 15 is zero: nothing has been latched yet.
    pub values: PcrValues,
    /// For each PCR, the first bytes of the digests of its events, in order.
    pub events: BTreeMap<PcrIndex, Vec<[u8; 4]>>,
}

impl BootLogs {
    /// Reads and parses the logs.
    ///
    /// # Errors
    /// [`Error::LogMissing`], [`Error::LogMalformed`], [`Error::UserspaceLogMalformed`].
    pub fn read(firmware: &Path, userspace: Option<&Path>) -> Result<Self, Error> {
        let bytes = read_bounded(firmware, EventLog::MAX_LEN)?;
        let firmware = EventLog::parse(&bytes)
            .map_err(|error| Error::LogMalformed { path: firmware.to_owned(), error })?;
        let userspace = userspace
            .map(|path| {
                UserspaceLog::parse(&read_bounded(path, UserspaceLog::MAX_LEN)?)
                    .map_err(|error| Error::UserspaceLogMalformed { path: path.to_owned(), error })
            })
            .transpose()?;
        Ok(Self { firmware, userspace })
    }

    /// What all measurements of both logs together give, bank by bank.
    pub fn replay(&self) -> BTreeMap<PcrBank, PcrValues> {
        replay(&self.firmware, self.userspace.as_ref())
    }

    /// Makes sure that the logs tell the truth about `live`, PCR 15 apart: it moves after the boot.
    ///
    /// # Errors
    /// [`Error::LogDisagrees`] with the first PCR that differs.
    pub fn verify(&self, live: &PcrValues) -> Result<(), Error> {
        let bank = live.bank();
        let mut replayed = self.replay().remove(&bank).ok_or(Error::LogLacksBank { bank })?;
        if let Some(latch) = live.get(PcrIndex::LATCH) {
            replayed.set(PcrIndex::LATCH, *latch);
        }
        match first_difference(&replayed, live) {
            Some(difference) => Err(Error::LogDisagrees { bank, pcr: difference.pcr }),
            None => Ok(()),
        }
    }

    /// The values at the seal point: the firmware's log, then what systemd extends in an initrd
    /// before `cryptsetup-pre.target`.
    ///
    /// # Errors
    /// [`Error::LogLacksBank`].
    pub fn seal_point(&self, bank: PcrBank) -> Result<SealPoint, Error> {
        let early = self.early();
        let mut values = replay(&self.firmware, early.as_ref())
            .remove(&bank)
            .ok_or(Error::LogLacksBank { bank })?;
        values.set(PcrIndex::LATCH, Digest::zero(bank));
        let mut events = BTreeMap::<_, Vec<_>>::new();
        for (pcr, digest, _) in self.events_to_seal_point(bank) {
            events.entry(pcr).or_default().extend(BootEntry::event_prefix(digest.as_bytes()));
        }
        events.remove(&PcrIndex::LATCH);
        Ok(SealPoint { values, events })
    }

    /// The events before the seal point, as explanations need them. `cmdline` is this system's.
    pub fn notes(&self, bank: PcrBank, cmdline: Option<&str>) -> Vec<Note> {
        let early = self.userspace.as_ref().map(|log| log.filtered(InitrdWord::is));
        notes(&self.firmware, early.as_ref(), bank, cmdline)
    }

    /// What systemd's log has from before the seal point.
    pub fn early(&self) -> Option<UserspaceLog> {
        self.userspace.as_ref().map(|log| log.filtered(InitrdWord::is))
    }

    /// What extended the PCRs before the seal point, in order, with a description in words.
    pub(super) fn events_to_seal_point(&self, bank: PcrBank) -> Vec<(PcrIndex, Digest, String)> {
        let firmware = self.firmware.events().iter().filter(|event| event.extends());
        let firmware = firmware.filter_map(|event| {
            let pcr = PcrIndex::new(event.pcr.into()).ok()?;
            Some((pcr, event.digest(bank)?, event.data().to_string()))
        });
        let userspace = self.userspace.iter().flat_map(|log| log.events());
        let userspace = userspace
            .filter(|event| InitrdWord::is(event))
            .filter_map(|event| Some((event.pcr?, *event.digests.get(&bank)?, event.to_string())));
        firmware.chain(userspace).collect()
    }
}

fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let missing = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            crate::luks::LuksError::NotPermitted { path: path.to_owned() }.into()
        }
        _ => Error::LogMissing { path: path.to_owned(), cause: error.to_string() },
    };
    let mut bytes = Vec::new();
    // One byte more than may be there: the parser then says that it is too long.
    File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map_err(missing)?;
    if bytes.is_empty() {
        return Err(Error::LogMissing { path: path.to_owned(), cause: "it is empty".into() });
    }
    Ok(bytes)
}
