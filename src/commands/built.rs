//! `vmseal built`: notes what a hook saw being built, so that it is vouched for in this boot.

use std::path::Path;

use vmseal::Error;
use vmseal::vouch::{InstalledKernel, note_built, own_menu};

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
    let installed = match installed_kernel(args) {
        Some(kernel) => kernel.built().map_err(|error| failed(&kernel.boot_root, &error))?,
        None => vec![],
    };
    for path in args.files.iter().chain(&menu).chain(&installed) {
        note_built(&global.root, path).map_err(|error| failed(path, &error))?;
        talk.detail(format_args!("noted {}", path.display()));
    }
    Ok(())
}

fn installed_kernel(args: &Built) -> Option<InstalledKernel> {
    let (release, boot_root, entry_token) =
        (args.kernel_install.clone()?, args.boot_root.clone()?, args.entry_token.clone()?);
    Some(InstalledKernel { release, boot_root, entry_token })
}
