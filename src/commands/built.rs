//! `vmseal built`: notes what a hook saw being built, so that it is vouched for in this boot.

use vmseal::Error;
use vmseal::vouch::note_built;

use super::Done;
use super::terminal::Talk;
use crate::cli::{Built, Global};

/// Notes each file.
pub fn run(global: &Global, args: &Built, talk: Talk) -> Done {
    for path in &args.files {
        note_built(&global.root, path)
            .map_err(|error| Error::Artifact { path: path.clone(), cause: error.to_string() })?;
        talk.detail(format_args!("noted {}", path.display()));
    }
    Ok(())
}
