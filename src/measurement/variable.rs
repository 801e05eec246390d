//! UEFI variables as they are measured.

use serde::Serialize;

use super::efi::{Guid, LoadOption};
use super::reader::Reader;
use super::text::LogText;

/// Which of the variable events it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VariableUse {
    /// `EV_EFI_VARIABLE_DRIVER_CONFIG`: the Secure Boot configuration.
    Config,
    /// `EV_EFI_VARIABLE_BOOT`, `..._BOOT2`.
    Boot,
    /// `EV_EFI_VARIABLE_AUTHORITY`: the entry of a database that vouched for an image.
    Authority,
}

/// A UEFI variable (`UEFI_VARIABLE_DATA`, PFP 10.2.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Its namespace.
    pub guid: Guid,
    /// Its name.
    pub name: LogText,
    /// Its value.
    pub value: VariableValue,
}

/// The value of a variable, as far as vmseal knows its layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VariableValue {
    /// `SecureBoot` and its like; an absent variable is logged empty and is off.
    Flag(bool),
    /// `PK`, `KEK`, `db`, `dbx`: how many certificates and hashes they hold.
    Signatures {
        /// X.509 certificates.
        certificates: usize,
        /// Hashes of images or certificates.
        hashes: usize,
        /// Entries of other types.
        others: usize,
    },
    /// `EFI_SIGNATURE_DATA`: the entry that vouched for an image.
    Authority {
        /// Who enrolled it.
        owner: Guid,
        /// Bytes of the certificate or hash.
        length: usize,
    },
    /// `BootOrder`: numbers of `Boot####` variables.
    Order(Vec<String>),
    /// `Boot####`.
    LoadOption(LoadOption),
    /// shim's `SbatLevel`.
    Text(LogText),
    /// Anything else.
    Bytes {
        /// How many.
        length: usize,
    },
}

/// Most entries of `BootOrder` that are decoded.
const MAX_ORDER: usize = 1024;

/// `EFI_CERT_X509_GUID`.
pub(crate) const CERT_X509: Guid = Guid::from_fields(
    0xa5c0_59a1,
    0x94e4,
    0x4aa7,
    [0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72],
);
/// `EFI_CERT_SHA256_GUID`.
pub(crate) const CERT_SHA256: Guid = Guid::from_fields(
    0xc1c4_1626,
    0x504c,
    0x4092,
    [0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28],
);

impl Variable {
    pub(super) fn decode(raw: &[u8], used_as: VariableUse) -> Option<Self> {
        let mut reader = Reader::new(raw);
        let guid = Guid::from_bytes(reader.array()?);
        let (name_units, value_len) = (reader.u64()?, reader.u64()?);
        let name = LogText::from_utf16le(reader.take_u64(name_units.checked_mul(2)?)?);
        let bytes = reader.take_u64(value_len)?;
        let value = decode_value(name.as_str(), bytes, used_as)
            .unwrap_or(VariableValue::Bytes { length: bytes.len() });
        Some(Self { guid, name, value })
    }

    /// Whether it is the variable of this name in the global namespace.
    pub fn is_global(&self, name: &str) -> bool {
        self.guid == Guid::GLOBAL_VARIABLE && self.name.as_str() == name
    }
}

fn decode_value(name: &str, bytes: &[u8], used_as: VariableUse) -> Option<VariableValue> {
    match (used_as, name) {
        (_, "SbatLevel") => Some(VariableValue::Text(LogText::from_utf8(bytes))),
        (VariableUse::Authority, _) => {
            let mut reader = Reader::new(bytes);
            let owner = Guid::from_bytes(reader.array()?);
            Some(VariableValue::Authority { owner, length: reader.rest().len() })
        }
        (_, "SecureBoot" | "SetupMode" | "AuditMode" | "DeployedMode" | "MokSBState") => {
            match bytes {
                [] | [0] => Some(VariableValue::Flag(false)),
                [1] => Some(VariableValue::Flag(true)),
                _ => None,
            }
        }
        (VariableUse::Config, "PK" | "KEK" | "db" | "dbx" | "dbt" | "dbr") => signatures(bytes),
        (VariableUse::Boot, "BootOrder") => {
            let (numbers, odd) = bytes.as_chunks::<2>();
            let shown = |number: &[u8; 2]| format!("{:04X}", u16::from_le_bytes(*number));
            (odd.is_empty() && numbers.len() <= MAX_ORDER)
                .then(|| VariableValue::Order(numbers.iter().map(shown).collect()))
        }
        (VariableUse::Boot, name) if is_boot_option(name) => {
            LoadOption::decode(bytes).map(VariableValue::LoadOption)
        }
        _ => None,
    }
}

fn is_boot_option(name: &str) -> bool {
    let number = name.strip_prefix("Boot").unwrap_or_default();
    number.len() == 4 && number.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Counts the entries of a chain of `EFI_SIGNATURE_LIST` (UEFI 2.10, 32.4.1).
fn signatures(bytes: &[u8]) -> Option<VariableValue> {
    let mut reader = Reader::new(bytes);
    let (mut certificates, mut hashes, mut others) = (0, 0, 0);
    while !reader.is_empty() {
        let kind = Guid::from_bytes(reader.array()?);
        let list_len = reader.u32()?;
        let (header_len, entry_len) = (reader.u32()?, reader.u32()?);
        let entries_len = list_len.checked_sub(28)?.checked_sub(header_len)?;
        reader.take_u64(header_len.into())?;
        reader.take_u64(entries_len.into())?;
        let count = usize::try_from(entries_len.checked_div(entry_len)?).ok()?;
        match kind {
            CERT_X509 => certificates += count,
            CERT_SHA256 => hashes += count,
            _ => others += count,
        }
    }
    Some(VariableValue::Signatures { certificates, hashes, others })
}
