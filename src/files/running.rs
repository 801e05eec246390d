//! The running system: where its boot files and its loader's variables are.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::folder::Folder;
use crate::artifact::efivar::PolicyVariable;
use crate::artifact::variable_store::{StoredVariable, VariableStore};
use crate::artifact::{FilesError, Volume};
use crate::vouch::bounded;

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

/// Where the firmware's variables are.
pub fn variables_folder(root: &Path) -> PathBuf {
    root.join("sys/firmware/efi/efivars")
}

/// The variables of Secure Boot but for `SecureBoot` itself, as the firmware has them now: what the
/// next boot measures. None where efivarfs is not there. Those that were deleted are empty, where the
/// firmware is one that knows Secure Boot.
///
/// # Errors
/// [`FilesError`] with the variable's file where one is there and cannot be read as it is.
pub fn policy(root: &Path) -> Result<Vec<(PolicyVariable, Vec<u8>)>, FilesError> {
    let Ok(folder) = bounded::Folder::open(&variables_folder(root)) else { return Ok(vec![]) };
    let read = |variable: PolicyVariable| {
        let path = format!("{}-{}", variable.name(), variable.guid());
        let failed = |cause: String| FilesError { path: path.clone(), cause };
        match folder.read(&path, MAX_VARIABLE) {
            // Made, and never written.
            Ok((bytes, _)) if bytes.is_empty() => Ok(None),
            Ok((bytes, _)) => StoredVariable::from_efivarfs(&path, &bytes)
                .map(|stored| Some(stored.data))
                .ok_or_else(|| failed("not a file of efivarfs".to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error.to_string())),
        }
    };
    let knows_secure_boot = read(PolicyVariable::SecureBoot)?.is_some();
    let mut found = vec![];
    for variable in PolicyVariable::ALL {
        match (variable, read(variable)?) {
            (PolicyVariable::SecureBoot, _) => {}
            (_, Some(data)) => found.push((variable, data)),
            (_, None) if knows_secure_boot => found.push((variable, vec![])),
            (_, None) => {}
        }
    }
    Ok(found)
}

/// The firmware's variables, as efivarfs shows them. What cannot be read is left out.
pub fn variables(root: &Path) -> VariableStore {
    let entries = fs::read_dir(variables_folder(root)).into_iter().flatten();
    let variables = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let is_small = entry.metadata().is_ok_and(|metadata| metadata.len() <= MAX_VARIABLE);
        let bytes = fs::read(entry.path()).ok().filter(|_| is_small)?;
        StoredVariable::from_efivarfs(&name, &bytes)
    });
    VariableStore::from_variables(variables.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DB: &str = "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f";

    #[test]
    fn variables_of_secure_boot_are_read_or_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(policy(root.path()), Ok(vec![]));
        let folder = variables_folder(root.path());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(DB), [0x27, 0, 0, 0, 1, 2]).unwrap();
        assert_eq!(policy(root.path()), Ok(vec![(PolicyVariable::Db, vec![1, 2])]));
        // A firmware that tells of Secure Boot has no others than it shows.
        let guid = PolicyVariable::SecureBoot.guid();
        fs::write(folder.join(format!("SecureBoot-{guid}")), [6, 0, 0, 0, 1]).unwrap();
        let found = policy(root.path()).unwrap();
        assert_eq!(found.len(), 6);
        assert!(found.contains(&(PolicyVariable::Pk, vec![])), "{found:?}");
        fs::write(folder.join(DB), [0x27, 0, 0]).unwrap();
        assert_eq!(policy(root.path()).unwrap_err().path, DB);
        fs::write(folder.join(DB), []).unwrap();
        assert!(policy(root.path()).unwrap().contains(&(PolicyVariable::Db, vec![])));
        fs::File::create(folder.join(DB)).unwrap().set_len(MAX_VARIABLE + 1).unwrap();
        assert_eq!(policy(root.path()).unwrap_err().path, DB);
        fs::remove_file(folder.join(DB)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.join(DB)).unwrap();
        assert_eq!(policy(root.path()).unwrap_err().path, DB);
    }
}
