//! Whether the file system that is to hold a key is encrypted itself.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where key files lie. No pattern by which an initramfs collects key files may match it.
pub const KEYS_FOLDER: &str = "/etc/vmseal/keys";
/// Device-mapper targets that encrypt, by the beginning of their UUIDs: `CRYPT-VERITY-` and
/// `CRYPT-INTEGRITY-` do not.
const ENCRYPTED: [&str; 3] = ["CRYPT-LUKS2-", "CRYPT-LUKS1-", "CRYPT-PLAIN-"];
/// Layers of devices that are looked through.
const MAX_DEPTH: usize = 8;

/// Whether [`KEYS_FOLDER`] of the system below `root` lies on encrypted devices only. What cannot be
/// told is not.
pub fn is_root_encrypted(root: &Path) -> bool {
    is_encrypted(root, Path::new(KEYS_FOLDER))
}

/// The same of any path, absolute and without links.
pub fn is_encrypted(root: &Path, path: &Path) -> bool {
    let Ok(mounts) = fs::read_to_string(root.join("proc/self/mountinfo")) else { return false };
    let Some((number, source)) = mount_of(&mounts, path) else { return false };
    let block = root.join("sys/dev/block");
    // btrfs and overlays have numbers of their own; the former names its device.
    let device = match number.starts_with("0:") {
        false => Some(block.join(number)),
        true => device_of(root, &source).map(|number| block.join(number)),
    };
    device.is_some_and(|device| is_device_encrypted(&device, 0))
}

/// The device number and the source of the mount that holds a path.
fn mount_of(mountinfo: &str, path: &Path) -> Option<(String, String)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (own, of_kind) = line.split_once(" - ")?;
        let mut own = own.split(' ').skip(2);
        let (number, point) = (own.next()?, own.nth(1)?);
        let source = of_kind.split(' ').nth(1)?;
        path.starts_with(point).then_some((point.len(), number, source))
    });
    // Of several on the same point, the last one covers the others.
    let found = mounts.max_by_key(|(length, ..)| *length)?;
    Some((found.1.to_owned(), found.2.to_owned()))
}

/// `MAJOR:MINOR` of a device node.
fn device_of(root: &Path, source: &str) -> Option<String> {
    let node = fs::metadata(root.join(source.strip_prefix('/')?)).ok()?.rdev();
    (node != 0).then(|| format!("{}:{}", rustix::fs::major(node), rustix::fs::minor(node)))
}

fn is_device_encrypted(device: &Path, depth: usize) -> bool {
    let uuid = fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
    if ENCRYPTED.iter().any(|prefix| uuid.starts_with(prefix)) {
        return true;
    }
    let entries = fs::read_dir(device.join("slaves")).into_iter().flatten().flatten();
    let slaves: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    depth < MAX_DEPTH
        && !slaves.is_empty()
        && slaves.iter().all(|slave| is_device_encrypted(slave, depth + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn every_device_below_the_root_must_be_encrypted() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert!(!is_root_encrypted(root), "nothing is known");
        let mounts = "21 1 254:3 / / rw - ext4 /dev/mapper/vg-root rw\n\
                      22 21 8:1 / /etc/other rw - ext4 /dev/sda1 rw\n";
        put(root, "proc/self/mountinfo", mounts);
        assert!(!is_root_encrypted(root), "a device without a trace");
        put(root, "sys/dev/block/254:3/dm/uuid", "LVM-abc\n");
        put(root, "sys/dev/block/254:3/slaves/dm-0/dm/uuid", "CRYPT-LUKS2-abc-root\n");
        assert!(is_root_encrypted(root));
        put(root, "sys/dev/block/254:3/slaves/sdb/size", "1\n");
        assert!(!is_root_encrypted(root), "a second physical volume in plain");
        put(root, "sys/dev/block/254:3/slaves/sdb/dm/uuid", "CRYPT-VERITY-abc\n");
        assert!(!is_root_encrypted(root), "verity reads plain data");
        // A file system of its own below the root counts instead of it.
        put(root, "sys/dev/block/254:3/dm/uuid", "CRYPT-LUKS2-abc-root\n");
        assert!(is_root_encrypted(root));
        put(root, "proc/self/mountinfo", &format!("{mounts}23 21 8:2 / /etc rw - ext4 x rw\n"));
        assert!(!is_root_encrypted(root));
    }
}
