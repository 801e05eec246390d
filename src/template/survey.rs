//! What is wrong with the files that a template names, without reading what they say.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{Access, access};

use super::definition::{Boot, Material, Template};
use super::error::TemplateError;
use super::store::require_unexposed;

/// What is wrong with the files of a template: those that it is made of must be there, readable,
/// and nobody else's to write; the folder of the signatures must take them.
pub fn faults(template: &Template) -> Vec<TemplateError> {
    let Boot::Kernel { kernel, initrd, .. } = &template.boot;
    let files = [kernel, initrd].map(|file| match file {
        Material::File(path) | Material::Digests(path) => path,
    });
    let logs = template
        .references
        .iter()
        .flat_map(|reference| [&reference.log].into_iter().chain(reference.userspace.as_ref()));
    let all = files.into_iter().chain(logs).chain(template.vars.as_ref());
    let mut faults: Vec<TemplateError> = all.filter_map(|path| of_file(path).err()).collect();
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
