//! What a guest wrote to a disk, in order: the log of QEMU's `blklogwrites`, in the form of Linux's
//! dm-log-writes. From it, the disk after a power cut at any of its flushes.

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SECTOR: u64 = 512;
const MAGIC: u64 = 0x6a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// The log of one boot.
pub struct WriteLog {
    file: PathBuf,
}

/// A point at which all that was written before is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// Bytes of the log up to it.
    end: u64,
}

impl WriteLog {
    /// An empty one, for QEMU to write.
    pub fn create(file: PathBuf) -> Self {
        File::create(&file).unwrap();
        Self { file }
    }

    /// The log as it is; later boots write into none.
    pub fn ended(self) -> Self {
        let file = self.file.with_extension("ended");
        fs::rename(&self.file, &file).unwrap();
        Self { file }
    }

    /// How long the log is by now.
    pub fn len(&self) -> u64 {
        fs::metadata(&self.file).unwrap().len()
    }

    /// The flushes between two lengths of the log that come after something was written.
    pub fn flushes(&self, from: u64, to: u64) -> Vec<Cut> {
        let (mut cuts, mut is_written) = (vec![], false);
        self.entries(to, |entry, _| {
            if entry.flags & FLUSH == 0 {
                is_written = true;
            } else if std::mem::take(&mut is_written) && entry.end > from {
                cuts.push(Cut { end: entry.end });
            }
        });
        cuts
    }

    /// Brings a disk as it was when the log began to what it was at a cut.
    pub fn replay(&self, cut: Cut, disk: &Path) {
        let disk = File::options().write(true).open(disk).unwrap();
        self.entries(cut.end, |entry, data| {
            disk.write_all_at(data, entry.sector * SECTOR).unwrap();
        });
    }

    /// Gives each entry that ends before `to`, and what it wrote.
    fn entries(&self, to: u64, mut each: impl FnMut(&Entry, &[u8])) {
        let mut log = BufReader::new(File::open(&self.file).unwrap());
        let mut sector = [0; SECTOR as usize];
        log.read_exact(&mut sector).unwrap();
        assert_eq!(number(&sector, 0), MAGIC);
        let mut end = SECTOR;
        while end < to {
            log.seek(SeekFrom::Start(end)).unwrap();
            if log.read_exact(&mut sector).is_err() {
                return;
            }
            let (flags, sectors) = (number(&sector, 16), number(&sector, 8));
            let is_data = flags & (FLUSH | DISCARD) == 0;
            let mut data = vec![0; if is_data { (sectors * SECTOR) as usize } else { 0 }];
            if log.read_exact(&mut data).is_err() {
                return;
            }
            end += SECTOR + data.len() as u64;
            each(&Entry { sector: number(&sector, 0), flags, end }, &data);
        }
    }
}

struct Entry {
    sector: u64,
    flags: u64,
    end: u64,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
