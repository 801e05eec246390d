//! The running system: where its boot files and its loader's variables are.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::folder::Folder;
use crate::artifact::Volume;
use crate::artifact::variable_store::{StoredVariable, VariableStore};

/// Where systemd and distributions mount the EFI system partition.
const ESP_MOUNTS: [&str; 4] = ["efi", "boot/efi", "boot", "esp"];
/// Longest `/proc/mounts` that is read.
const MAX_MOUNTS: u64 = 1 << 20;
/// Largest variable that is read.
const MAX_VARIABLE: u64 = 1 << 20;

/// What reads the boot files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// GRUB, which reads most file systems.
    Grub,
    /// systemd-boot, by the firmware's drivers: FAT alone.
    Firmware,
}

/// The boot files of the system below `root`: the EFI system partition where it is mounted, and
/// `/boot` where that is something else, and what `reader` reads.
pub fn folders(root: &Path, reader: Reader) -> Vec<Folder> {
    let mounts = Mounts::read(root);
    let esp = esp(root, &mounts);
    let boot = root.join("boot");
    let is_read = match reader {
        Reader::Grub => true,
        Reader::Firmware => mounts.is_fat("/boot").unwrap_or(true),
    };
    let boot = Some(boot).filter(|boot| boot.is_dir() && is_read && esp.as_ref() != Some(boot));
    let esp = esp.map(|path| Folder::new(Volume::Esp, path));
    esp.into_iter().chain(boot.map(|path| Folder::new(Volume::Boot, path))).collect()
}

/// Mount points and the kinds of their file systems, in the order of mounting.
struct Mounts(Vec<(String, String)>);

impl Mounts {
    fn read(root: &Path) -> Self {
        let mut text = String::new();
        // Without /proc there are no answers, only the usual places.
        let _ = fs::File::open(root.join("proc/mounts"))
            .and_then(|file| file.take(MAX_MOUNTS).read_to_string(&mut text));
        let mount = |line: &str| {
            let mut words = line.split(' ').skip(1);
            Some((unescaped(words.next()?), words.next()?.to_owned()))
        };
        Self(text.lines().filter_map(mount).collect())
    }

    /// Whether a folder is a mounted FAT file system; `None` where nothing is known of mounts.
    fn is_fat(&self, folder: &str) -> Option<bool> {
        // autofs stands under the file system that it mounts.
        let mut own = self.0.iter().rev().filter(|(point, _)| point == folder);
        (!self.0.is_empty()).then(|| own.next().is_some_and(|(_, kind)| is_fat(kind)))
    }

    fn fat(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, kind)| is_fat(kind)).map(|(point, _)| point.as_str())
    }
}

fn is_fat(kind: &str) -> bool {
    matches!(kind, "vfat" | "msdos")
}

/// The kernel writes white space and `\\` as `\\ooo`.
fn unescaped(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// The first usual mount point, or else mounted FAT file system, that has a folder `EFI`, in any
/// case.
fn esp(root: &Path, mounts: &Mounts) -> Option<PathBuf> {
    let fat = mounts.fat().map(|point| root.join(point.trim_start_matches('/')));
    let places = ESP_MOUNTS.iter().map(|mount| root.join(mount)).chain(fat);
    let mut esps = places.filter(|mount| {
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
