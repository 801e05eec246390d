//! Between QEMU and its TPM: every command and response passes here, up to the one that would latch.
//!
//! QEMU hands the channel of commands to swtpm in a message on its control channel (`CMD_SET_DATAFD`);
//! swtpm gets a channel of ours in its place.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::command_stream::{CommandStream, Extend, StreamError};
use super::pcr_read;
use crate::measurement::{PcrBank, PcrValues};

/// swtpm's command that resets the TPM.
const CMD_INIT: [u8; 4] = [0, 0, 0, 2];
/// Longest message of the control channel but for those that carry the TPM's state.
const MAX_CONTROL: usize = 8192;
const HEADER: usize = 10;

/// What came to pass in the line.
#[derive(Debug)]
pub enum Passed {
    /// The first extend since the TPM was reset.
    Began,
    /// A command would have extended the PCR of the latch: it was not passed on.
    SealPoint(SealPoint),
    /// The stream is one that no boot to be approved has.
    Broken(StreamError),
    /// The TPM did not tell its PCRs.
    Mute,
}

/// The PCRs of the bank at the seal point, by the TPM itself, and what made them so.
#[derive(Debug)]
pub struct SealPoint {
    /// All extends since the TPM was reset.
    pub extends: Vec<Extend>,
    /// What the TPM says that its PCRs hold.
    pub values: PcrValues,
}

/// The line of one boot. It goes on in threads of its own until QEMU or swtpm hangs up.
#[derive(Debug)]
pub struct Relay {
    passed: Receiver<Passed>,
    stream: Arc<Mutex<CommandStream>>,
}

/// What the threads of a relay share.
#[derive(Clone)]
struct Line {
    bank: PcrBank,
    sender: Sender<Passed>,
    stream: Arc<Mutex<CommandStream>>,
}

impl Relay {
    /// Connects the control channels of QEMU and swtpm.
    ///
    /// # Errors
    /// The system's.
    pub fn between(qemu: UnixStream, swtpm: UnixStream, bank: PcrBank) -> io::Result<Self> {
        let (sender, passed) = channel();
        let stream = Arc::<Mutex<CommandStream>>::default();
        let line = Line { bank, sender, stream: stream.clone() };
        let (mut from, mut to) = (swtpm.try_clone()?, qemu.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        thread::spawn(move || {
            let _ = line.control(&qemu, &swtpm);
            // swtpm ends when its control channel does.
            let _ = swtpm.shutdown(Shutdown::Both);
        });
        Ok(Self { passed, stream })
    }

    /// What comes to pass next, where it does in time.
    pub fn next(&self, within: std::time::Duration) -> Option<Passed> {
        self.passed.recv_timeout(within).ok()
    }

    /// The extends so far.
    pub fn extends(&self) -> Vec<Extend> {
        lock(&self.stream).extends().to_vec()
    }
}

impl Line {
    fn control(&self, qemu: &UnixStream, swtpm: &UnixStream) -> io::Result<()> {
        let mut bytes = [0; MAX_CONTROL];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut bytes)];
            let received = recvmsg(qemu, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            let commands = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            let message = bytes.get(..received.bytes).unwrap_or_default();
            if message.is_empty() {
                return Ok(());
            }
            if message.starts_with(&CMD_INIT) {
                lock(&self.stream).start_over();
            }
            match commands {
                None => (&*swtpm).write_all(message)?,
                Some(commands) => self.replace_channel(swtpm, message, commands)?,
            }
        }
    }

    /// Gives swtpm a channel of ours, and passes on between it and QEMU's.
    fn replace_channel(&self, swtpm: &UnixStream, message: &[u8], qemu: OwnedFd) -> io::Result<()> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [theirs.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(swtpm, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL)?;
        let line = self.clone();
        thread::spawn(move || {
            let mut qemu = UnixStream::from(qemu);
            let _ = line.commands(&mut qemu, &mut ours);
            let _ = qemu.shutdown(Shutdown::Both);
        });
        Ok(())
    }

    /// Passes commands and responses on, each after the other, up to the seal point.
    fn commands(&self, qemu: &mut UnixStream, swtpm: &mut UnixStream) -> io::Result<()> {
        loop {
            let command = read_message(qemu)?;
            if CommandStream::latches(&command) {
                let extends = lock(&self.stream).extends().to_vec();
                let passed = match self.read_pcrs(swtpm) {
                    Ok(Some(values)) => Passed::SealPoint(SealPoint { extends, values }),
                    Ok(None) | Err(_) => Passed::Mute,
                };
                let _ = self.sender.send(passed);
                return Ok(());
            }
            swtpm.write_all(&command)?;
            let response = read_message(swtpm)?;
            let (noted, begins) = {
                let mut stream = lock(&self.stream);
                let was_empty = stream.extends().is_empty();
                (stream.note(&command, &response), was_empty && !stream.extends().is_empty())
            };
            if let Err(error) = noted {
                let _ = self.sender.send(Passed::Broken(error));
                return Ok(());
            }
            if begins {
                let _ = self.sender.send(Passed::Began);
            }
            qemu.write_all(&response)?;
        }
    }

    fn read_pcrs(&self, swtpm: &mut UnixStream) -> io::Result<Option<PcrValues>> {
        let mut values = PcrValues::new(self.bank);
        for (first, command) in pcr_read::commands(self.bank) {
            swtpm.write_all(&command)?;
            if pcr_read::take_values(&mut values, first, &read_message(swtpm)?).is_none() {
                return Ok(None);
            }
        }
        Ok(Some(values))
    }
}

fn lock(stream: &Mutex<CommandStream>) -> std::sync::MutexGuard<'_, CommandStream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One command or response: a tag, the length of all of it, the rest.
fn read_message(from: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut head = [0; HEADER];
    from.read_exact(&mut head)?;
    let [_, _, a, b, c, d, ..] = head;
    let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if !(HEADER..=CommandStream::MAX_MESSAGE).contains(&len) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = head.to_vec();
    message.resize(len, 0);
    from.read_exact(message.get_mut(HEADER..).unwrap_or_default())?;
    Ok(message)
}

#[cfg(test)]
mod tests;
