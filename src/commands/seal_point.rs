//! What the PCRs held when the volume was opened in this boot, from whatever can tell.

use vmseal::Error;
use vmseal::boot::BootLogs;
use vmseal::measurement::{Digest, PcrBank, PcrIndex, PcrSelection, PcrValues};
use vmseal::tpm::Tpm;

use super::inputs;
use super::terminal::Talk;
use crate::cli::Global;

/// Where the values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The event logs.
    Log,
    /// The TPM as it is now, with PCR 15 taken as zero.
    Live,
    /// Nowhere.
    Unknown,
}

impl Source {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "event log",
            Self::Live => "TPM",
            Self::Unknown => "unknown",
        }
    }
}

/// The PCR values of this boot at the seal point.
pub struct Pcrs {
    /// Where they come from.
    pub source: Source,
    values: Vec<PcrValues>,
    /// The logs, where there are any.
    pub logs: Option<BootLogs>,
    /// That the TPM does not hold what the logs give.
    pub disagreement: Option<Error>,
}

impl Pcrs {
    /// One value, where it is known.
    pub fn get(&self, bank: PcrBank, pcr: PcrIndex) -> Option<Digest> {
        self.values.iter().find(|values| values.bank() == bank)?.get(pcr).copied()
    }

    /// The values of this boot: from the log, else from the TPM. Remarks on what is not to be had.
    pub fn gather(global: &Global, tpm: Result<&Tpm, &Error>, talk: Talk) -> Self {
        let logs = inputs::boot_logs(global, global.eventlog.as_deref(), None);
        match (logs, live_pcrs(tpm)) {
            (Ok(logs), live) => {
                let live = live.unwrap_or_default();
                let mut logged =
                    live.iter().filter(|live| logs.firmware.banks().contains(&live.bank()));
                let disagreement = logged.find_map(|live| logs.verify(live).err());
                let values = PcrBank::ALL
                    .into_iter()
                    .filter_map(|bank| Some(logs.seal_point(bank).ok()?.values))
                    .collect();
                Self { source: Source::Log, values, logs: Some(logs), disagreement }
            }
            (Err(error), Ok(mut values)) => {
                talk.remark(format_args!("{error}; the PCRs as they are now are used instead"));
                for values in &mut values {
                    values.set(PcrIndex::LATCH, Digest::zero(values.bank()));
                }
                Self { source: Source::Live, values, logs: None, disagreement: None }
            }
            (Err(log), Err(tpm)) => {
                talk.remark(format_args!("{log}; {tpm}"));
                Self { source: Source::Unknown, values: vec![], logs: None, disagreement: None }
            }
        }
    }
}

fn live_pcrs(tpm: Result<&Tpm, &Error>) -> Result<Vec<PcrValues>, Error> {
    let tpm = tpm.map_err(Clone::clone)?;
    let banks = tpm.active_banks()?;
    let all = banks.into_iter().map(|bank| PcrSelection::new(bank, PcrIndex::all()));
    Ok(tpm.read_pcrs(&all.collect::<Vec<_>>())?)
}
