//! What whoever logs in is told (pam_motd): how this boot was opened, and that the next one may ask.

use std::io::{ErrorKind, Result};
use std::path::Path;

use vmseal::Error;
use vmseal::measurement::text::printable;

use super::Done;
use super::terminal::Talk;
use crate::cli::Global;

/// What a message ends with.
const REMEDY: &str = "vmseal: look at what changed, and approve it if it is yours: vmseal reseal\n";
/// Characters of a reason that are shown.
const SHOWN: usize = 300;

/// Of this boot: lines of what a passphrase opened, until a boot that needed none.
pub fn of_this_boot(global: &Global, lines: &str, talk: Talk) {
    post(&global.root.join("run/motd.d/vmseal"), lines, talk);
}

/// Of the next boot: why nobody approved it, until a reseal has nothing to refuse.
pub fn of_next_boot(global: &Global, resealed: &Done, talk: Talk) {
    let path = global.root.join("run/motd.d/vmseal-next");
    let line = match resealed.as_ref().map_err(|error| error.downcast_ref::<Error>()) {
        Ok(()) | Err(Some(Error::NothingApproved { .. })) => String::new(),
        Err(Some(error)) => error.to_string(),
        Err(None) => "the boots to come could not be looked at".to_owned(),
    };
    let line = match line.is_empty() {
        true => line,
        false => format!(
            "vmseal: what boots next was not approved, and may ask for the passphrase: {}\n",
            printable(&line, SHOWN)
        ),
    };
    post(&path, &line, talk);
}

/// Leaves a message, or removes it where there is nothing to say.
fn post(path: &Path, lines: &str, talk: Talk) {
    if let Err(error) = write(path, lines) {
        talk.detail(format_args!("{}: {error}", path.display()));
    }
}

fn write(path: &Path, lines: &str) -> Result<()> {
    if lines.is_empty() {
        return match std::fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
    }
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(path, format!("{lines}{REMEDY}"))
}
