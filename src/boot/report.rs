//! `/run/vmseal/boot.json`: what the boot step saw and did. It survives the pivot, and `enroll`,
//! `status` and later passes of the boot step read it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::measurement::{Digest, PcrBank, PcrValues};
use crate::public_file;
use crate::secret::VolumeKey;

use super::latch::volume_measurement;

/// Where it lies, below the root.
pub const BOOT_REPORT: &str = "run/vmseal/boot.json";
/// Bytes that are read at most.
const MAX_LEN: u64 = 1 << 20;

/// What the boot step saw and did, over all its passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootReport {
    /// Of this format: 1.
    pub version: u32,
    /// How far the logs were when PCRs were read.
    pub log: LogPosition,
    /// The PCRs that were read, by bank and number, in hexadecimal: those that the tokens need, or
    /// all of the sha256 bank where nothing was released.
    pub pcrs: BTreeMap<String, BTreeMap<u8, String>>,
    /// SHA-256 of the file of pins, in hexadecimal.
    pub pins_sha256: Option<String>,
    /// Whether the TPM answered.
    pub tpm: TpmState,
    /// What became of each volume, in order.
    pub volumes: Vec<VolumeReport>,
    /// Whether PCR 15 is extended.
    pub latch: LatchState,
    /// Opened volumes whose measurement waits for the latch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmeasured: Vec<Unmeasured>,
    /// Milliseconds that each phase took, all passes together; `start` is the kernel's clock.
    pub phases: BTreeMap<String, u64>,
}

/// Lengths of the logs in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    /// The firmware's.
    pub firmware_bytes: Option<u64>,
    /// systemd's.
    pub userspace_bytes: Option<u64>,
}

/// Whether there was a TPM to ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TpmState {
    /// The firmware shows none, or nobody looked.
    #[default]
    None,
    /// It answered.
    Ready,
    /// It did not.
    Failed,
}

/// Whether this boot is latched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LatchState {
    /// Not yet: volumes are still missing.
    #[default]
    Pending,
    /// PCR 15 is extended, or there is no TPM.
    Done,
    /// The TPM did not take it.
    Failed,
}

/// What opened a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenedBy {
    /// The TPM released its key.
    Tpm,
    /// Somebody typed a passphrase.
    Passphrase,
}

/// What became of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// Name of the device-mapper device.
    pub name: String,
    /// The device.
    pub device: String,
    /// The volume's UUID, where its header could be read.
    pub uuid: Option<String>,
    /// The exit code for this volume; 0: it is open.
    pub exit: u8,
    /// What opened it.
    pub by: Option<OpenedBy>,
    /// The token that fitted.
    pub token: Option<u32>,
    /// The keyslot that was opened.
    pub keyslot: Option<u32>,
    /// Why the TPM did not open it: a sentence, as it was said.
    pub cause: Option<String>,
}

/// An opened volume's measurement, as systemd would extend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmeasured {
    /// Name of the device-mapper device.
    pub name: String,
    /// The digest in each bank, in hexadecimal.
    pub digests: BTreeMap<PcrBank, String>,
}

impl Unmeasured {
    /// The measurement of the volume with this key, in all banks.
    pub fn of(key: &VolumeKey, name: &str, uuid: &str) -> Self {
        let digest = |bank| (bank, volume_measurement(bank, key, name, uuid).to_string());
        Self { name: name.to_owned(), digests: PcrBank::ALL.map(digest).into() }
    }

    /// The digests to extend. What is no digest is left out: its bank gets none.
    pub fn digests(&self) -> Vec<Digest> {
        let digest = |(bank, hex): (&PcrBank, &String)| Digest::from_hex(*bank, hex).ok();
        self.digests.iter().filter_map(digest).collect()
    }
}

impl Default for BootReport {
    fn default() -> Self {
        Self {
            version: 1,
            log: LogPosition::default(),
            pcrs: BTreeMap::new(),
            pins_sha256: None,
            tpm: TpmState::default(),
            volumes: vec![],
            latch: LatchState::default(),
            unmeasured: vec![],
            phases: BTreeMap::new(),
        }
    }
}

impl BootReport {
    /// The report of this boot so far; an empty one where there is none that can be read.
    pub fn read(root: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        let file = File::open(root.join(BOOT_REPORT)).ok()?;
        file.take(MAX_LEN).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|report: &Self| report.version == 1)
    }

    /// Writes it, readable by all: nothing in it is secret.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        public_file::replace(&root.join(BOOT_REPORT), &serde_json::to_vec_pretty(self)?)
    }

    /// Notes what became of a volume, in place of what an earlier pass noted.
    pub fn note_volume(&mut self, volume: VolumeReport) {
        match self.volumes.iter_mut().find(|known| known.name == volume.name) {
            Some(known) => *known = volume,
            None => self.volumes.push(volume),
        }
    }

    /// Notes values that were read.
    pub fn note_pcrs(&mut self, values: &[PcrValues]) {
        for values in values {
            let bank = self.pcrs.entry(values.bank().name().to_owned()).or_default();
            for (pcr, digest) in values.iter() {
                bank.insert(pcr.get(), digest.to_string());
            }
        }
    }

    /// Adds to a phase.
    pub fn note_phase(&mut self, name: &str, milliseconds: u128) {
        let milliseconds = u64::try_from(milliseconds).unwrap_or(u64::MAX);
        let phase = self.phases.entry(name.to_owned()).or_default();
        *phase = phase.saturating_add(milliseconds);
    }

    /// Whether the boot step opened a volume.
    pub fn is_opened(&self, name: &str) -> bool {
        self.volumes.iter().any(|volume| volume.name == name && volume.by.is_some())
    }

    /// Whether somebody typed the passphrase that opened a volume.
    pub fn is_typed(&self, name: &str) -> bool {
        let typed = |volume: &VolumeReport| volume.by == Some(OpenedBy::Passphrase);
        self.volumes.iter().any(|volume| volume.name == name && typed(volume))
    }

    /// Whether a volume must not be opened by anybody in this boot.
    pub fn is_barred(&self, name: &str) -> bool {
        let barred = |volume: &VolumeReport| volume.exit == Exit::NotPinned.code();
        self.volumes.iter().any(|volume| volume.name == name && barred(volume))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> VolumeReport {
        VolumeReport {
            name: "root".into(),
            device: "/dev/vda".into(),
            uuid: None,
            exit: 3,
            by: None,
            token: None,
            keyslot: None,
            cause: Some("missing".into()),
        }
    }

    #[test]
    fn it_is_told_who_opened_a_volume() {
        let mut report = BootReport::default();
        report.note_volume(VolumeReport { by: Some(OpenedBy::Tpm), ..volume() });
        assert!(report.is_opened("root") && !report.is_typed("root"));
        report.note_volume(VolumeReport { by: Some(OpenedBy::Passphrase), ..volume() });
        assert!(report.is_opened("root") && report.is_typed("root"));
        assert!(!report.is_opened("data") && !report.is_typed("data"));
    }

    #[test]
    fn what_is_written_is_read() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(BootReport::read(root.path()), None);
        let mut report = BootReport::default();
        let volume = volume();
        report.note_volume(volume.clone());
        report.note_volume(VolumeReport { exit: 17, ..volume });
        report.note_phase("tpm", 3);
        report.note_phase("tpm", 4);
        report.unmeasured.push(Unmeasured {
            name: "root".into(),
            digests: [(PcrBank::Sha1, "00".repeat(20)), (PcrBank::Sha256, "not hex".into())].into(),
        });
        report.write(root.path()).expect("written");
        assert_eq!(BootReport::read(root.path()), Some(report.clone()));
        assert_eq!(report.volumes.len(), 1);
        assert!(report.is_barred("root") && !report.is_barred("data"));
        assert_eq!(report.phases["tpm"], 7);
        assert_eq!(report.unmeasured[0].digests(), [Digest::zero(PcrBank::Sha1)]);
    }

    #[test]
    fn another_version_is_not_read() {
        let root = tempfile::tempdir().expect("a folder");
        BootReport { version: 2, ..BootReport::default() }.write(root.path()).expect("written");
        assert_eq!(BootReport::read(root.path()), None);
    }
}
