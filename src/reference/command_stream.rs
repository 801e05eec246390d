//! The TPM's command stream: what each command that passed extended, by command and response alone
//! (TPM 2.0 part 3, 22). The guest chooses every byte of a command; only what the TPM carried out
//! counts.

use std::fmt;

use crate::measurement::reader::Reader;
use crate::measurement::{EventDigest, PcrIndex};

/// `TPM_ST_SESSIONS`: authorizations come before the parameters.
const SESSIONS: u16 = 0x8002;
const PCR_EVENT: u32 = 0x13c;
const PCR_RESET: u32 = 0x13d;
const PCR_EXTEND: u32 = 0x182;
const EVENT_SEQUENCE_COMPLETE: u32 = 0x185;
/// `TPM_RH_NULL`: the digests are wanted, and no PCR.
const NO_PCR: u32 = 0x4000_0007;
/// Tag, length and code.
const HEADER: usize = 10;
/// Most digests of a list; `TPM2_NUM_PCR_BANKS` of the TPM software stack.
const MAX_DIGESTS: u32 = 16;

/// One extend that the TPM carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extend {
    /// The PCR.
    pub pcr: PcrIndex,
    /// One digest for each bank that was extended.
    pub digests: Vec<EventDigest>,
}

/// All extends since the TPM was last reset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandStream {
    extends: Vec<Extend>,
}

/// A stream that no boot to be approved has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// A command that the TPM carried out, and that cannot be read.
    Command {
        /// Its code.
        code: u32,
    },
    /// A PCR was set back without a reset.
    Reset {
        /// The PCR.
        pcr: PcrIndex,
    },
    /// More extends than a boot has.
    TooMany,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { code } => write!(f, "TPM command {code:#x} cannot be read"),
            Self::Reset { pcr } => write!(f, "PCR {pcr} was set back"),
            Self::TooMany => write!(f, "more than {} extends", CommandStream::MAX_EXTENDS),
        }
    }
}

impl std::error::Error for StreamError {}

impl CommandStream {
    /// Most extends of a boot.
    pub const MAX_EXTENDS: usize = 100_000;
    /// Longest command or response: `TPM2_MAX_COMMAND_SIZE`.
    pub const MAX_MESSAGE: usize = 4096;

    /// The extends in order.
    pub fn extends(&self) -> &[Extend] {
        &self.extends
    }

    /// The TPM was reset: whatever it held is gone.
    pub fn start_over(&mut self) {
        self.extends.clear();
    }

    /// Whether a command is to extend the PCR of the latch, in whatever way.
    pub fn latches(command: &[u8]) -> bool {
        let mut reader = Reader::new(command);
        let code = header(&mut reader).map(|(_, code)| code);
        let handle = be_u32(&mut reader);
        matches!(code, Some(PCR_EVENT | PCR_EXTEND | EVENT_SEQUENCE_COMPLETE))
            && handle == Some(PcrIndex::LATCH.get().into())
    }

    /// Takes note of a command and what the TPM answered to it.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn note(&mut self, command: &[u8], response: &[u8]) -> Result<(), StreamError> {
        let mut request = Reader::new(command);
        let Some((tag, code)) = header(&mut request) else { return Ok(()) };
        let mut answer = Reader::new(response);
        let is_done = header(&mut answer).is_some_and(|(_, response_code)| response_code == 0);
        let of_pcr = matches!(code, PCR_EVENT | PCR_RESET | PCR_EXTEND | EVENT_SEQUENCE_COMPLETE);
        if !is_done || !of_pcr {
            return Ok(());
        }
        let unreadable = StreamError::Command { code };
        let handle = be_u32(&mut request).ok_or(unreadable)?;
        if handle == NO_PCR {
            return Ok(());
        }
        let pcr = PcrIndex::new(handle.into()).map_err(|_| unreadable)?;
        let digests = match code {
            // Of those that can be reset by whoever runs, nothing is sealed to.
            PCR_RESET if pcr.is_resettable() => return Ok(()),
            PCR_RESET => return Err(StreamError::Reset { pcr }),
            PCR_EXTEND => {
                skip_authorizations(&mut request, tag).ok_or(unreadable)?;
                digests(&mut request)
            }
            // What was hashed may be encrypted on its way, the digests are not.
            _ => {
                if tag == SESSIONS {
                    be_u32(&mut answer).ok_or(unreadable)?;
                }
                digests(&mut answer)
            }
        };
        if self.extends.len() >= Self::MAX_EXTENDS {
            return Err(StreamError::TooMany);
        }
        self.extends.push(Extend { pcr, digests: digests.ok_or(unreadable)? });
        Ok(())
    }
}

/// Tag and code; the length has done its work when the message was read.
fn header(reader: &mut Reader<'_>) -> Option<(u16, u32)> {
    let tag = reader.array().map(u16::from_be_bytes)?;
    reader.take(HEADER - 6)?;
    Some((tag, be_u32(reader)?))
}

fn be_u32(reader: &mut Reader<'_>) -> Option<u32> {
    reader.array().map(u32::from_be_bytes)
}

fn skip_authorizations(reader: &mut Reader<'_>, tag: u16) -> Option<()> {
    if tag == SESSIONS {
        let len = be_u32(reader)?;
        reader.take(usize::try_from(len).ok()?)?;
    }
    Some(())
}

/// `TPML_DIGEST_VALUES`.
fn digests(reader: &mut Reader<'_>) -> Option<Vec<EventDigest>> {
    let count = be_u32(reader).filter(|count| *count <= MAX_DIGESTS)?;
    let digest = |_| {
        let alg_id = reader.array().map(u16::from_be_bytes)?;
        let bytes = reader.take(digest_len(alg_id)?)?.to_vec();
        Some(EventDigest { alg_id, bytes })
    };
    (0..count).map(digest).collect()
}

/// Bytes of a `TPM_ALG_ID`'s digests: SHA-1, the SHA-2s, SM3 and the SHA-3s.
fn digest_len(alg_id: u16) -> Option<usize> {
    match alg_id {
        0x4 => Some(20),
        0xb | 0x12 | 0x27 => Some(32),
        0xc | 0x28 => Some(48),
        0xd | 0x29 => Some(64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DONE: [u8; 10] = [0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0];
    const REFUSED: [u8; 10] = [0x80, 1, 0, 0, 0, 10, 0, 0, 9, 7];

    fn message(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER + body.len()).unwrap();
        [&tag.to_be_bytes()[..], &len.to_be_bytes(), &code.to_be_bytes(), body].concat()
    }

    fn values(byte: u8) -> Vec<u8> {
        [&[0, 0, 0, 2, 0, 4][..], &[byte; 20], &[0, 0xb], &[byte; 32]].concat()
    }

    /// With an authorization of a length that only its own field tells.
    fn extend(pcr: u8, byte: u8) -> Vec<u8> {
        let body = [&[0, 0, 0, pcr, 0, 0, 0, 5, 1, 2, 3, 4, 5][..], &values(byte)].concat();
        message(SESSIONS, PCR_EXTEND, &body)
    }

    fn of(pcr: u64, byte: u8) -> Extend {
        let digest = |alg_id, len| EventDigest { alg_id, bytes: vec![byte; len] };
        let digests = vec![digest(4, 20), digest(0xb, 32)];
        Extend { pcr: PcrIndex::new(pcr).unwrap(), digests }
    }

    #[test]
    fn extends_count_where_the_tpm_carried_them_out() {
        let mut stream = CommandStream::default();
        stream.note(&extend(7, 1), &DONE).unwrap();
        stream.note(&extend(7, 2), &REFUSED).unwrap();
        stream.note(&extend(7, 3), &[]).unwrap();
        stream.note(&message(0x8001, 0x17e, &[0; 8]), &DONE).unwrap();
        assert_eq!(stream.extends(), [of(7, 1)]);
        stream.start_over();
        assert_eq!(stream.extends(), []);
    }

    #[test]
    fn what_the_tpm_hashed_itself_is_in_its_response() {
        let mut stream = CommandStream::default();
        let event = message(SESSIONS, PCR_EVENT, &[0, 0, 0, 5, 0, 0, 0, 0, 0, 1, 0xff]);
        let answer =
            message(SESSIONS, 0, &[&[0, 0, 0, 58][..], &values(4), &[0, 0, 1, 0, 0]].concat());
        stream.note(&event, &answer).unwrap();
        let complete = [&[0, 0, 0, 9][..], &[0x80, 0, 0, 0]].concat();
        stream.note(&message(SESSIONS, EVENT_SEQUENCE_COMPLETE, &complete), &answer).unwrap();
        let nothing = [&NO_PCR.to_be_bytes()[..], &[0x80, 0, 0, 0]].concat();
        stream.note(&message(SESSIONS, EVENT_SEQUENCE_COMPLETE, &nothing), &answer).unwrap();
        assert_eq!(stream.extends(), [of(5, 4), of(9, 4)]);
    }

    #[test]
    fn a_pcr_that_is_set_back_or_cannot_be_read_ends_it() {
        let mut stream = CommandStream::default();
        let reset = |pcr| message(SESSIONS, PCR_RESET, &[0, 0, 0, pcr]);
        assert_eq!(stream.note(&reset(16), &DONE), Ok(()));
        let pcr = PcrIndex::new(20).unwrap();
        assert_eq!(stream.note(&reset(20), &DONE), Err(StreamError::Reset { pcr }));
        let whole = extend(4, 1);
        for len in HEADER..whole.len() {
            let unreadable = Err(StreamError::Command { code: PCR_EXTEND });
            assert_eq!(stream.note(&whole[..len], &DONE), unreadable, "{len}");
        }
        assert!(stream.note(&extend(24, 1), &DONE).is_err());
        assert_eq!(stream.extends(), []);
    }

    #[test]
    fn knows_the_latch_by_every_command_that_extends() {
        assert!(CommandStream::latches(&extend(15, 1)));
        assert!(!CommandStream::latches(&extend(14, 1)));
        for code in [PCR_EVENT, EVENT_SEQUENCE_COMPLETE] {
            assert!(CommandStream::latches(&message(SESSIONS, code, &[0, 0, 0, 15])));
        }
        assert!(!CommandStream::latches(&message(SESSIONS, PCR_RESET, &[0, 0, 0, 15])));
        assert!(!CommandStream::latches(&[]));
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(command in proptest::collection::vec(any::<u8>(), 0..200),
                            response in proptest::collection::vec(any::<u8>(), 0..200),
                            code in prop_oneof![Just(PCR_EVENT), Just(PCR_EXTEND), Just(PCR_RESET)]) {
            let mut stream = CommandStream::default();
            let _ = stream.note(&command, &response);
            let _ = stream.note(&message(SESSIONS, code, &command), &message(SESSIONS, 0, &response));
            prop_assert!(stream.extends().len() <= 2);
        }
    }
}
