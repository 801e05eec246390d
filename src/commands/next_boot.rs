//! Sealing to the boot that comes: have it carry the pin, then predict it.

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::boot::BootLogs;
use vmseal::enroll::{self, NextBoot, Plan};
use vmseal::measurement::text::printable;

use super::rebuild::{Carried, Integration};
use super::terminal::Talk;
use super::{inputs, predict};
use crate::cli::{Enroll, Global, Rebuild};

/// What the next boot was found to be.
pub struct Prepared {
    /// `None` where it cannot be told, and is this one for all that is known.
    pub next: Option<NextBoot>,
    /// The command that rebuilt the initramfs.
    pub rebuilt: Option<&'static str>,
}

/// Has the initramfs rebuilt where it lacks the pins, and predicts the boot with it.
///
/// # Errors
/// [`Error::RebuildFailed`]; those of predicting.
pub fn prepare(
    global: &Global,
    args: &Enroll,
    integration: &Integration,
    (plan, logs): (&Plan, &BootLogs),
    talk: Talk,
) -> Result<Prepared, Error> {
    let carried = integration.carried(global);
    let mut rebuilt = None;
    match (carried, args.rebuild) {
        (Carried::No, Rebuild::Auto) => {
            integration.rebuild(global, talk)?;
            rebuilt = Some(integration.command());
        }
        (Carried::No, Rebuild::Never) => talk.remark(format_args!(
            "the initramfs must carry {}: {}",
            global.pins.display(),
            integration.command()
        )),
        (Carried::ByThisBoot | Carried::ByTheNext, _) => {}
    }
    match predicted(global, plan, logs) {
        Ok(next) => {
            tell_changes(&next, talk);
            Ok(Prepared { next: Some(next), rebuilt })
        }
        // This initramfs has the pin, and nothing was written for another boot.
        Err(error) if carried == Carried::ByThisBoot && !integration.has_newer_files() => {
            talk.remark(format_args!("{error}; sealing to this boot, which is the last one known"));
            Ok(Prepared { next: None, rebuilt })
        }
        Err(error) => Err(error),
    }
}

/// The boot that the files at hand make.
///
/// # Errors
/// [`Error::Unforeseen`], and those of gathering.
pub fn predicted(global: &Global, plan: &Plan, logs: &BootLogs) -> Result<NextBoot, Error> {
    let prediction = predict::of_running(global)?;
    enroll::plan_next(plan, logs, inputs::cmdline(global).as_deref(), &prediction)
}

/// What whoever enrols approves without having booted it.
fn tell_changes(next: &NextBoot, talk: Talk) {
    for change in &next.changes {
        let source = change.source.as_deref().map(|source| format!(", from {source}"));
        talk.remark(format_args!(
            "the next boot differs from this one: PCR {} {} {}{}",
            change.pcr,
            change.fate,
            printable(&change.what, 160),
            printable(&source.unwrap_or_default(), 160)
        ));
    }
}

/// Members of `--json` that tell which boot was sealed to.
pub fn to_json(prepared: Option<&Prepared>) -> Value {
    let next = prepared.and_then(|prepared| prepared.next.as_ref());
    let changes = next.into_iter().flat_map(|next| &next.changes).map(|change| {
        json!({
            "pcr": change.pcr, "fate": change.fate, "what": printable(&change.what, 400),
            "source": change.source.as_deref().map(|source| printable(source, 400)),
        })
    });
    json!({
        "boot": if next.is_some() { "next" } else { "this" },
        "entry": next.map(|next| printable(&next.entry, 400)),
        "changes": changes.collect::<Vec<_>>(),
        "rebuilt": prepared.and_then(|prepared| prepared.rebuilt),
    })
}
