//! `vmseal predict`: the PCR values of the next boot, entry by entry.

mod gather;
mod report;

use vmseal::Error;
use vmseal::prediction::{Prediction, predict};

use super::Done;
use super::terminal::Talk;
use crate::cli::{Global, Predict};

/// Gathers what is known of both boots, predicts, and prints.
pub fn run(global: &Global, args: &Predict, talk: Talk) -> Done {
    let gathered = gather::gather(global, args)?;
    let prediction = gathered.with_inputs(predict).map_err(Error::BaseNotReproduced)?;
    let prediction = chosen(prediction, args)?;
    for path in gathered.unused() {
        talk.remark(format_args!("no entry reads {path}"));
    }
    if talk.json {
        talk.object(&report::to_json(&prediction, &args.bank));
    } else {
        talk.prose(report::to_text(&prediction, &args.bank, talk.verbose > 0).trim_end());
    }
    Ok(())
}

/// The next boot of the running system, from its own files.
///
/// # Errors
/// Those of gathering.
pub fn of_running(global: &Global) -> Result<Prediction, Error> {
    let gathered = gather::gather(global, &Predict::default())?;
    gathered.with_inputs(predict).map_err(Error::BaseNotReproduced)
}

/// The entries that were asked for.
fn chosen(mut prediction: Prediction, args: &Predict) -> Result<Prediction, Error> {
    let there: Vec<String> = prediction.entries.iter().map(|entry| entry.id.clone()).collect();
    if let Some(wanted) = &args.entry {
        prediction.entries.retain(|entry| entry.is_called(wanted));
    }
    if let Some(release) = &args.kernel_release {
        prediction.entries.retain(|entry| entry.starts_kernel(release));
    }
    if prediction.entries.is_empty() {
        let wanted = args.entry.as_ref().or(args.kernel_release.as_ref());
        return Err(Error::NoSuchEntry { wanted: wanted.cloned().unwrap_or_default(), there });
    }
    Ok(prediction)
}
