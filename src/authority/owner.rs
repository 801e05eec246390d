//! Whose a key is: a machine's, told by its ID and the Name of its TPM's storage root key, or a
//! template's, told by its name.

use std::fmt;
use std::path::Path;

use super::error::AuthorityError;

/// Where the system keeps the machine's ID (machine-id(5)).
const MACHINE_ID: &str = "etc/machine-id";
/// Bytes of the longest Name: an algorithm identifier and a SHA-512 digest.
const MAX_NAME: usize = 66;

/// The machine that a key belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    machine_id: String,
    srk_name: Vec<u8>,
}

/// Whose a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A machine, which approves its own boots.
    Machine(Owner),
    /// A host, for the machines of the template of this name.
    Template(String),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(owner) => write!(f, "the machine {}", owner.machine_id),
            Self::Template(name) => write!(f, "the template {name}"),
        }
    }
}

/// Whether a template, or one of its machines, may be called so: it becomes the name of a file.
pub fn is_template_name(name: &str) -> bool {
    const MAX: usize = 64;
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX).contains(&name.len()) && name.bytes().all(is_known) && !name.starts_with(['.', '-'])
}

/// What tells a machine from the one that a key belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Other {
    /// The machine's ID.
    MachineId {
        /// The key's.
        expected: String,
        /// This machine's.
        found: String,
    },
    /// The Name of the storage root key.
    StorageKey,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MachineId { .. } => "machine ID",
            Self::StorageKey => "TPM's storage root key",
        })
    }
}

impl Owner {
    /// The machine whose system lies below `root` and whose storage root key has this Name; where the
    /// TPM has no such key, no authority's key is that machine's.
    ///
    /// # Errors
    /// [`AuthorityError::NoMachineId`], also before the first boot has made one.
    pub fn of_machine(root: &Path, srk_name: Option<&[u8]>) -> Result<Self, AuthorityError> {
        let path = root.join(MACHINE_ID);
        let refused = |found: String| AuthorityError::NoMachineId { path: path.clone(), found };
        let text = std::fs::read_to_string(&path).map_err(|error| refused(error.to_string()))?;
        let id = text.trim_end_matches('\n');
        let machine_id = machine_id(id).ok_or_else(|| refused(id.to_owned()))?;
        Ok(Self { machine_id, srk_name: srk_name.unwrap_or_default().to_vec() })
    }

    /// `None` for what no machine can have.
    pub(super) fn new(id: &str, srk_name: &[u8]) -> Option<Self> {
        let is_name = (3..=MAX_NAME).contains(&srk_name.len());
        let machine_id = machine_id(id).filter(|_| is_name)?;
        Some(Self { machine_id, srk_name: srk_name.to_vec() })
    }

    /// The machine's ID, 32 hexadecimal digits.
    pub fn machine_id(&self) -> &str {
        &self.machine_id
    }

    /// The Name of the storage root key, in hexadecimal.
    pub fn srk_name(&self) -> String {
        hex::encode(&self.srk_name)
    }

    /// What tells that `machine` is not this owner.
    pub fn differs_from(&self, machine: &Self) -> Option<Other> {
        if self.machine_id != machine.machine_id {
            let (expected, found) = (self.machine_id.clone(), machine.machine_id.clone());
            return Some(Other::MachineId { expected, found });
        }
        (self.srk_name != machine.srk_name).then_some(Other::StorageKey)
    }
}

/// An ID as systemd writes it: neither the one of a system that has not booted yet, nor zeros.
fn machine_id(text: &str) -> Option<String> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_id =
        text.len() == 32 && text.bytes().all(is_digit) && text.bytes().any(|byte| byte != b'0');
    is_id.then(|| text.to_owned())
}
