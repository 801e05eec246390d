//! One event of a firmware event log.

use std::fmt;

use serde::{Serialize, Serializer};

use super::data::EventData;
use super::digest::{Digest, PcrBank};

macro_rules! event_types {
    ($($(#[doc = $doc:literal])? $variant:ident = $value:literal, $name:literal;)*) => {
        /// What kind of thing an event records (PC Client Platform Firmware Profile, 10.4.1).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $(#[doc = concat!("`", $name, "`.")] $(#[doc = ""] #[doc = $doc])? $variant,)*
            /// A type that the specification does not define.
            Unknown(u32),
        }

        impl EventType {
            /// The type of a number; numbers without a name become [`EventType::Unknown`].
            pub fn from_code(code: u32) -> Self {
                match code {
                    $($value => Self::$variant,)*
                    _ => Self::Unknown(code),
                }
            }

            /// The number in the log.
            pub fn code(self) -> u32 {
                match self {
                    $(Self::$variant => $value,)*
                    Self::Unknown(code) => code,
                }
            }

            /// The specification's name, if it has one.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$variant => Some($name),)*
                    Self::Unknown(_) => None,
                }
            }
        }
    };
}

event_types! {
    PrebootCert = 0x0, "EV_PREBOOT_CERT";
    PostCode = 0x1, "EV_POST_CODE";
    Unused = 0x2, "EV_UNUSED";
    /// Recorded without extending any PCR.
    NoAction = 0x3, "EV_NO_ACTION";
    Separator = 0x4, "EV_SEPARATOR";
    Action = 0x5, "EV_ACTION";
    EventTag = 0x6, "EV_EVENT_TAG";
    SCrtmContents = 0x7, "EV_S_CRTM_CONTENTS";
    SCrtmVersion = 0x8, "EV_S_CRTM_VERSION";
    CpuMicrocode = 0x9, "EV_CPU_MICROCODE";
    PlatformConfigFlags = 0xa, "EV_PLATFORM_CONFIG_FLAGS";
    TableOfDevices = 0xb, "EV_TABLE_OF_DEVICES";
    CompactHash = 0xc, "EV_COMPACT_HASH";
    Ipl = 0xd, "EV_IPL";
    IplPartitionData = 0xe, "EV_IPL_PARTITION_DATA";
    NonhostCode = 0xf, "EV_NONHOST_CODE";
    NonhostConfig = 0x10, "EV_NONHOST_CONFIG";
    NonhostInfo = 0x11, "EV_NONHOST_INFO";
    OmitBootDeviceEvents = 0x12, "EV_OMIT_BOOT_DEVICE_EVENTS";
    PostCode2 = 0x13, "EV_POST_CODE2";
    EfiVariableDriverConfig = 0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG";
    EfiVariableBoot = 0x8000_0002, "EV_EFI_VARIABLE_BOOT";
    EfiBootServicesApplication = 0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION";
    EfiBootServicesDriver = 0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER";
    EfiRuntimeServicesDriver = 0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER";
    EfiGptEvent = 0x8000_0006, "EV_EFI_GPT_EVENT";
    EfiAction = 0x8000_0007, "EV_EFI_ACTION";
    EfiPlatformFirmwareBlob = 0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB";
    EfiHandoffTables = 0x8000_0009, "EV_EFI_HANDOFF_TABLES";
    EfiPlatformFirmwareBlob2 = 0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2";
    EfiHandoffTables2 = 0x8000_000b, "EV_EFI_HANDOFF_TABLES2";
    EfiVariableBoot2 = 0x8000_000c, "EV_EFI_VARIABLE_BOOT2";
    EfiGptEvent2 = 0x8000_000d, "EV_EFI_GPT_EVENT2";
    EfiHcrtmEvent = 0x8000_0010, "EV_EFI_HCRTM_EVENT";
    EfiVariableAuthority = 0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY";
    EfiSpdmFirmwareBlob = 0x8000_00e1, "EV_EFI_SPDM_FIRMWARE_BLOB";
    EfiSpdmFirmwareConfig = 0x8000_00e2, "EV_EFI_SPDM_FIRMWARE_CONFIG";
    EfiSpdmDevicePolicy = 0x8000_00e3, "EV_EFI_SPDM_DEVICE_POLICY";
    EfiSpdmDeviceAuthority = 0x8000_00e4, "EV_EFI_SPDM_DEVICE_AUTHORITY";
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("0x{:08x}", self.code())),
        }
    }
}

impl Serialize for EventType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A digest as the log holds it: any algorithm, any length that the header declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventDigest {
    /// `TPM_ALG_ID`.
    pub alg_id: u16,
    /// The bytes, as many as the header declares for the algorithm.
    pub bytes: Vec<u8>,
}

/// One event: what was extended into which PCR, and what the log says that it was.
///
/// Only the digests reach the TPM. The data is the word of whoever wrote the log, except where
/// [`Event::data_is_measured`] shows that the digest is the data's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the log, counted from 0; the header of a crypto-agile log is event 0.
    pub number: usize,
    /// PCR number as logged; above 23 only for events that extend nothing.
    pub pcr: u32,
    /// What kind of event it is.
    pub event_type: EventType,
    /// One digest for each bank, in the log's order.
    pub digests: Vec<EventDigest>,
    /// The event's data, undecoded.
    pub raw: Vec<u8>,
}

impl Event {
    /// The digest that was extended into `bank`, if the log holds one.
    pub fn digest(&self, bank: PcrBank) -> Option<Digest> {
        let found = self.digests.iter().find(|digest| digest.alg_id == bank.alg_id())?;
        Digest::from_bytes(bank, &found.bytes).ok()
    }

    /// The digests of the banks that vmseal knows.
    pub fn known_digests(&self) -> impl Iterator<Item = Digest> {
        self.digests.iter().filter_map(|digest| {
            Digest::from_bytes(PcrBank::from_alg_id(digest.alg_id)?, &digest.bytes).ok()
        })
    }

    /// Whether the event extended its PCR: all do but `EV_NO_ACTION`.
    pub fn extends(&self) -> bool {
        self.event_type != EventType::NoAction
    }

    /// The data, decoded. What cannot be decoded is [`EventData::Undecoded`], never an error.
    pub fn data(&self) -> EventData {
        EventData::decode(self)
    }

    /// Whether every known digest is that of `bytes`: the PCR then proves them.
    pub fn measures(&self, bytes: &[u8]) -> bool {
        let mut digests = self.known_digests().peekable();
        digests.peek().is_some() && digests.all(|digest| digest.bank().hash(bytes) == digest)
    }

    /// Whether the digests are those of the event's own data.
    pub fn data_is_measured(&self) -> bool {
        self.measures(&self.raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_codes_round_trip() {
        for code in (0..0x20).chain(0x8000_0000..0x8000_0100) {
            let event_type = EventType::from_code(code);
            assert_eq!(event_type.code(), code);
            assert_eq!(event_type.name().is_none(), matches!(event_type, EventType::Unknown(_)));
        }
        assert_eq!(EventType::from_code(0x8000_00ff).to_string(), "0x800000ff");
        assert_eq!(EventType::from_code(0xd).to_string(), "EV_IPL");
    }

    #[test]
    fn a_digest_of_other_bytes_proves_nothing() {
        let digest = PcrBank::Sha256.hash(b"abc");
        let mut event = Event {
            number: 0,
            pcr: 5,
            event_type: EventType::EfiAction,
            digests: vec![EventDigest { alg_id: 0xb, bytes: digest.as_bytes().to_vec() }],
            raw: b"abc".to_vec(),
        };
        assert!(event.data_is_measured());
        assert_eq!(event.digest(PcrBank::Sha256), Some(digest));
        assert_eq!(event.digest(PcrBank::Sha1), None);
        event.raw.push(0);
        assert!(!event.data_is_measured());
        event.digests.clear();
        assert!(!event.measures(b"abc"));
    }
}
