//! UEFI variables: their names, and the bytes by which PCR 7 measures those of Secure Boot.

use std::fmt;

use super::Measured;
use super::signature_list::SignatureListError;
use crate::measurement::efi::Guid;
use crate::measurement::reader::Reader;
use crate::measurement::{
    Event, EventData, EventDigest, EventLog, EventType, LogText, PcrBank, PcrIndex,
};

/// `EFI_IMAGE_SECURITY_DATABASE_GUID`: db, dbx, dbt, dbr.
pub const IMAGE_SECURITY_DATABASE: Guid = Guid::from_fields(
    0xd719_b2cb,
    0x3d3a,
    0x4596,
    [0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f],
);

/// A variable that PCR 7 measures, in the order of measurement (`MeasureAllSecureVariables` of
/// EDK II).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyVariable {
    /// Whether Secure Boot is enforced.
    SecureBoot,
    /// The platform key.
    Pk,
    /// The keys that may sign updates of the databases.
    Kek,
    /// What may start.
    Db,
    /// What may not.
    Dbx,
    /// Time-stamping certificates. Measured only where it is not empty.
    Dbt,
    /// What OsRecovery may start. Measured only where it is not empty.
    Dbr,
}

impl PolicyVariable {
    /// All of them, in order.
    pub const ALL: [Self; 7] =
        [Self::SecureBoot, Self::Pk, Self::Kek, Self::Db, Self::Dbx, Self::Dbt, Self::Dbr];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SecureBoot => "SecureBoot",
            Self::Pk => "PK",
            Self::Kek => "KEK",
            Self::Db => "db",
            Self::Dbx => "dbx",
            Self::Dbt => "dbt",
            Self::Dbr => "dbr",
        }
    }

    /// Its namespace.
    pub fn guid(self) -> Guid {
        match self {
            Self::SecureBoot | Self::Pk | Self::Kek => Guid::GLOBAL_VARIABLE,
            Self::Db | Self::Dbx | Self::Dbt | Self::Dbr => IMAGE_SECURITY_DATABASE,
        }
    }

    /// The variable of a name, as `--set db=FILE` writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variable| variable.name() == name)
    }

    /// Whether an event without data is logged for it when it is not there.
    fn is_measured_when_empty(self) -> bool {
        !matches!(self, Self::Dbt | Self::Dbr)
    }

    fn of(logged: &LoggedVariable<'_>) -> Option<Self> {
        Self::from_name(&logged.name).filter(|variable| variable.guid() == logged.guid)
    }
}

/// `UEFI_VARIABLE_DATA` taken apart (PFP 10.2.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedVariable<'a> {
    /// Its namespace.
    pub guid: Guid,
    /// Its name; what is not UTF-16 becomes U+FFFD.
    pub name: String,
    /// Its value.
    pub data: &'a [u8],
}

impl<'a> LoggedVariable<'a> {
    /// Takes the data of an event apart; `None` where it is not such data, or has a tail.
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(raw);
        let guid = Guid::from_bytes(reader.array()?);
        let (name_units, data_len) = (reader.u64()?, reader.u64()?);
        let name = reader.take_u64(name_units.checked_mul(2)?)?;
        let data = reader.take_u64(data_len)?;
        let name = LogText::from_utf16le(name).as_str().to_owned();
        reader.is_empty().then_some(Self { guid, name, data })
    }
}

/// The bytes that are measured of a variable: `UEFI_VARIABLE_DATA`.
pub fn variable_data(guid: Guid, name: &str, data: &[u8]) -> Vec<u8> {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut raw = guid.as_bytes().to_vec();
    raw.extend((units.len() as u64 / 2).to_le_bytes());
    raw.extend((data.len() as u64).to_le_bytes());
    raw.extend(units);
    raw.extend(data);
    raw
}

/// Why the future of a variable cannot be told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VariableError {
    /// The log does not hold the variable's value, or holds another than it measured.
    NotLogged {
        /// The variable.
        variable: PolicyVariable,
    },
    /// The value, or what is appended to it, is no signature list.
    Lists {
        /// The variable.
        variable: PolicyVariable,
        /// What is wrong.
        error: SignatureListError,
    },
    /// Not a variable that holds signature lists.
    NotLists {
        /// The variable.
        variable: PolicyVariable,
    },
    /// A firmware without Secure Boot has no `SecureBoot` variable and cannot switch it on.
    NoSecureBoot,
}

impl fmt::Display for VariableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLogged { variable } => {
                write!(f, "the log does not tell the value of {}", variable.name())
            }
            Self::Lists { variable, error } => write!(f, "{}: {error}", variable.name()),
            Self::NotLists { variable } => {
                write!(f, "{} holds no signature lists", variable.name())
            }
            Self::NoSecureBoot => f.write_str("this firmware was built without Secure Boot"),
        }
    }
}

impl std::error::Error for VariableError {}

/// The values of the variables of Secure Boot, as PCR 7 measures them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyVariables(Vec<(PolicyVariable, Vec<u8>)>);

impl PolicyVariables {
    /// The values that a log was written with. Each must be what the log measured.
    ///
    /// # Errors
    /// [`VariableError::NotLogged`] for the first that is not there or was not measured so.
    pub fn from_log(log: &EventLog) -> Result<Self, VariableError> {
        let events = log.events().iter().filter(|event| is_policy_event(event));
        let mut values: Vec<(PolicyVariable, Vec<u8>)> = vec![];
        for event in events {
            let Some(logged) = LoggedVariable::parse(&event.raw) else { continue };
            let Some(variable) = PolicyVariable::of(&logged) else { continue };
            if !event.data_is_measured() || values.iter().any(|(known, _)| *known == variable) {
                return Err(VariableError::NotLogged { variable });
            }
            values.push((variable, logged.data.to_vec()));
        }
        let needed =
            PolicyVariable::ALL.into_iter().filter(|variable| variable.is_measured_when_empty());
        for variable in needed {
            if !values.iter().any(|(known, _)| *known == variable) {
                return Err(VariableError::NotLogged { variable });
            }
        }
        Ok(Self(values))
    }

    /// Values that were read elsewhere. What is not among them is empty.
    pub fn from_values(values: impl IntoIterator<Item = (PolicyVariable, Vec<u8>)>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by_key(|(variable, _)| *variable);
        values.dedup_by_key(|(variable, _)| *variable);
        Self(values)
    }

    /// The value of a variable; empty where it does not exist.
    pub fn get(&self, variable: PolicyVariable) -> &[u8] {
        self.0.iter().find(|(known, _)| *known == variable).map_or(&[], |(_, data)| data)
    }

    /// Whether Secure Boot is enforced. OVMF 2022.11 logs 0 where it is off, 2025.02 nothing: a
    /// firmware without Secure Boot has no such variable.
    pub fn secure_boot(&self) -> bool {
        self.get(PolicyVariable::SecureBoot) == [1]
    }

    /// Sets a value. A change of PK switches Secure Boot with it, as `UpdatePlatformMode` of EDK II
    /// does, in the form in which this firmware logs it.
    pub fn set(&mut self, variable: PolicyVariable, data: Vec<u8>) {
        let had_pk = !self.get(PolicyVariable::Pk).is_empty();
        let has_pk = variable == PolicyVariable::Pk && !data.is_empty();
        let switches = variable == PolicyVariable::Pk && had_pk != has_pk;
        if switches && !self.get(PolicyVariable::SecureBoot).is_empty() {
            self.put(PolicyVariable::SecureBoot, vec![has_pk.into()]);
        }
        self.put(variable, data);
    }

    /// Switches Secure Boot, in the form in which this firmware logs it.
    ///
    /// # Errors
    /// [`VariableError::NoSecureBoot`] where it is to be switched on and the log of the base has no
    /// value of the variable, or there is no platform key.
    pub fn switch_secure_boot(&mut self, on: bool) -> Result<(), VariableError> {
        let present = self.get(PolicyVariable::SecureBoot);
        let possible = !present.is_empty() && !self.get(PolicyVariable::Pk).is_empty();
        match (on, possible) {
            (true, false) => return Err(VariableError::NoSecureBoot),
            (false, _) if present.is_empty() => {}
            _ => self.put(PolicyVariable::SecureBoot, vec![on.into()]),
        }
        Ok(())
    }

    fn put(&mut self, variable: PolicyVariable, data: Vec<u8>) {
        self.0.retain(|(known, _)| *known != variable);
        let place = self.0.partition_point(|(known, _)| *known < variable);
        self.0.insert(place, (variable, data));
    }

    /// What will be measured, in order: the events before PCR 7's separator.
    pub fn measured(&self, banks: &[PcrBank]) -> Vec<Measured> {
        self.measured_each(banks).into_iter().map(|(_, measured)| measured).collect()
    }

    /// The same, with the variables.
    pub fn measured_each(&self, banks: &[PcrBank]) -> Vec<(PolicyVariable, Measured)> {
        let variables = PolicyVariable::ALL.into_iter();
        let measured = variables.filter(|variable| {
            variable.is_measured_when_empty() || !self.get(*variable).is_empty()
        });
        let event_type = EventType::EfiVariableDriverConfig;
        measured
            .filter_map(|variable| {
                let raw = variable_data(variable.guid(), variable.name(), self.get(variable));
                Some((variable, measured_in_7(event_type, raw, banks)?))
            })
            .collect()
    }
}

/// Whether an event measures one of these variables.
pub fn is_policy_event(event: &Event) -> bool {
    event.event_type == EventType::EfiVariableDriverConfig && event.pcr == 7
}

/// The measurement of `UEFI_VARIABLE_DATA` into PCR 7, in the words of its event.
pub(super) fn measured_in_7(
    event_type: EventType,
    raw: Vec<u8>,
    banks: &[PcrBank],
) -> Option<Measured> {
    let pcr = PcrIndex::new(7).ok()?;
    let digests: Vec<EventDigest> = vec![];
    let event = Event { number: 0, pcr: 7, event_type, digests, raw };
    let words = EventData::to_string(&event.data());
    Some(Measured::of_bytes(pcr, banks, &event.raw, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_bytes_are_taken_apart_again() {
        let raw = variable_data(IMAGE_SECURITY_DATABASE, "db", b"value");
        let logged = LoggedVariable::parse(&raw).unwrap();
        assert_eq!((logged.guid, logged.name.as_str()), (IMAGE_SECURITY_DATABASE, "db"));
        assert_eq!(logged.data, b"value");
        assert_eq!(PolicyVariable::of(&logged), Some(PolicyVariable::Db));
        assert!((0..raw.len()).all(|len| LoggedVariable::parse(&raw[..len]).is_none()));
        assert_eq!(LoggedVariable::parse(&[&raw, b"x".as_slice()].concat()), None);
        let huge = [&raw[..16], &u64::MAX.to_le_bytes(), &raw[24..]].concat();
        assert_eq!(LoggedVariable::parse(&huge), None);
    }

    #[test]
    fn a_platform_key_switches_secure_boot_in_the_form_of_the_firmware() {
        let of = |secure_boot: &[u8], pk: &[u8]| {
            PolicyVariables::from_values([
                (PolicyVariable::SecureBoot, secure_boot.to_vec()),
                (PolicyVariable::Pk, pk.to_vec()),
            ])
        };
        let with_pk = |mut variables: PolicyVariables, pk: &[u8]| {
            variables.set(PolicyVariable::Pk, pk.to_vec());
            variables.get(PolicyVariable::SecureBoot).to_vec()
        };
        assert_eq!(with_pk(of(&[1], b"key"), b""), [0]);
        assert_eq!(with_pk(of(&[0], b""), b"key"), [1]);
        // Switched off by hand, it stays off under another key.
        assert_eq!(with_pk(of(&[0], b"key"), b"other"), [0]);
        assert!(with_pk(of(&[], b""), b"key").is_empty());
        assert_eq!(of(&[], b"").switch_secure_boot(true), Err(VariableError::NoSecureBoot));
        assert_eq!(of(&[0], b"").switch_secure_boot(true), Err(VariableError::NoSecureBoot));
        let mut on = of(&[0], b"key");
        on.switch_secure_boot(true).unwrap();
        assert!(on.secure_boot());
    }

    #[test]
    fn absent_databases_are_measured_empty_but_for_dbt_and_dbr() {
        let names = |variables: &PolicyVariables| -> Vec<String> {
            let measured = variables.measured(&[PcrBank::Sha256]);
            measured.into_iter().map(|measured| measured.words).collect()
        };
        let mut variables = PolicyVariables::from_values([]);
        assert_eq!(names(&variables).len(), 5);
        variables.set(PolicyVariable::Dbr, vec![1]);
        assert_eq!(names(&variables)[5], "dbr, 1 bytes");
    }
}
