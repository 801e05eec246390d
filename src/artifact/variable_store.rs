//! Where variables lie: a host's `vars.fd`, as OVMF keeps it in flash, and Linux's efivarfs.

use std::fmt;

use super::efivar::{PolicyVariable, PolicyVariables};
use crate::measurement::LogText;
use crate::measurement::efi::Guid;
use crate::measurement::reader::Reader;

/// `EFI_SYSTEM_NV_DATA_FV_GUID`: the firmware volume that holds variables.
const NV_DATA_FV: Guid = Guid::from_fields(
    0xfff1_2b8d,
    0x7696,
    0x4c8b,
    [0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50],
);
/// `EFI_AUTHENTICATED_VARIABLE_GUID`: a store with 60-byte headers.
const AUTHENTICATED_STORE: Guid = Guid::from_fields(
    0xaaf3_2c78,
    0x947b,
    0x439a,
    [0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92],
);
/// `EFI_VARIABLE_GUID`: a store with 32-byte headers.
const PLAIN_STORE: Guid = Guid::from_fields(
    0xddcf_3616,
    0x3275,
    0x4164,
    [0x98, 0xb6, 0xfe, 0x85, 0x70, 0x7f, 0xfe, 0x7d],
);
/// `EFI_SECURE_BOOT_ENABLE_DISABLE_GUID`.
const SECURE_BOOT_ENABLE: Guid = Guid::from_fields(
    0xf0a3_0bc7,
    0xaf08,
    0x4556,
    [0x99, 0xc4, 0x00, 0x10, 0x09, 0xc9, 0x3a, 0x44],
);
/// `VARIABLE_STORE_FORMATTED` and `VARIABLE_STORE_HEALTHY`.
const STORE_READY: [u8; 2] = [0x5a, 0xfe];
/// `VARIABLE_DATA`, which every variable starts with.
const VARIABLE_START: u16 = 0x55aa;
/// `VAR_ADDED`.
const ADDED: u8 = 0x3f;
/// `VAR_ADDED & VAR_IN_DELETED_TRANSITION`: valid unless its successor was added.
const IN_DELETED_TRANSITION: u8 = 0x3e;

/// A variable with its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVariable {
    /// Its namespace.
    pub guid: Guid,
    /// Its name.
    pub name: String,
    /// `EFI_VARIABLE_NON_VOLATILE` and its like.
    pub attributes: u32,
    /// Its value.
    pub data: Vec<u8>,
}

/// The variables of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VariableStore {
    variables: Vec<StoredVariable>,
}

/// Bytes that are no variable store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// No firmware volume for variables at the start: perhaps a disk image, such as qcow2.
    NotVariables,
    /// The store is not formatted, or of another layout.
    NotFormatted,
    /// A field holds what it cannot hold, or the bytes end inside it.
    Malformed {
        /// The field.
        field: &'static str,
        /// Where, in bytes.
        offset: usize,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVariables => {
                f.write_str("no firmware volume of variables: expected a raw vars.fd of OVMF")
            }
            Self::NotFormatted => f.write_str("the variable store is not formatted"),
            Self::Malformed { field, offset } => {
                write!(f, "{field} at byte {offset} is not that of a variable store")
            }
        }
    }
}

impl std::error::Error for StoreError {}

impl StoredVariable {
    /// Reads a file of efivarfs: four bytes of attributes, then the value. The name is
    /// `NAME-GUID`; `None` where either is not.
    pub fn from_efivarfs(file_name: &str, bytes: &[u8]) -> Option<Self> {
        let (name, guid) = file_name.split_at_checked(file_name.len().checked_sub(37)?)?;
        let guid = guid.strip_prefix('-')?.parse().ok()?;
        let (attributes, data) = bytes.split_first_chunk()?;
        Some(Self {
            guid,
            name: name.to_owned(),
            attributes: u32::from_le_bytes(*attributes),
            data: data.to_vec(),
        })
    }
}

impl VariableStore {
    /// Reads a `vars.fd`, or a whole flash image that starts with one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, StoreError> {
        let volume = volume_body(bytes).ok_or(StoreError::NotVariables)?;
        let start = bytes.len().saturating_sub(volume.len());
        let mut reader = Reader::new(volume);
        let malformed = |field, offset| StoreError::Malformed { field, offset: start + offset };
        let header = |reader: &mut Reader<'_>| {
            let guid = Guid::from_bytes(reader.array()?);
            let len = reader.u32()?;
            let state = reader.array::<2>()?;
            reader.take(6)?;
            Some((guid, len, state))
        };
        let (guid, len, state) = header(&mut reader).ok_or_else(|| malformed("store header", 0))?;
        let authenticated = guid == AUTHENTICATED_STORE;
        if state != STORE_READY || !(authenticated || guid == PLAIN_STORE) {
            return Err(StoreError::NotFormatted);
        }
        let end = usize::try_from(len).ok().filter(|len| *len <= volume.len());
        let end = end.ok_or_else(|| malformed("store size", 16))?;
        let mut variables: Vec<(u8, StoredVariable)> = vec![];
        while reader.offset() < end {
            let at = reader.offset();
            // Free space is erased flash.
            if reader.clone().u16() != Some(VARIABLE_START) {
                break;
            }
            let (state, variable) =
                next(&mut reader, authenticated).ok_or_else(|| malformed("variable", at))?;
            if matches!(state, ADDED | IN_DELETED_TRANSITION) {
                variables.push((state, variable));
            }
            let padding = reader.offset().wrapping_neg() % 4;
            if reader.take(padding).is_none() {
                break;
            }
        }
        Ok(Self { variables: valid(variables) })
    }

    /// A store of variables that were read one by one.
    pub fn from_variables(variables: Vec<StoredVariable>) -> Self {
        Self { variables }
    }

    /// A variable, if it exists.
    pub fn get(&self, guid: Guid, name: &str) -> Option<&StoredVariable> {
        self.variables.iter().find(|variable| variable.guid == guid && variable.name == name)
    }

    /// All variables, in the order of the store.
    pub fn variables(&self) -> &[StoredVariable] {
        &self.variables
    }

    /// What PCR 7 will measure of these variables, where `base` says how this firmware logs them.
    /// Secure Boot is on where there is a platform key and nobody switched it off
    /// (`AuthVariableLibInitialize` of EDK II), in a firmware that knows it.
    pub fn policy(&self, base: &PolicyVariables) -> PolicyVariables {
        let value = |variable: PolicyVariable| {
            let stored = self.get(variable.guid(), variable.name());
            stored.map(|stored| stored.data.clone()).unwrap_or_default()
        };
        let enabled = self.get(SECURE_BOOT_ENABLE, "SecureBootEnable");
        let enabled = enabled.is_none_or(|stored| stored.data == [1]);
        let on = enabled && !value(PolicyVariable::Pk).is_empty();
        let known = !base.get(PolicyVariable::SecureBoot).is_empty();
        let secure_boot = if known { vec![on.into()] } else { vec![] };
        PolicyVariables::from_values(PolicyVariable::ALL.map(|variable| match variable {
            PolicyVariable::SecureBoot => (variable, secure_boot.clone()),
            _ => (variable, value(variable)),
        }))
    }
}

/// What follows the header of the firmware volume (PI 1.7, volume 3, 3.2.1).
fn volume_body(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    reader.take(16)?;
    let guid = Guid::from_bytes(reader.array()?);
    let len = usize::try_from(reader.u64()?).ok()?;
    let signature = reader.take(4)?;
    reader.take(4)?;
    let header_len = usize::from(reader.u16()?);
    let whole = (guid == NV_DATA_FV && signature == b"_FVH").then_some(bytes)?;
    whole.get(header_len..len.min(bytes.len()))
}

/// One variable and its state (`AUTHENTICATED_VARIABLE_HEADER`, `VARIABLE_HEADER`).
fn next(reader: &mut Reader<'_>, authenticated: bool) -> Option<(u8, StoredVariable)> {
    reader.u16()?;
    let state = reader.u8()?;
    reader.u8()?;
    let attributes = reader.u32()?;
    if authenticated {
        // Monotonic count, time stamp, index of a public key.
        reader.take(8 + 16 + 4)?;
    }
    let (name_len, data_len) = (reader.u32()?, reader.u32()?);
    let guid = Guid::from_bytes(reader.array()?);
    let name = LogText::from_utf16le(reader.take_u64(name_len.into())?).as_str().to_owned();
    let data = reader.take_u64(data_len.into())?.to_vec();
    Some((state, StoredVariable { guid, name, attributes, data }))
}

/// The valid variables, one for each name: an added one wins over one that was being replaced.
fn valid(mut found: Vec<(u8, StoredVariable)>) -> Vec<StoredVariable> {
    // Stable: among equals the first stays.
    found.sort_by_key(|(state, _)| *state != ADDED);
    let mut names = std::collections::HashSet::new();
    found.retain(|(_, variable)| names.insert((variable.guid, variable.name.clone())));
    found.into_iter().map(|(_, variable)| variable).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variable(name: &str, state: u8, data: &[u8]) -> Vec<u8> {
        let name: Vec<u8> = format!("{name}\0").encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut out = [VARIABLE_START.to_le_bytes(), [state, 0]].concat();
        out.extend(7u32.to_le_bytes());
        out.extend([0; 28]);
        out.extend((name.len() as u32).to_le_bytes());
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(PolicyVariable::Pk.guid().as_bytes());
        out.extend([name, data.to_vec()].concat());
        out.resize(out.len().next_multiple_of(4), 0xff);
        out
    }

    fn store(variables: &[Vec<u8>]) -> Vec<u8> {
        let body = variables.concat();
        let mut out = vec![0; 16];
        out.extend(NV_DATA_FV.as_bytes());
        out.extend(0x1000u64.to_le_bytes());
        out.extend(b"_FVH");
        out.extend([0xff, 0xfe, 4, 0]);
        out.extend([0x48, 0]);
        out.resize(0x48, 0);
        out.extend(AUTHENTICATED_STORE.as_bytes());
        out.extend(0xf00u32.to_le_bytes());
        out.extend(STORE_READY);
        out.extend([0; 6]);
        out.extend(body);
        out.resize(0x1000, 0xff);
        out
    }

    fn policy(bytes: &[u8], base: &[u8]) -> PolicyVariables {
        let base = [(PolicyVariable::SecureBoot, base.to_vec())];
        VariableStore::parse(bytes).unwrap().policy(&PolicyVariables::from_values(base))
    }

    #[test]
    fn deleted_variables_are_gone_and_added_ones_win() {
        let bytes = store(&[
            variable("PK", IN_DELETED_TRANSITION, b"old"),
            variable("KEK", 0x3c, b"deleted"),
            variable("PK", ADDED, b"new"),
            variable("db", IN_DELETED_TRANSITION, b"kept"),
            variable("dbx", 0x7f, b"header only"),
        ]);
        let store = VariableStore::parse(&bytes).unwrap();
        let mut found: Vec<_> = store
            .variables()
            .iter()
            .map(|variable| (variable.name.as_str(), variable.data.as_slice()))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [("PK", b"new".as_slice()), ("db", b"kept")]);
    }

    #[test]
    fn secure_boot_is_on_with_a_key_unless_switched_off() {
        let on = store(&[variable("PK", ADDED, b"key")]);
        assert!(policy(&on, &[0]).secure_boot());
        // A firmware without Secure Boot logs nothing, whatever its variables say.
        assert!(policy(&on, &[]).get(PolicyVariable::SecureBoot).is_empty());
        assert_eq!(policy(&store(&[]), &[1]).get(PolicyVariable::SecureBoot), [0]);
    }

    #[test]
    fn what_is_no_store_is_refused() {
        let bytes = store(&[variable("PK", ADDED, b"key")]);
        let parse = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            VariableStore::parse(&bytes)
        };
        assert_eq!(parse(&|bytes| bytes.truncate(40)), Err(StoreError::NotVariables));
        assert_eq!(parse(&|bytes| bytes[0x28] = 0), Err(StoreError::NotVariables));
        assert_eq!(parse(&|bytes| bytes[0x5c] = 0), Err(StoreError::NotFormatted));
        let too_large = parse(&|bytes| bytes[0x5b] = 1).unwrap_err();
        assert_eq!(too_large.to_string(), "store size at byte 88 is not that of a variable store");
        let name = parse(&|bytes| bytes[0x64 + 36 + 3] = 1).unwrap_err();
        assert_eq!(name, StoreError::Malformed { field: "variable", offset: 0x64 });
    }

    #[test]
    fn files_of_efivarfs() {
        let name = "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f";
        let variable = StoredVariable::from_efivarfs(name, &[0x27, 0, 0, 0, 9]).unwrap();
        assert_eq!((variable.name.as_str(), variable.attributes), ("db", 0x27));
        assert_eq!((variable.guid, variable.data), (PolicyVariable::Db.guid(), vec![9]));
        assert_eq!(StoredVariable::from_efivarfs(name, &[0x27, 0, 0]), None);
        for name in ["db", "dbxd719b2cb-3d3a-4596-a3bc-dad00e67656f", "é-d719b2cb"] {
            assert_eq!(StoredVariable::from_efivarfs(name, &[0; 5]), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn hostile_stores_end(at in 0usize..0x200, bytes in prop::collection::vec(any::<u8>(), 1..24)) {
            let mut store = store(&[variable("PK", ADDED, b"key"), variable("db", ADDED, &[1; 99])]);
            store.splice(at..at + bytes.len(), bytes);
            let _ = VariableStore::parse(&store);
        }
    }
}
