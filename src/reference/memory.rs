//! The guest's memory as the host sees it, and the event logs in it: the firmware's, and the copies
//! that loader and kernel made.

use std::io;
use std::os::unix::fs::FileExt;

use memchr::memmem::find_iter;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::inherited::Inherited;
use crate::measurement::{EventLog, LogFormat};

/// What the first event of a crypto-agile log holds.
const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
/// PCR, type, SHA-1 digest and length of that event.
const BEFORE: u64 = 4 + 4 + 20 + 4;
/// Read at once.
const CHUNK: usize = 4 << 20;
/// Longest log that is looked at; the firmware's area has 64 KiB, GRUB's menus add some more.
const MAX_LOG: usize = 4 << 20;
/// Most places that are looked at. A boot has three or four.
const MAX_LOGS: usize = 64;

/// The memory of one guest.
#[derive(Debug)]
pub struct GuestMemory(Inherited);

impl GuestMemory {
    /// Memory of so many bytes, which programs that are started inherit.
    ///
    /// # Errors
    /// The system's.
    pub fn new(len: u64) -> io::Result<Self> {
        Inherited::zeros(len).map(Self)
    }

    /// Its path in a program that inherited it.
    pub fn inherited_path(&self) -> String {
        self.0.path()
    }

    /// The logs in it, each to where it stops being one.
    ///
    /// # Errors
    /// The system's.
    pub fn logs(&self) -> io::Result<Vec<EventLog>> {
        let mut logs = vec![];
        for at in self.signatures()? {
            let Some(start) = at.checked_sub(BEFORE) else { continue };
            let mut bytes = vec![0; MAX_LOG];
            let len = self.read(&mut bytes, start)?;
            bytes.truncate(len);
            let log = EventLog::parse_start(&bytes).ok();
            logs.extend(log.filter(|log| matches!(log.format(), LogFormat::CryptoAgile(_))));
        }
        Ok(logs)
    }

    /// Where a log may begin. What the guest never wrote to is left out unread.
    fn signatures(&self) -> io::Result<Vec<u64>> {
        let mut found = vec![];
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while let Some((start, end)) = self.written(at)? {
            at = start;
            while at < end && found.len() < MAX_LOGS {
                let len = self.read(&mut buffer, at)?;
                if len < SIGNATURE.len() {
                    break;
                }
                let bytes = buffer.get(..len).unwrap_or_default();
                found.extend(find_iter(bytes, SIGNATURE).map(|offset| at + offset as u64));
                // One that lies across the end is found next time.
                at += (len - SIGNATURE.len() + 1) as u64;
            }
            at = at.max(end);
        }
        found.dedup();
        found.truncate(MAX_LOGS);
        Ok(found)
    }

    /// The next bytes that were written to.
    fn written(&self, from: u64) -> io::Result<Option<(u64, u64)>> {
        match seek(self.0.file(), SeekFrom::Data(from)) {
            Err(Errno::NXIO) => Ok(None),
            start => {
                let start = start?;
                Ok(Some((start, seek(self.0.file(), SeekFrom::Hole(start))?)))
            }
        }
    }

    fn read(&self, buffer: &mut [u8], from: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.file().read_at(rest, from + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 64 << 20;

    fn header() -> Vec<u8> {
        let mut event = vec![0; 32];
        event[4] = 3;
        event[28] = 33;
        event.extend(SIGNATURE);
        event.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0xb, 0, 32, 0, 0]);
        event
    }

    fn action(byte: u8) -> Vec<u8> {
        let head = [5, 0, 0, 0, 7, 0, 0, 0x80, 1, 0, 0, 0, 0xb, 0];
        [&head[..], &[byte; 32], &[1, 0, 0, 0, byte]].concat()
    }

    #[test]
    fn finds_logs_wherever_they_lie() {
        let memory = GuestMemory::new(LEN).unwrap();
        assert_eq!(memory.logs().unwrap(), []);
        let log = [header(), action(1), action(2)].concat();
        let places = [0, 4096 + 3, CHUNK as u64 - 40, LEN - log.len() as u64];
        for place in places {
            memory.0.file().write_all_at(&log, place).unwrap();
        }
        // The words alone are no log, nor are they one where nothing can come before them.
        memory.0.file().write_all_at(SIGNATURE, 1 << 20).unwrap();
        let logs = memory.logs().unwrap();
        assert_eq!(logs.len(), places.len());
        for log in logs {
            let events = log.events();
            assert_eq!((events.len(), events[2].raw.as_slice()), (3, &[2][..]));
        }
    }

    #[test]
    fn a_memory_full_of_beginnings_is_given_up() {
        let memory = GuestMemory::new(LEN).unwrap();
        for place in 0..200 {
            memory.0.file().write_all_at(&header(), place * 4096).unwrap();
        }
        assert_eq!(memory.logs().unwrap().len(), MAX_LOGS);
    }
}
