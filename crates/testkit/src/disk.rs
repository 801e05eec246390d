//! Disks of guests as their host has them: raw images with a GUID partition table, made by the usual
//! tools and never mounted.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::run::{run, run_with_input, tool};

const MIB: u64 = 1 << 20;
/// Where the EFI system partition begins, and its length.
pub const ESP: (u64, u64) = (MIB, 48 * MIB);
/// Where the file system with `/boot` begins, and its length.
pub const BOOT: (u64, u64) = (ESP.0 + ESP.1, 48 * MIB);

/// What lies on a disk: paths from the root of each file system, without a slash at the start.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// The EFI system partition, which is FAT.
    pub esp: BTreeMap<String, Vec<u8>>,
    /// The file system for kernels, which is ext4; none where it is empty.
    pub boot: BTreeMap<String, Vec<u8>>,
}

impl Disk {
    /// Writes the image, in the place of one that is there.
    pub fn write(&self, path: &Path) {
        let _ = fs::remove_file(path);
        let file = fs::File::create(path).unwrap();
        file.set_len(BOOT.0 + BOOT.1 + MIB).unwrap();
        let name = path.to_str().unwrap();
        let mut table = format!("label: gpt\nstart=1MiB, size={}MiB, type=uefi\n", ESP.1 / MIB);
        if !self.boot.is_empty() {
            table += &format!("start={}MiB, size={}MiB, type=linux\n", BOOT.0 / MIB, BOOT.1 / MIB);
        }
        let sfdisk = run_with_input(Command::new("sfdisk").args(["-q", name]), table.as_bytes());
        sfdisk.ok();
        let folder = tempfile::tempdir().unwrap();
        self.write_esp(name, folder.path());
        if !self.boot.is_empty() {
            let tree = folder.path().join("boot");
            lay_out(&self.boot, &tree);
            let options = format!("offset={}", BOOT.0);
            let mut mke2fs = Command::new("mke2fs");
            mke2fs.args(["-q", "-F", "-t", "ext4", "-E", &options, "-d"]).arg(&tree);
            run(mke2fs.args([name, &format!("{}k", BOOT.1 / 1024)])).ok();
        }
    }

    /// The file systems as folders, `esp` and `boot` below this one.
    pub fn lay_out(&self, folder: &Path) {
        lay_out(&self.esp, &folder.join("esp"));
        lay_out(&self.boot, &folder.join("boot"));
    }

    fn write_esp(&self, image: &str, folder: &Path) {
        let tree = folder.join("esp");
        lay_out(&self.esp, &tree);
        let at = format!("{image}@@{}", ESP.0);
        let sectors = (ESP.1 / 512).to_string();
        tool("mformat", &["-i", &at, "-T", &sectors, "-h", "64", "-s", "32", "-c", "4", "::"]);
        for entry in fs::read_dir(&tree).unwrap() {
            let path = entry.unwrap().path();
            tool("mcopy", &["-i", &at, "-s", path.to_str().unwrap(), "::"]);
        }
    }
}

/// Files below a folder, which is made.
fn lay_out(files: &BTreeMap<String, Vec<u8>>, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
