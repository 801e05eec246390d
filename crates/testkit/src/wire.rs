//! The few TPM commands that the kit itself sends, as bytes over the TPM's TCP socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// An empty password authorization: size 9, `TPM_RS_PW`, no nonce, no attributes, no HMAC.
const EMPTY_PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
const OWNER: u32 = 0x4000_0001;
const PLATFORM: u32 = 0x4000_000c;
const LOCKOUT: u32 = 0x4000_000a;

/// A bank's name and `TPM_ALG_ID`.
pub const BANKS: [(&str, u16); 4] =
    [("sha1", 0x0004), ("sha256", 0x000b), ("sha384", 0x000c), ("sha512", 0x000d)];

/// The `TPM_ALG_ID` of a bank's name.
pub fn alg_id(bank: &str) -> u16 {
    BANKS.iter().find(|(name, _)| *name == bank).expect("a bank").1
}

/// A connection to a TPM. The TPM serves one at a time: drop it before another program's turn.
pub struct Wire(TcpStream);

impl Wire {
    /// Connects to the data port.
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the TPM's port");
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Sends a command and returns what follows the header of the answer, or the response code.
    ///
    /// # Errors
    /// The TPM's response code.
    pub fn try_command(&mut self, tag: u16, code: u32, body: &[u8]) -> Result<Vec<u8>, u32> {
        let mut message = Vec::from(tag.to_be_bytes());
        message.extend((10 + body.len() as u32).to_be_bytes());
        message.extend(code.to_be_bytes());
        message.extend(body);
        self.0.write_all(&message).unwrap();
        let answer = read_message(&mut self.0).unwrap().expect("an answer");
        match u32_at(&answer, 6) {
            0 => Ok(answer[10..].to_vec()),
            code => Err(code),
        }
    }

    fn command(&mut self, tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
        self.try_command(tag, code, body).unwrap_or_else(|rc| {
            panic!("the TPM answers {rc:#x} to {}", command_name(code));
        })
    }

    /// `TPM2_Startup(CLEAR)`.
    pub fn startup(&mut self) {
        self.command(NO_SESSIONS, 0x144, &[0, 0]);
    }

    /// `TPM2_Shutdown(CLEAR)`.
    pub fn shutdown(&mut self) {
        self.command(NO_SESSIONS, 0x145, &[0, 0]);
    }

    /// `TPM2_Clear` with the platform's empty password: a new owner, so other keys and seeds.
    pub fn clear(&mut self) {
        self.command(SESSIONS, 0x126, &[&PLATFORM.to_be_bytes()[..], &EMPTY_PASSWORD].concat());
    }

    /// `TPM2_PCR_Allocate`: exactly these banks, from the next reset on.
    pub fn allocate(&mut self, banks: &[&str]) {
        let mut body = [&PLATFORM.to_be_bytes()[..], &EMPTY_PASSWORD].concat();
        body.extend((BANKS.len() as u32).to_be_bytes());
        for (name, alg) in BANKS {
            let mask = if banks.contains(&name) { 0xff } else { 0 };
            body.extend(alg.to_be_bytes());
            body.extend([3, mask, mask, mask]);
        }
        self.command(SESSIONS, 0x12b, &body);
    }

    /// `TPM2_PCR_Extend` with one digest a bank; banks that are not allocated ignore theirs.
    pub fn extend(&mut self, pcr: u32, digests: &[(u16, Vec<u8>)]) {
        let mut body = [&pcr.to_be_bytes()[..], &EMPTY_PASSWORD].concat();
        body.extend((digests.len() as u32).to_be_bytes());
        for (alg, digest) in digests {
            body.extend(alg.to_be_bytes());
            body.extend(digest);
        }
        self.command(SESSIONS, 0x182, &body);
    }

    /// `TPM2_PCR_Read` of one PCR; empty when the bank is not allocated.
    pub fn read_pcr(&mut self, bank: &str, pcr: u8) -> Vec<u8> {
        let mut mask = [0; 3];
        mask[usize::from(pcr / 8)] = 1 << (pcr % 8);
        let mut body = vec![0, 0, 0, 1];
        body.extend(alg_id(bank).to_be_bytes());
        body.push(3);
        body.extend(mask);
        let answer = self.command(NO_SESSIONS, 0x17e, &body);
        // update counter, TPML_PCR_SELECTION (count, then 2 + 1 + 3 bytes each), TPML_DIGEST
        let digests = 8 + 6 * u32_at(&answer, 4) as usize;
        if u32_at(&answer, digests) == 0 { Vec::new() } else { answer[digests + 6..].to_vec() }
    }

    /// One value of `TPM_CAP_TPM_PROPERTIES`.
    pub fn property(&mut self, property: u32) -> u32 {
        let body = [&[0, 0, 0, 6][..], &property.to_be_bytes(), &[0, 0, 0, 1]].concat();
        u32_at(&self.command(NO_SESSIONS, 0x17a, &body), 13)
    }

    /// The handles that exist from `first` on, of its kind (`TPM_CAP_HANDLES`).
    pub fn handles(&mut self, first: u32) -> Vec<u32> {
        let body = [&[0, 0, 0, 1][..], &first.to_be_bytes(), &[0, 0, 0, 0xff]].concat();
        let answer = self.command(NO_SESSIONS, 0x17a, &body);
        answer[9..].chunks_exact(4).map(|handle| u32_at(handle, 0)).collect()
    }

    /// `TPM2_DictionaryAttackLockReset` with the empty lockout password.
    pub fn reset_lockout(&mut self) {
        let body = [&LOCKOUT.to_be_bytes()[..], &EMPTY_PASSWORD].concat();
        self.command(SESSIONS, 0x139, &body);
    }

    /// `TPM2_NV_UndefineSpace` with the owner's empty password.
    pub fn undefine_index(&mut self, index: u32) {
        let body = [&OWNER.to_be_bytes()[..], &index.to_be_bytes(), &EMPTY_PASSWORD].concat();
        self.command(SESSIONS, 0x122, &body);
    }

    /// `TPM2_FlushContext`.
    pub fn flush(&mut self, handle: u32) {
        self.command(NO_SESSIONS, 0x165, &handle.to_be_bytes());
    }
}

/// Reads one command or answer: a tag, the length of all of it, the rest. `None` at the end.
///
/// # Errors
/// The socket's errors.
pub fn read_message(from: &mut impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut message = vec![0; 10];
    if let Err(error) = from.read_exact(&mut message) {
        let ended = error.kind() == std::io::ErrorKind::UnexpectedEof;
        return if ended { Ok(None) } else { Err(error) };
    }
    let len = u32_at(&message, 2) as usize;
    message.resize(len.clamp(10, 1 << 16), 0);
    from.read_exact(&mut message[10..])?;
    Ok(Some(message))
}

/// The big-endian word at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The name of a `TPM_CC`, as far as an unlock or an enrolment meets it.
pub fn command_name(code: u32) -> String {
    let name = match code {
        0x120 => "EvictControl",
        0x126 => "Clear",
        0x12a => "NV_DefineSpace",
        0x12b => "PCR_Allocate",
        0x131 => "CreatePrimary",
        0x13d => "PCR_Reset",
        0x143 => "SelfTest",
        0x144 => "Startup",
        0x145 => "Shutdown",
        0x14e => "NV_Read",
        0x151 => "PolicySecret",
        0x153 => "Create",
        0x156 => "Import",
        0x157 => "Load",
        0x15e => "Unseal",
        0x161 => "ContextLoad",
        0x162 => "ContextSave",
        0x165 => "FlushContext",
        0x167 => "LoadExternal",
        0x169 => "NV_ReadPublic",
        0x16a => "PolicyAuthorize",
        0x16b => "PolicyAuthValue",
        0x16c => "PolicyCommandCode",
        0x171 => "PolicyOR",
        0x173 => "ReadPublic",
        0x176 => "StartAuthSession",
        0x177 => "VerifySignature",
        0x17a => "GetCapability",
        0x17b => "GetRandom",
        0x17c => "GetTestResult",
        0x17e => "PCR_Read",
        0x17f => "PolicyPCR",
        0x182 => "PCR_Extend",
        0x189 => "PolicyGetDigest",
        0x18a => "TestParms",
        0x192 => "PolicyAuthorizeNV",
        other => return format!("{other:#05x}"),
    };
    name.to_owned()
}
