//! `vmseal predict`: the PCR values of the next boot, entry by entry.

mod gather;
mod report;

use std::path::PathBuf;

use gather::Gathered;
use vmseal::Error;
use vmseal::artifact::Volume;
use vmseal::files::{Seen, Watched};
use vmseal::prediction::{Next, Prediction, predict};
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
    /// The boot.
    pub prediction: Prediction,
    seen: Seen,
}

impl Foreseen {
    /// Predicts it.
    ///
    /// # Errors
    /// Those of gathering.
    pub fn of_running(global: &Global) -> Result<Self, Error> {
        let gathered = gather::gather(global, &Predict::default())?;
        let (prediction, seen) = gathered.with_inputs(|base, next| {
            let watched = Watched::new(next.files);
            let next = Next {
                files: &watched,
                trees: &watched,
                cmdline: next.cmdline.clone(),
                loader: next.loader.clone(),
                sections: next.sections.clone(),
                machine: next.machine.clone(),
            };
            (predict(base, &next), watched.into_seen())
        });
        Ok(Self { prediction: prediction.map_err(Error::BaseNotReproduced)?, gathered, seen })
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

    /// The first file or folder that is no longer as it was when the boot was predicted.
    pub fn changed(&self) -> Option<String> {
        self.gathered.with_inputs(|_, next| self.seen.changed(next.files))
    }

    /// A file that the boot reads, where it lies, and its digests: of the very bytes that the
    /// prediction is from.
    ///
    /// # Errors
    /// [`Error::ChangedSince`], and those of reading.
    pub fn digests(&self, path: &str) -> Result<Option<(PathBuf, FileDigests)>, Error> {
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
