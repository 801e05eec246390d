//! Whether a plan is approved: by who sits at the terminal, by the one who said `--yes`, or by the
//! configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use vmseal::Error;
use vmseal::measurement::text::printable;
use vmseal::reseal::{Artifact, Artifacts, Conf, objections};
use vmseal::vouch::{FileDigests, vouchers};

use super::Work;
use crate::cli::{Global, Reseal};
use crate::commands::predict::Foreseen;
use crate::commands::terminal;

/// How a plan came to be approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    /// Somebody was asked at a terminal.
    Terminal,
    /// Somebody said so beforehand.
    Yes,
    /// The configuration allows it.
    Configuration,
}

impl Approval {
    /// The word for it in the journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Terminal => "terminal",
            Self::Yes => "yes",
            Self::Configuration => "configuration",
        }
    }
}

/// The files that the changes come from, and who vouches for them.
///
/// # Errors
/// [`Error::ChangedSince`], and those of reading.
pub fn artifacts(global: &Global, works: &[Work], foreseen: &Foreseen) -> Result<Artifacts, Error> {
    let boots = works.iter().flat_map(|work| work.plan.new_boots());
    let files = boots.flat_map(|(_, new)| &new.changes).flat_map(|change| &change.files);
    let paths: BTreeSet<&String> = files.collect();
    let mut names = vec![];
    let mut known: Vec<(PathBuf, FileDigests)> = vec![];
    for path in paths {
        if let Some(found) = foreseen.digests(path)? {
            names.push(path.clone());
            known.push(found);
        }
    }
    let found = vouchers(&global.root, &known).into_iter();
    let artifacts = names.into_iter().zip(known).zip(found);
    let artifacts =
        artifacts.map(|((path, (_, digests)), voucher)| (path, Artifact { digests, voucher }));
    Ok(Artifacts(artifacts.collect::<BTreeMap<_, _>>()))
}

/// Has the plans approved.
///
/// # Errors
/// [`Error::NotApproved`]; nothing is changed then.
pub fn approve(
    global: &Global,
    args: &Reseal,
    works: &[&Work],
    artifacts: &Artifacts,
) -> Result<Approval, Error> {
    let refused = |reasons: Vec<String>| Err(Error::NotApproved { reasons });
    let is_attended = !args.unattended && (args.yes || terminal::can_ask());
    if !is_attended {
        let conf = Conf::read(&global.root)
            .map_err(|error| Error::NotApproved { reasons: vec![error.to_string()] })?;
        let of = |work: &&Work| objections(&work.plan, artifacts, &conf);
        let mut reasons: Vec<String> = works.iter().flat_map(of).collect();
        if works.iter().any(|work| work.target.volume.authority.is_none()) {
            reasons.push("a volume sealed to literal values takes its passphrase".to_owned());
        }
        reasons.sort();
        reasons.dedup();
        return if reasons.is_empty() { Ok(Approval::Configuration) } else { refused(reasons) };
    }
    // After a boot that nobody approved, what nobody vouches for is looked at one by one.
    if works.iter().any(|work| !work.plan.runs_approved) {
        let boots = works.iter().flat_map(|work| work.plan.new_boots());
        let files = boots.flat_map(|(_, new)| &new.changes).flat_map(|change| &change.files);
        let mut open: Vec<&String> = files
            .filter(|path| !artifacts.is_vouched_for(path) && !args.accept.contains(path))
            .collect();
        open.sort();
        open.dedup();
        for path in open {
            let shown = printable(path, 200);
            let question = format!("Nobody vouches for {shown}. Approve it all the same? [y/N] ");
            if args.yes || !terminal::ask(&question)? {
                return refused(vec![format!("nobody vouches for {shown}")]);
            }
        }
    }
    if args.yes {
        return Ok(Approval::Yes);
    }
    match terminal::ask("Approve this? [y/N] ")? {
        true => Ok(Approval::Terminal),
        false => refused(vec!["it was not wanted".to_owned()]),
    }
}
