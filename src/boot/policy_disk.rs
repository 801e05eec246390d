//! Finds the disks by which a host hands over signatures, among those of the machine.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::policy::disk::{MAX_DISK, SECTOR, from_disk};

/// Where the kernel lists block devices.
const BLOCK: &str = "sys/block";
/// Most block devices that are looked at.
const MAX_DEVICES: usize = 1024;
/// Most small read-only disks that are read.
const MAX_READ: usize = 16;

/// What the policy disks of the machine below `root` hold. Only disks that the machine cannot write,
/// and that are small, are read at all.
pub fn read_all(root: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(root.join(BLOCK)) else { return vec![] };
    let devices = entries.flatten().take(MAX_DEVICES).filter(|entry| is_candidate(&entry.path()));
    let mut names: Vec<String> =
        devices.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    // The order of a directory is nobody's choice.
    names.sort();
    let disks = names.iter().take(MAX_READ).filter_map(|name| read(&device(root, name)));
    disks.filter_map(|disk| Some(from_disk(&disk)?.to_vec())).collect()
}

/// A disk that the machine was given; what this system itself makes of a file or of memory is none.
fn is_candidate(device: &Path) -> bool {
    let number = |file: &str| {
        let mut text = String::new();
        let opened = File::open(device.join(file)).ok()?;
        opened.take(32).read_to_string(&mut text).ok()?;
        text.trim().parse::<usize>().ok()
    };
    let most = MAX_DISK / SECTOR;
    let is_real = device.join("device").exists();
    is_real
        && number("ro") == Some(1)
        && number("size").is_some_and(|size| (1..=most).contains(&size))
}

/// Where the device lies; the kernel writes `!` for a slash.
fn device(root: &Path, name: &str) -> PathBuf {
    root.join("dev").join(name.replace('!', "/"))
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_DISK as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
