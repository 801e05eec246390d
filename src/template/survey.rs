//! What is wrong with the files that a template names, without reading what they say.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Access, access};

use super::definition::{Boot, Template};
use super::error::TemplateError;
use super::store::require_unexposed;

/// What is wrong with the files of a template: those that it is made of must be there, readable,
/// and nobody else's to write; the folder of the signatures must take them.
pub fn faults(template: &Template) -> Vec<TemplateError> {
    let logs = template
        .references
        .iter()
        .flat_map(|reference| [&reference.log].into_iter().chain(reference.userspace.as_ref()));
    let boot = template.boot.paths();
    let (disks, files) = match &template.boot {
        Boot::Disk { .. } => (boot, vec![]),
        Boot::Kernel { .. } | Boot::Uki { .. } => (vec![], boot),
    };
    let firmware = template.vars.iter().chain(&template.hardware.firmware);
    let all = files.into_iter().chain(logs).chain(firmware);
    let mut faults: Vec<TemplateError> = all.filter_map(|path| of_file(path).err()).collect();
    faults.extend(disks.into_iter().filter_map(|path| of_disk(path).err()));
    faults.dedup();
    faults.extend(of_folder(&template.delivery.folder).err());
    faults
}

fn of_file(path: &Path) -> Result<(), TemplateError> {
    let io = |error: std::io::Error| TemplateError::io(path, &error);
    let metadata = fs::metadata(path).map_err(io)?;
    // To open a FIFO would wait for a writer.
    if !metadata.is_file() {
        return Err(io(std::io::Error::other("it is no file")));
    }
    File::open(path).map_err(io)?;
    require_unexposed(path)
}

/// Guests write their disks, and whoever runs them may own these.
fn of_disk(path: &Path) -> Result<(), TemplateError> {
    let io = |error: std::io::Error| TemplateError::io(path, &error);
    let kind = fs::metadata(path).map_err(io)?.file_type();
    if !(kind.is_file() || kind.is_block_device() || kind.is_dir()) {
        return Err(io(std::io::Error::other("it is no file, device or folder")));
    }
    File::open(path).map(|_| ()).map_err(io)
}

/// A folder that is not there yet is made where that can be done.
fn of_folder(folder: &Path) -> Result<(), TemplateError> {
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(folder);
    let refused = |error: std::io::Error| TemplateError::io(there, &error);
    if !there.is_dir() {
        return Err(refused(std::io::Error::other("it is no folder")));
    }
    access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| refused(error.into()))?;
    // Whoever may write there could have root follow a link of his.
    if there == folder { require_unexposed(folder) } else { Ok(()) }
}
