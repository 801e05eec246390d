//! shim's own keys: PCR 14, and the authority events that shim adds to PCR 7.
//!
//! shim measures `MokList` and `MokListX` together with the vendor's keys that were built into it,
//! and chooses among several `SbatLevel`s. What it measures is carried over while shim and its
//! variables stay; with other variables it is not told by them alone.

use std::fmt;

use super::variable_store::VariableStore;
use crate::measurement::efi::Guid;
use crate::measurement::{Event, EventType};

/// `SHIM_LOCK_GUID`.
pub const SHIM_LOCK: Guid = Guid::from_fields(
    0x605d_ab50,
    0xe046,
    0x4300,
    [0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23],
);

/// The variables that decide what shim measures (`mok_state_variables` of shim), with those by
/// which MokManager and shim are asked to change them.
const VARIABLES: [&str; 16] = [
    "MokList",
    "MokListX",
    "MokSBState",
    "MokDBState",
    "MokIgnoreDB",
    "MokListTrusted",
    "MokPolicy",
    "SbatLevel",
    "SbatPolicy",
    "SSPPolicy",
    "HSIStatus",
    "MokNew",
    "MokDel",
    "MokXNew",
    "MokXDel",
    "MokAuth",
];

/// By which mokutil asks for other keys or decisions, and the PCR that then changes: MokManager does it
/// in the next boot where somebody at the console agrees, or shim by itself.
const REQUESTS: [(&str, u8); 8] = [
    ("MokNew", 14),
    ("MokDel", 14),
    ("MokXNew", 14),
    ("MokXDel", 14),
    ("MokSB", 14),
    ("MokDB", 14),
    ("MokListTrustedNew", 14),
    ("SbatPolicy", 7),
];

/// What shim or its MokManager was asked to change, and the PCR that it is measured into.
pub fn requests(store: &VariableStore) -> Vec<(&'static str, u8)> {
    let is_there = |(name, _): &(&str, u8)| store.get(SHIM_LOCK, name).is_some();
    REQUESTS.into_iter().filter(is_there).collect()
}

/// Why shim's measurements are not those of the last boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MokChanged {
    /// The first variable that differs.
    pub name: &'static str,
}

impl fmt::Display for MokChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shim's variable {} was changed, and shim adds keys of its own to it", self.name)
    }
}

impl std::error::Error for MokChanged {}

/// Whether an event is one of shim's state, to be carried over.
pub fn is_shim_state(event: &Event) -> bool {
    let in_14 = event.pcr == 14 && event.event_type == EventType::Ipl;
    let in_7 = event.pcr == 7 && event.event_type == EventType::EfiVariableAuthority;
    in_14 || in_7 && event.raw.starts_with(SHIM_LOCK.as_bytes())
}

/// Makes sure that shim finds the variables of the base boot again.
///
/// # Errors
/// [`MokChanged`] with the first that differs.
pub fn check_unchanged(base: &VariableStore, next: &VariableStore) -> Result<(), MokChanged> {
    let value = |store: &VariableStore, name| {
        store.get(SHIM_LOCK, name).map(|variable| variable.data.clone())
    };
    let changed = VARIABLES.into_iter().find(|name| value(base, name) != value(next, name));
    changed.map_or(Ok(()), |name| Err(MokChanged { name }))
}

#[cfg(test)]
mod tests {
    use super::super::variable_store::StoredVariable;
    use super::*;

    #[test]
    fn a_changed_key_list_is_named() {
        let store = |name: &str, data: &[u8]| {
            let (name, data) = (name.to_owned(), data.to_vec());
            VariableStore::from_variables(vec![StoredVariable {
                guid: SHIM_LOCK,
                name,
                attributes: 3,
                data,
            }])
        };
        let base = store("MokList", b"a");
        assert_eq!(check_unchanged(&base, &base), Ok(()));
        let changed = |next| check_unchanged(&base, &next).unwrap_err().name;
        assert_eq!(changed(store("MokList", b"b")), "MokList");
        assert_eq!(changed(VariableStore::default()), "MokList");
        assert_eq!(check_unchanged(&store("MokListRT", b"a"), &store("MokListRT", b"b")), Ok(()));
    }
}
