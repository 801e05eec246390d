//! `vmseal predict`: the PCR values of the next boot, entry by entry.

mod gather;
mod report;
mod variables;

use std::collections::BTreeSet;
use std::path::PathBuf;

use gather::Gathered;
use vmseal::Error;
use vmseal::artifact::Volume;
use vmseal::artifact::variable_change::VariableChange;
use vmseal::artifact::variable_update::Target;
use vmseal::files::{Seen, Watched};
use vmseal::prediction::{Account, Machine, Next, Prediction, predict};
use vmseal::reseal::MENU;
use vmseal::sandbox;
use vmseal::vouch::FileDigests;

use super::Done;
use super::terminal::Talk;
use crate::cli::{Global, Predict};

/// Gathers what is known of both boots, predicts, and prints.
pub fn run(global: &Global, args: &Predict, talk: Talk) -> Done {
    // Images and logs may be a guest's: nothing but reading and printing is to be done from here on.
    for layer in sandbox::confine().map_err(Error::from)? {
        talk.detail(format_args!("this kernel has no {layer}: its part of the sandbox is missing"));
    }
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
    Foreseen::of_running(global).map(|foreseen| foreseen.prediction)
}

/// The next boot of the running system, and what it was foreseen from.
pub struct Foreseen {
    gathered: Gathered,
    /// The boot: with the payloads in the variables, where some were named.
    pub prediction: Prediction,
    /// The boot as long as these are not written, where that is another one.
    pub before: Option<Prediction>,
    /// What becomes of the variables of Secure Boot.
    pub variables: Vec<VariableChange>,
    seen: Seen,
}

impl Foreseen {
    /// Predicts it.
    ///
    /// # Errors
    /// Those of gathering.
    pub fn of_running(global: &Global) -> Result<Self, Error> {
        Self::with_payloads(global, &[])
    }

    /// Predicts it for when these payloads are written to variables of Secure Boot, each
    /// `NAME=FILE` as in `vmseal predict --set`, and for as long as they are not.
    ///
    /// # Errors
    /// [`Error::BadVariable`] for anything else than such a variable, and those of gathering.
    pub fn with_payloads(global: &Global, payloads: &[String]) -> Result<Self, Error> {
        let name = |set: &String| set.split_once('=').and_then(|(name, _)| Target::from_name(name));
        if let Some(set) = payloads.iter().find(|set| name(set).is_none()) {
            return Err(Error::BadVariable { set: set.clone() });
        }
        let args = Predict { set: payloads.to_vec(), ..Predict::default() };
        let gathered = gather::gather(global, &args)?;
        let before = gathered.machine_before();
        let (predicted, seen) = gathered.with_inputs(|base, next| {
            let watched = Watched::new(next.files);
            let predict_on = |machine: &Machine| {
                let next = Next {
                    files: &watched,
                    trees: &watched,
                    cmdline: next.cmdline.clone(),
                    loader: next.loader.clone(),
                    sections: next.sections.clone(),
                    machine: machine.clone(),
                };
                predict(base, &next).map_err(Error::BaseNotReproduced)
            };
            let before = before.as_ref().map(predict_on).transpose();
            let predicted = predict_on(&next.machine).and_then(|after| Ok((after, before?)));
            (predicted, watched.into_seen())
        });
        let (prediction, before) = predicted?;
        Ok(Self { prediction, before, variables: gathered.variable_changes(), gathered, seen })
    }

    /// Refuses names that no entry has.
    ///
    /// # Errors
    /// [`Error::NoSuchEntry`].
    pub fn require_entries(&self, names: &[String]) -> Result<(), Error> {
        let there = &self.prediction.entries;
        match names.iter().find(|name| !there.iter().any(|entry| entry.is_called(name))) {
            None => Ok(()),
            Some(wanted) => Err(Error::NoSuchEntry {
                wanted: wanted.clone(),
                there: there.iter().map(|entry| entry.id.clone()).collect(),
            }),
        }
    }

    /// The images that the boot starts and `dbx` will name by their hashes, in words.
    pub fn forbidden(&self) -> BTreeSet<String> {
        let hashes = self.gathered.forbidden_hashes();
        let events = self.prediction.entries.iter().flat_map(|entry| &entry.events);
        let is_named = |account: &&Account| {
            let digests = account.new.as_deref().unwrap_or_default();
            account.pcr.get() == 4
                && digests.iter().any(|digest| hashes.iter().any(|hash| hash == digest.as_bytes()))
        };
        events.filter(is_named).map(|account| account.what.clone()).collect()
    }

    /// The first file, folder, payload or variable that is no longer as it was when the boot was
    /// predicted.
    pub fn changed(&self) -> Option<String> {
        let file = self.gathered.with_inputs(|_, next| self.seen.changed(next.files));
        file.or_else(|| self.gathered.changed_variable())
    }

    /// A file that the boot reads, or a payload, where it lies, and its digests: of the very bytes
    /// that the prediction is from.
    ///
    /// # Errors
    /// [`Error::ChangedSince`], and those of reading.
    pub fn digests(&self, path: &str) -> Result<Option<(PathBuf, FileDigests)>, Error> {
        let mut payloads = self.gathered.payloads().iter();
        if let Some(payload) = payloads.find(|payload| payload.artifact == path) {
            return Ok(Some((payload.path.clone(), payload.digests)));
        }
        let is_it = |(_, known): &(Volume, &str)| {
            *known == path || (path == MENU && known.ends_with("/grub.cfg"))
        };
        // The menu itself, not the script on the EFI system partition that leads to it.
        let Some((volume, path)) = self.seen.files().filter(is_it).last() else { return Ok(None) };
        self.gathered.with_inputs(|_, next| {
            let changed = || Error::ChangedSince { path: path.to_owned() };
            let source = self.seen.reopen(next.files, volume, path).ok_or_else(changed)?;
            let digests = FileDigests::of(source.as_ref());
            let lies = self.gathered.locate(volume, path).unwrap_or_else(|| path.into());
            digests
                .map(|digests| Some((lies, digests)))
                .map_err(|error| Error::Artifact { path: path.into(), cause: error.to_string() })
        })
    }
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
