//! A valve in the line between QEMU and its TPM: shut, the TPM answers no command.
//!
//! Stopping swtpm itself would stop the whole guest: when the kernel gives a command up, QEMU tells
//! swtpm so on the control channel, and waits. So only the channel of commands has the valve; its
//! descriptor goes from QEMU to swtpm in a message on the control channel (`CMD_SET_DATAFD`).

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// How often a shut valve is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The valve of one boot.
#[derive(Clone)]
pub struct Valve {
    shut: Arc<AtomicBool>,
}

impl Valve {
    /// Listens where QEMU will look for its TPM, and connects it to swtpm's control socket.
    pub fn between(qemu: &Path, swtpm: &Path) -> Self {
        let valve = Self { shut: Arc::default() };
        let (listener, swtpm) = (UnixListener::bind(qemu).unwrap(), swtpm.to_owned());
        let mine = valve.clone();
        std::thread::spawn(move || {
            let (qemu, _) = listener.accept().unwrap();
            let swtpm = UnixStream::connect(swtpm).unwrap();
            let (from, to) = (swtpm.try_clone().unwrap(), qemu.try_clone().unwrap());
            std::thread::spawn(move || pass(from, to, None));
            mine.relay(&qemu, &swtpm);
            // swtpm ends when its control channel does.
            let _ = swtpm.shutdown(Shutdown::Both);
        });
        valve
    }

    /// Shuts or opens it.
    pub fn shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::Relaxed);
    }

    fn relay(&self, qemu: &UnixStream, swtpm: &UnixStream) {
        let mut bytes = [0; 4096];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut bytes)];
            let Ok(received) = recvmsg(qemu, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) else {
                return;
            };
            let commands = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            let sent = match (received.bytes, commands) {
                (0, _) => return,
                (length, None) => (&*swtpm).write_all(&bytes[..length]).is_ok(),
                (length, Some(commands)) => self.pass_on(swtpm, &bytes[..length], commands),
            };
            if !sent {
                return;
            }
        }
    }

    /// Gives swtpm a channel of our own, and puts the valve between it and QEMU's.
    fn pass_on(&self, swtpm: &UnixStream, message: &[u8], qemu: OwnedFd) -> bool {
        let (mine, theirs) = UnixStream::pair().unwrap();
        let qemu = UnixStream::from(qemu);
        let (requests, answers) = (qemu.try_clone().unwrap(), mine.try_clone().unwrap());
        let valve = self.clone();
        std::thread::spawn(move || pass(requests, mine, Some(&valve)));
        std::thread::spawn(move || pass(answers, qemu, None));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [theirs.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(swtpm, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL).is_ok()
    }
}

/// Passes bytes on until one side is gone, while the valve is open.
fn pass(mut from: UnixStream, mut to: UnixStream, valve: Option<&Valve>) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        while valve.is_some_and(|valve| valve.shut.load(Ordering::Relaxed)) {
            std::thread::sleep(LOOK);
        }
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
