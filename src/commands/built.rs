//! `vmseal built`: notes what a hook saw being built, so that it is vouched for in this boot.

use std::path::Path;

use vmseal::Error;
use vmseal::vouch::{note_built, own_menu};

use super::Done;
use super::terminal::Talk;
use crate::cli::{Built, Global};

/// Notes each file.
pub fn run(global: &Global, args: &Built, talk: Talk) -> Done {
    let failed = |path: &Path, error: &std::io::Error| Error::Artifact {
        path: path.to_owned(),
        cause: error.to_string(),
    };
    let menu = match args.grub_menu {
        true => own_menu(&global.root).map_err(|error| failed(&global.root, &error))?,
        false => None,
    };
    for path in args.files.iter().chain(&menu) {
        note_built(&global.root, path).map_err(|error| failed(path, &error))?;
        talk.detail(format_args!("noted {}", path.display()));
    }
    Ok(())
}
