//! A test plays QEMU; the TPM is a real one.

use std::time::Duration;

use super::*;
use crate::measurement::{Digest, PcrIndex};
use crate::reference::boot::{Running, start_tpm};
use crate::reference::scratch::Scratch;

const BANK: PcrBank = PcrBank::Sha256;
const SOON: Duration = Duration::from_secs(30);
const STARTUP: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0];

/// What QEMU has of its TPM.
struct Qemu {
    control: UnixStream,
    commands: UnixStream,
    _swtpm: Running,
    _scratch: Scratch,
}

impl Qemu {
    fn start() -> (Self, Relay) {
        let scratch = Scratch::new().unwrap();
        let (tpm, swtpm) = start_tpm(scratch.path(), BANK, None).unwrap();
        let (control, theirs) = UnixStream::pair().unwrap();
        let relay = Relay::between(theirs, tpm, BANK).unwrap();
        let (commands, given) = UnixStream::pair().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [given.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let set_data_fd = [IoSlice::new(&[0, 0, 0, 16])];
        sendmsg(&control, &set_data_fd, &mut ancillary, SendFlags::empty()).unwrap();
        let mut qemu = Self { control, commands, _swtpm: swtpm, _scratch: scratch };
        qemu.answers_well();
        (qemu, relay)
    }

    fn answers_well(&mut self) {
        let mut answer = [0xff; 4];
        self.control.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0; 4]);
    }

    /// Power on, or a reset.
    fn reset(&mut self) {
        for command in [&[0, 0, 0, 14][..], &[0, 0, 0, 2, 0, 0, 0, 0]] {
            self.control.write_all(command).unwrap();
            self.answers_well();
        }
        self.command(&STARTUP);
    }

    fn command(&mut self, command: &[u8]) {
        self.commands.write_all(command).unwrap();
        let answer = read_message(&mut self.commands).unwrap();
        assert_eq!(answer[6..10], [0; 4], "{command:x?}: {answer:x?}");
    }
}

/// `TPM2_PCR_Extend` or, with bytes that the TPM hashes, `TPM2_PCR_Event`.
fn measure(code: u32, pcr: u8, parameters: &[u8]) -> Vec<u8> {
    let password = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
    let body = [&[0, 0, 0, pcr][..], &password, parameters].concat();
    let len = u32::try_from(HEADER + body.len()).unwrap();
    [&[0x80, 2][..], &len.to_be_bytes(), &code.to_be_bytes(), &body].concat()
}

fn extend(pcr: u8, byte: u8) -> Vec<u8> {
    measure(0x182, pcr, &[&[0, 0, 0, 1, 0, 0xb][..], &[byte; 32]].concat())
}

fn seal_point(relay: &Relay) -> SealPoint {
    loop {
        match relay.next(SOON).expect("something comes to pass") {
            Passed::Began => {}
            Passed::SealPoint(point) => return point,
            other => panic!("{other:?}"),
        }
    }
}

fn pcr(index: u64) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

#[test]
fn what_the_tpm_was_told_since_its_reset_is_what_it_holds() {
    let (mut qemu, relay) = Qemu::start();
    qemu.reset();
    qemu.command(&extend(4, 1));
    qemu.reset();
    assert_eq!(relay.extends(), []);
    qemu.command(&extend(7, 2));
    qemu.command(&measure(0x13c, 5, &[0, 3, b'a', b'b', b'c']));
    qemu.commands.write_all(&extend(15, 3)).unwrap();
    let SealPoint { extends, values } = seal_point(&relay);
    let seen: Vec<u8> = extends.iter().map(|extend| extend.pcr.get()).collect();
    assert_eq!(seen, [7, 5]);
    // A TPM tells the digests of banks that it does not keep, too.
    let hashed = extends[1].digests.iter().find(|digest| digest.alg_id == BANK.alg_id()).unwrap();
    assert_eq!(hashed.bytes, BANK.hash(b"abc").as_bytes());
    let mut expected = PcrValues::after_reset(BANK);
    expected.extend(pcr(7), &[2; 32]);
    expected.extend(pcr(5), BANK.hash(b"abc").as_bytes());
    assert_eq!(values, expected);
    assert_eq!(values.get(PcrIndex::LATCH), Some(&Digest::zero(BANK)));
    // The command that would latch is answered by nobody.
    assert_eq!(qemu.commands.read(&mut [0; 1]).unwrap(), 0);
}

/// The latch comes first: what is read then is all that the boot measured.
#[test]
fn a_latch_before_everything_ends_it_with_nothing() {
    let (mut qemu, relay) = Qemu::start();
    qemu.reset();
    qemu.commands.write_all(&extend(15, 3)).unwrap();
    let SealPoint { extends, values } = seal_point(&relay);
    assert_eq!((extends, values), (vec![], PcrValues::after_reset(BANK)));
}

#[test]
fn bytes_that_are_no_command_end_the_line() {
    let (mut qemu, relay) = Qemu::start();
    qemu.reset();
    qemu.commands.write_all(&[0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0x7e]).unwrap();
    assert_eq!(qemu.commands.read(&mut [0; 1]).unwrap(), 0);
    assert!(relay.next(Duration::ZERO).is_none());
}
