//! PCR numbers, selections and values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::digest::{Digest, PcrBank};
use super::text::printable;

/// The number of a platform configuration register, 0 to 23 (PC Client Platform TPM Profile, 4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PcrIndex(u8);

/// A PCR number or list of them that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PcrError {
    /// Not a number from 0 to 23.
    OutOfRange {
        /// What was found.
        found: String,
    },
    /// PCRs that software can reset (16, 23) hold no evidence and are never sealed to.
    Resettable {
        /// The PCR.
        pcr: PcrIndex,
    },
}

impl fmt::Display for PcrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { found } => {
                write!(f, "{} is not a PCR number from 0 to 23", printable(found, 32))
            }
            Self::Resettable { pcr } => {
                write!(f, "PCR {pcr} can be reset by software and proves nothing")
            }
        }
    }
}

impl std::error::Error for PcrError {}

impl PcrIndex {
    /// How many PCRs a PC client TPM has.
    pub const COUNT: u8 = 24;
    /// Images that the firmware starts (systemd's `TPM2_PCR_BOOT_LOADER_CODE`).
    pub const BOOT_LOADER_CODE: Self = Self(4);
    /// Command line and initrd, as the kernel's EFI stub measures them (`TPM2_PCR_KERNEL_INITRD`).
    pub const KERNEL_INITRD: Self = Self(9);
    /// Sections of a unified kernel image (`TPM2_PCR_KERNEL_BOOT`).
    pub const KERNEL_BOOT: Self = Self(11);
    /// What systemd-stub and systemd-boot add from outside (`TPM2_PCR_KERNEL_CONFIG`).
    pub const KERNEL_CONFIG: Self = Self(12);
    /// System extensions for the initrd (`TPM2_PCR_SYSEXTS`).
    pub const SYSEXTS: Self = Self(13);
    /// The PCR of the latch, zero until a boot's volumes are handled.
    pub const LATCH: Self = Self(15);

    /// A PCR number.
    ///
    /// # Errors
    /// [`PcrError::OutOfRange`] above 23.
    pub fn new(index: u64) -> Result<Self, PcrError> {
        match u8::try_from(index) {
            Ok(small) if small < Self::COUNT => Ok(Self(small)),
            _ => Err(PcrError::OutOfRange { found: index.to_string() }),
        }
    }

    /// All PCRs in ascending order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }

    /// Whether software can reset it (PCRs 16 and 23).
    pub fn is_resettable(self) -> bool {
        matches!(self.0, 16 | 23)
    }

    /// The value after TPM reset: ones for the D-RTM PCRs 17 to 22, zeros for the others.
    pub fn reset_value(self, bank: PcrBank) -> Digest {
        if matches!(self.0, 17..=22) { Digest::ones(bank) } else { Digest::zero(bank) }
    }
}

impl fmt::Display for PcrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for PcrIndex {
    type Err = PcrError;

    fn from_str(text: &str) -> Result<Self, PcrError> {
        let bad = || PcrError::OutOfRange { found: text.to_owned() };
        Self::new(text.parse().map_err(|_| bad())?).map_err(|_| bad())
    }
}

/// Which PCRs of which bank.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PcrSelection {
    /// The bank.
    pub bank: PcrBank,
    /// The PCRs, ascending.
    pub pcrs: BTreeSet<PcrIndex>,
}

impl PcrSelection {
    /// A selection from any order of PCRs.
    pub fn new(bank: PcrBank, pcrs: impl IntoIterator<Item = PcrIndex>) -> Self {
        Self { bank, pcrs: pcrs.into_iter().collect() }
    }

    /// Whether a PCR is among them.
    pub fn has(&self, pcr: PcrIndex) -> bool {
        self.pcrs.contains(&pcr)
    }
}

/// Parses `0+4+7` (or `0,4,7`), the notation of systemd's `--tpm2-pcrs=`.
///
/// # Errors
/// [`PcrError`] for a number that is not a PCR, or one that proves nothing.
pub fn parse_pcrs(text: &str) -> Result<BTreeSet<PcrIndex>, PcrError> {
    let parse = |word: &str| {
        let pcr: PcrIndex = word.trim().parse()?;
        if pcr.is_resettable() { Err(PcrError::Resettable { pcr }) } else { Ok(pcr) }
    };
    text.split(['+', ',']).map(parse).collect()
}

/// PCRs as people read them: `0+4+7`.
pub fn join_pcrs<'a>(pcrs: impl IntoIterator<Item = &'a PcrIndex>) -> String {
    pcrs.into_iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
}

/// Values of some PCRs of one bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrValues {
    bank: PcrBank,
    values: BTreeMap<PcrIndex, Digest>,
}

impl PcrValues {
    /// No values yet.
    pub fn new(bank: PcrBank) -> Self {
        Self { bank, values: BTreeMap::new() }
    }

    /// The values of all PCRs after TPM reset.
    pub fn after_reset(bank: PcrBank) -> Self {
        Self { bank, values: PcrIndex::all().map(|pcr| (pcr, pcr.reset_value(bank))).collect() }
    }

    /// The bank of every value.
    pub fn bank(&self) -> PcrBank {
        self.bank
    }

    /// One value, if it is known.
    pub fn get(&self, pcr: PcrIndex) -> Option<&Digest> {
        self.values.get(&pcr)
    }

    /// Sets a value. A digest of another bank is not taken.
    pub fn set(&mut self, pcr: PcrIndex, value: Digest) {
        if value.bank() == self.bank {
            self.values.insert(pcr, value);
        }
    }

    /// Extends one PCR, from its reset value when none is known.
    pub fn extend(&mut self, pcr: PcrIndex, digest: &[u8]) {
        let bank = self.bank;
        let value = self.values.entry(pcr).or_insert_with(|| pcr.reset_value(bank));
        *value = value.extended_with(digest);
    }

    /// The PCRs and values, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (PcrIndex, &Digest)> {
        self.values.iter().map(|(pcr, value)| (*pcr, value))
    }

    /// Which PCRs are known.
    pub fn selection(&self) -> PcrSelection {
        PcrSelection::new(self.bank, self.values.keys().copied())
    }

    /// Only the PCRs of `pcrs`; `None` when a value is missing.
    pub fn restricted_to(&self, pcrs: &BTreeSet<PcrIndex>) -> Option<Self> {
        let values =
            pcrs.iter().map(|pcr| Some((*pcr, *self.get(*pcr)?))).collect::<Option<_>>()?;
        Some(Self { bank: self.bank, values })
    }
}

/// An object from decimal PCR number to lower-case hexadecimal value.
impl Serialize for PcrValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.values.iter().map(|(pcr, value)| (pcr.to_string(), value)))
    }
}
