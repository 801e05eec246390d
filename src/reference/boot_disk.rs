//! A disk that is made for one boot: a partition table, and an EFI system partition with the program
//! that the firmware starts where no boot entry says otherwise (UEFI 2.10, 3.5.1.1).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::inherited::Inherited;
use super::partition_table::{BLOCK, PartitionTable};

const FOLDERS: [&str; 2] = ["EFI", "EFI/BOOT"];
const PROGRAM: &str = "EFI/BOOT/BOOTX64.EFI";
/// What the file system takes beside the program, at the least.
const ROOM: u64 = 16 << 20;
/// Where the partition begins and what its length is a multiple of, as partitioning tools have it.
const ALIGNMENT: u64 = 1 << 20;

/// A disk in memory from which the firmware starts a copy of this program.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidInput`] for what is no file, or too long.
pub fn with_program(path: &Path) -> io::Result<Inherited> {
    let (mut program, len) = Inherited::regular(path)?;
    let len = (len + len / 64 + ROOM).next_multiple_of(ALIGNMENT);
    let table = PartitionTable::of(ALIGNMENT / BLOCK, len / BLOCK);
    let disk = Inherited::zeros(table.blocks() * BLOCK)?;
    for (at, bytes) in table.parts() {
        disk.file().write_all_at(&bytes, at)?;
    }
    let part = || Part { disk: disk.file(), start: ALIGNMENT, len, at: 0 };
    fatfs::format_volume(part(), fatfs::FormatVolumeOptions::new())?;
    let system = fatfs::FileSystem::new(part(), fatfs::FsOptions::new())?;
    {
        let root = system.root_dir();
        for folder in FOLDERS {
            root.create_dir(folder)?;
        }
        let mut file = root.create_file(PROGRAM)?;
        io::copy(&mut program, &mut file)?;
        file.flush()?;
    }
    system.unmount()?;
    Ok(disk)
}

/// A partition, as what writes the file system sees it.
struct Part<'a> {
    disk: &'a File,
    start: u64,
    len: u64,
    at: u64,
}

impl Part<'_> {
    /// Of a buffer, what lies before the end.
    fn within(&self, len: usize) -> usize {
        usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX).min(len)
    }
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.within(buffer.len());
        let part = buffer.get_mut(..len).unwrap_or_default();
        let count = self.disk.read_at(part, self.start + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Part<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.get(..self.within(bytes.len())).unwrap_or_default();
        let count = self.disk.write_at(part, self.start + self.at)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::artifact::{Files, Found, Volume};
    use crate::files::Image;

    /// sfdisk is no command of a plain user.
    const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

    #[test]
    fn firmware_finds_the_program_where_it_looks() {
        let folder = tempfile::tempdir().unwrap();
        let (program, disk) = (folder.path().join("uki.efi"), folder.path().join("disk"));
        for len in [1, 5 << 20, 40 << 20] {
            let bytes: Vec<u8> = (0..len).map(|at: u32| (at / 251) as u8).collect();
            std::fs::write(&program, &bytes).unwrap();
            let made = with_program(&program).unwrap();
            std::fs::copy(made.path(), &disk).unwrap();
            let esp = Image::open(Volume::Esp, &disk).unwrap();
            let found = esp.find(Volume::Esp, "EFI/BOOT/BOOTX64.EFI").unwrap();
            let Some(Found::Bytes(found)) = found else { panic!("not there") };
            let mut read = vec![0; usize::try_from(found.len()).unwrap()];
            found.read_exact_at(0, &mut read).unwrap();
            assert!(read == bytes, "{len} bytes");
            // Programs that are not ours think so too.
            let sfdisk = Command::new("sfdisk")
                .env("PATH", PATH)
                .arg("--verify")
                .arg(&disk)
                .output()
                .unwrap();
            let said = String::from_utf8([sfdisk.stdout, sfdisk.stderr].concat()).unwrap();
            assert!(sfdisk.status.success() && said.contains("No errors"), "{said}");
            let offset = format!("{}@@{ALIGNMENT}", disk.display());
            let mdir = Command::new("mdir").args(["-b", "-/", "-i", &offset]).output().unwrap();
            assert_eq!(
                String::from_utf8(mdir.stdout).unwrap().lines().last(),
                Some("::/EFI/BOOT/BOOTX64.EFI")
            );
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), &folder.path().join("gone"), Path::new("/dev/zero")] {
            assert!(with_program(path).is_err(), "{}", path.display());
        }
    }
}
