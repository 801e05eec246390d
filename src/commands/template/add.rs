//! `vmseal template add`: makes a template from what a host has of its machines.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::json;
use vmseal::Error;
use vmseal::template::import::{Described, Draft, ImportError, libvirt, qemu, qubes};
use vmseal::template::{DeliveryKind, Template, TemplateError, Templates};

use super::{read, unusable};
use crate::cli::{Add, Global};
use crate::commands::Done;
use crate::commands::terminal::Talk;

/// Reads, makes, writes.
pub fn run(global: &Global, args: &Add, talk: Talk) -> Done {
    let (source, draft) = draft(args)?;
    let draft = draft.map_err(|error| TemplateError::Import { path: source, error });
    let draft = draft.map_err(Error::from)?;
    let templates = Templates::below(&global.root);
    let path = match args.dry_run {
        true => None,
        false => Some(templates.add(&args.name, &draft.text, args.replace).map_err(Error::from)?),
    };
    if talk.json {
        talk.object(&json!({
            "name": args.name, "file": path, "text": draft.text, "open": draft.open,
        }));
    } else if args.dry_run {
        // A file that it is written to is the template.
        talk.data(draft.text.trim_end());
    }
    for open in &draft.open {
        talk.remark(format_args!("fill in, or look at: {open}"));
    }
    if let Some(path) = path {
        talk.prose(format_args!("wrote {}", path.display()));
        talk.remark(format_args!(
            "look at it, then: vmseal authority init {0}; vmseal template check {0}",
            args.name
        ));
    }
    Ok(())
}

/// Where the template comes from, and what it is.
fn draft(args: &Add) -> Result<(PathBuf, Result<Draft, ImportError>), Error> {
    let (first, machines, delivery) = match (&args.qubes, args.libvirt.as_slice()) {
        (Some(folder), _) => (folder.clone(), of_qubes(folder, &args.vm)?, DeliveryKind::Qubesdb),
        (None, []) => described(&args.qemu, qemu::MAX_LEN, qemu::describe)?,
        (None, files) => described(files, libvirt::MAX_LEN, libvirt::describe)?,
    };
    let more = machines.len().saturating_sub(1);
    let source = match more {
        0 => first.display().to_string(),
        _ => format!("{} and {more} more machines", first.display()),
    };
    let draft = Draft::of(&args.name, &source, &machines, delivery);
    Ok((first, draft))
}

/// What each file describes.
fn described(
    files: &[PathBuf],
    limit: usize,
    describe: fn(&str) -> Result<Described, ImportError>,
) -> Result<(PathBuf, Vec<Described>, DeliveryKind), Error> {
    let machines = files.iter().map(|path| {
        let refused = |error| TemplateError::Import { path: path.clone(), error };
        Ok(describe(&read(path, limit)?).map_err(refused)?)
    });
    let machines = machines.collect::<Result<_, Error>>()?;
    Ok((files.first().cloned().unwrap_or_default(), machines, DeliveryKind::FwCfg))
}

fn of_qubes(folder: &Path, vms: &[String]) -> Result<Vec<Described>, Error> {
    for file in [qubes::KERNEL, qubes::INITRD] {
        let path = folder.join(file);
        File::open(&path).map_err(|error| unusable(&path, error.to_string()))?;
    }
    let common = read(&folder.join(qubes::CMDLINE), Template::MAX_CMDLINE)?;
    let folder =
        std::path::absolute(folder).map_err(|error| unusable(folder, error.to_string()))?;
    let vms: Vec<(String, String)> = vms
        .iter()
        .map(|vm| {
            let (name, own) = vm.split_once('=').unwrap_or((vm, ""));
            (name.to_owned(), own.to_owned())
        })
        .collect();
    Ok(qubes::describe(&folder.to_string_lossy(), common.trim(), &vms))
}
