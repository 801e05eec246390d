//! Measured against predicted: where the same boot does not follow from its own log and the files of
//! the template, none that comes after it would.

use super::boot::Recorded;
use super::error::ReferenceError;
use super::qemu::Size;
use crate::boot::BootLogs;
use crate::error::Error;
use crate::measurement::{Digest, PcrIndex};
use crate::prediction::{EntryPrediction, Fate};
use crate::template::{Forecaster, MachineKind, Sources, Template};

/// Predicts the boot that was recorded, of a kernel that the host gives, and compares every PCR that would be sealed to.
///
/// # Errors
/// [`ReferenceError::Foretold`] with the first PCR and event that differ; those of the prediction.
pub fn compare(
    template: &Template,
    logs: BootLogs,
    sources: Sources<'_>,
    size: Size,
    recorded: &Recorded,
) -> Result<(), Error> {
    let forecaster = Forecaster::new(template, None, vec![logs], sources)?;
    let kind = MachineKind { memory: Some(size.memory), cpus: Some(size.cpus) };
    let (values, entry) = forecaster.told(&template.cmdline(""), kind)?;
    let is_other = |(pcr, value): &(PcrIndex, &Digest)| recorded.values.get(*pcr) != Some(*value);
    match values.iter().find(is_other) {
        None => Ok(()),
        Some((pcr, _)) => {
            let event = first_other(&entry, recorded, pcr);
            Err(ReferenceError::Foretold { pcr, event }.into())
        }
    }
}

/// The first event of a PCR that is predicted otherwise than it was.
fn first_other(entry: &EntryPrediction, recorded: &Recorded, pcr: PcrIndex) -> String {
    let bank = recorded.values.bank();
    let of_pcr = entry.events.iter().filter(|account| account.pcr == pcr);
    let mut other = of_pcr.filter(|account| {
        let digest = |digests: &[Digest]| digests.iter().find(|it| it.bank() == bank).copied();
        let new = account.new.as_ref().ok().and_then(|new| digest(new));
        account.fate == Fate::Gone || new != digest(&account.old)
    });
    other.next().map_or_else(|| "its events".to_owned(), |account| account.what.clone())
}
