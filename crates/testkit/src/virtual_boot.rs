//! Recorded boots, and replaying them into a TPM: a boot without a virtual machine.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::wire::{Wire, alg_id};

/// Events of this type are notes: nothing was extended.
const EV_NO_ACTION: u32 = 3;

/// What one boot extended, in order.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    extends: Vec<Extend>,
}

/// One extend: a PCR, and a digest for each bank (by `TPM_ALG_ID`).
#[derive(Debug, Clone)]
struct Extend {
    pcr: u32,
    digests: Vec<(u16, Vec<u8>)>,
}

impl Recording {
    /// Reads a crypto-agile event log of the TCG, as Linux shows it.
    pub fn from_event_log(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { extends: parse_event_log(&bytes) }
    }

    /// Adds what systemd extended later in that boot (`tpm2-measure.log`).
    #[must_use]
    pub fn then_userspace_log(mut self, path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        // JSON text sequences (RFC 7464): each record begins with a record separator.
        let records = text.split('\u{1e}').filter(|record| !record.trim().is_empty());
        self.extends.extend(records.map(|record| parse_record(record.trim())));
        self
    }

    /// A boot of the project's fixtures, such as `uki/base`, with systemd's log where it has one.
    pub fn fixture(name: &str) -> Self {
        let folder = fixture_folder(name);
        let recording = Self::from_event_log(&folder.join("log.bin"));
        let userspace = folder.join("userspace.log");
        if userspace.exists() { recording.then_userspace_log(&userspace) } else { recording }
    }

    /// The digests that one PCR of one bank is extended with, in hexadecimal.
    pub fn digests(&self, bank: &str, pcr: u32) -> Vec<String> {
        let bank = alg_id(bank);
        let of_pcr = self.extends.iter().filter(|extend| extend.pcr == pcr);
        let digests = of_pcr.flat_map(|extend| &extend.digests);
        digests.filter(|(alg, _)| *alg == bank).map(|(_, digest)| hex::encode(digest)).collect()
    }

    /// Extends all of it. The TPM should have just been reset.
    pub fn replay_into(&self, wire: &mut Wire) {
        for extend in &self.extends {
            wire.extend(extend.pcr, &extend.digests);
        }
    }

    /// How many extends there are.
    pub fn len(&self) -> usize {
        self.extends.len()
    }

    /// Whether nothing was extended.
    pub fn is_empty(&self) -> bool {
        self.extends.is_empty()
    }
}

/// The bytes of a log before its first event of a type: a boot that measured less.
pub fn log_before(path: &Path, kind: u32) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let (_, places) = parse_events(&bytes);
    let first = places.iter().find(|event| event.kind == kind).expect("an event of that type");
    bytes[..first.start].to_vec()
}

/// The folder of a recorded boot among the project's fixtures.
pub fn fixture_folder(name: &str) -> PathBuf {
    crate::machine::project().join("tests/fixtures/eventlogs").join(name)
}

fn parse_event_log(bytes: &[u8]) -> Vec<Extend> {
    parse_events(bytes).0
}

/// Where an event begins in its log, and its type.
struct Place {
    start: usize,
    kind: u32,
}

fn parse_events(bytes: &[u8]) -> (Vec<Extend>, Vec<Place>) {
    let mut at = Reader { bytes, at: 0 };
    // The first entry has the SHA-1 form: PCR, type, 20 bytes, size, data; the data names the banks.
    at.skip(8 + 20);
    let spec_id_len = at.u32() as usize;
    let mut spec = Reader { bytes: at.take(spec_id_len), at: 0 };
    spec.skip(24);
    let banks: Vec<(u16, usize)> =
        (0..spec.u32()).map(|_| (spec.u16(), usize::from(spec.u16()))).collect();
    let (mut extends, mut places) = (Vec::new(), Vec::new());
    while at.at < bytes.len() {
        let start = at.at;
        let (pcr, kind) = (at.u32(), at.u32());
        places.push(Place { start, kind });
        let digests = (0..at.u32()).map(|_| {
            let alg = at.u16();
            let (_, len) = banks.iter().find(|bank| bank.0 == alg).expect("a bank of the log");
            (alg, at.take(*len).to_vec())
        });
        let digests = digests.collect();
        let len = at.u32() as usize;
        at.skip(len);
        if kind != EV_NO_ACTION {
            extends.push(Extend { pcr, digests });
        }
    }
    (extends, places)
}

fn parse_record(text: &str) -> Extend {
    let record: Value = serde_json::from_str(text).expect("a record of the userspace log");
    let digests = record["digests"].as_array().unwrap().iter().map(|digest| {
        let bytes = hex::decode(digest["digest"].as_str().unwrap()).unwrap();
        (alg_id(digest["hashAlg"].as_str().unwrap()), bytes)
    });
    Extend { pcr: record["pcr"].as_u64().unwrap() as u32, digests: digests.collect() }
}

/// Little-endian fields, one after another. A recording that ends early ends the test.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        taken
    }

    fn skip(&mut self, len: usize) {
        self.take(len);
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }
}
