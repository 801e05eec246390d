//! What a machine is handed, by the way in which it gets it.

use super::definition::DeliveryKind;
use crate::boot::Sources;
use crate::policy::Signatures;
use crate::policy::disk::{MAX_DISK, from_disk, to_disk};

/// Longest value in QubesDB (`QUBESDB_MAX_DATA`).
const QUBESDB: usize = 3072;

impl DeliveryKind {
    /// The word for it in a template.
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::FwCfg => "fw_cfg",
            Self::Disk => "disk",
            Self::Qubesdb => "qubesdb",
        }
    }

    /// How the name of a machine's file ends.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Files | Self::FwCfg | Self::Qubesdb => "json",
            Self::Disk => "img",
        }
    }

    /// Most bytes that a machine takes that way.
    pub fn limit(self) -> usize {
        match self {
            Self::Files => Signatures::MAX_LEN,
            Self::FwCfg => Sources::MAX_FW_CFG,
            Self::Disk => MAX_DISK,
            Self::Qubesdb => QUBESDB,
        }
    }

    /// What the file of a machine with these signatures is to hold.
    pub fn wrap(self, signatures: &Signatures) -> String {
        let json = format!("{}\n", signatures.to_json());
        match self {
            Self::Files | Self::FwCfg | Self::Qubesdb => json,
            Self::Disk => to_disk(&json),
        }
    }

    /// The signatures that a file holds; none where it is no such file.
    pub fn unwrap(self, file: &[u8]) -> Signatures {
        let json = match self {
            Self::Files | Self::FwCfg | Self::Qubesdb => Some(file),
            Self::Disk => from_disk(file),
        };
        let mut signatures = Signatures::default();
        let _ = json.map(|json| signatures.add_json(json));
        signatures
    }
}
