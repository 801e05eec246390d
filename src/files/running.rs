//! The running system: where its boot files and its loader's variables are.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use crate::artifact::Volume;
use crate::artifact::variable_store::{StoredVariable, VariableStore};

/// Where systemd and distributions mount the EFI system partition.
const ESP_MOUNTS: [&str; 4] = ["efi", "boot/efi", "boot", "esp"];
/// Largest variable that is read.
const MAX_VARIABLE: u64 = 1 << 20;

/// The boot files of the system below `root`: the EFI system partition where it is mounted, and
/// `/boot`.
pub fn folders(root: &Path) -> Vec<Folder> {
    let mut folders: Vec<Folder> =
        esp(root).map(|path| Folder::new(Volume::Esp, path)).into_iter().collect();
    let boot = root.join("boot");
    if boot.is_dir() {
        folders.push(Folder::new(Volume::Boot, boot));
    }
    folders
}

/// The first usual mount point that has a folder `EFI`, in any case.
fn esp(root: &Path) -> Option<PathBuf> {
    let mounts = ESP_MOUNTS.iter().map(|mount| root.join(mount));
    let mut esps = mounts.filter(|mount| {
        let entries = fs::read_dir(mount).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name());
        names.any(|name| name.eq_ignore_ascii_case("EFI")) && !is_only_mount(mount)
    });
    esps.next()
}

/// Whether the folder `EFI` in it is the mount point of another one: `/boot/efi` on a file system
/// that ignores case does not occur, but an empty folder of that name does.
fn is_only_mount(mount: &Path) -> bool {
    let efi = mount.join("EFI");
    fs::read_dir(efi).is_ok_and(|mut entries| entries.next().is_none())
}

/// The firmware's variables, as efivarfs shows them. What cannot be read is left out.
pub fn variables(root: &Path) -> VariableStore {
    let entries = fs::read_dir(root.join("sys/firmware/efi/efivars")).into_iter().flatten();
    let variables = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let is_small = entry.metadata().is_ok_and(|metadata| metadata.len() <= MAX_VARIABLE);
        let bytes = fs::read(entry.path()).ok().filter(|_| is_small)?;
        StoredVariable::from_efivarfs(&name, &bytes)
    });
    VariableStore::from_variables(variables.collect())
}
