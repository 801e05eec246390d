//! What an update makes of a Secure Boot variable: a payload as fwupd and `sign-efi-sig-list`
//! deliver it, or bare signature lists, appended or in place of the old value.

use super::efivar::{PolicyVariable, VariableError};
use super::signature_list::SignatureLists;
use crate::measurement::efi::Guid;
use crate::measurement::reader::Reader;

/// `EFI_CERT_TYPE_PKCS7_GUID`.
const CERT_TYPE_PKCS7: Guid = Guid::from_fields(
    0x4aaf_d29d,
    0x68df,
    0x49ee,
    [0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7],
);
/// `WIN_CERT_TYPE_EFI_GUID`.
const WIN_CERT_TYPE_EFI_GUID: u16 = 0x0ef1;
/// Revision of every `WIN_CERTIFICATE`.
const WIN_CERT_REVISION: u16 = 0x0200;
/// Bytes of a `WIN_CERTIFICATE_UEFI_GUID` before the signature.
const CERT_HEADER_LEN: u32 = 24;

/// How the firmware is asked to write. The payload does not tell: the attributes are signed with
/// it, but not stored in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// `EFI_VARIABLE_APPEND_WRITE`, as for every dbx update.
    Append,
    /// In place of the old value.
    Replace,
}

/// A variable that an update is for, and how it is written: `db` as updates do it, `db:value` in
/// place of the old value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The variable.
    pub variable: PolicyVariable,
    /// How it is written.
    pub write: Write,
}

impl Target {
    /// The target of a name; `None` for what is no variable of Secure Boot.
    pub fn from_name(name: &str) -> Option<Self> {
        let (name, write) = match name.strip_suffix(":value") {
            Some(name) => (name, Write::Replace),
            None => (name, Write::Append),
        };
        let variable = PolicyVariable::from_name(name)?;
        // There is one platform key, which is replaced.
        let write = if variable == PolicyVariable::Pk { Write::Replace } else { write };
        Some(Self { variable, write })
    }

    /// The name of the artifact that a payload is, as one word: `dbx=/usr/share/dbx.bin`. `path` is
    /// absolute, so that no path of a boot file looks like it.
    pub fn artifact(self, path: &str) -> String {
        let value = match (self.write, self.variable) {
            (Write::Append, _) | (_, PolicyVariable::Pk) => "",
            (Write::Replace, _) => ":value",
        };
        format!("{}{value}={}", self.variable.name(), path.replace(' ', "\\040"))
    }

    /// The target of the payload that an artifact's name stands for; `None` for a boot file.
    pub fn of_artifact(name: &str) -> Option<Self> {
        let (name, path) = name.split_once('=')?;
        Self::from_name(name).filter(|_| path.starts_with('/'))
    }
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update<'a> {
    /// Whether an `EFI_VARIABLE_AUTHENTICATION_2` comes first. Its signature is the firmware's to
    /// check: a payload that is refused changes nothing.
    pub authenticated: bool,
    /// What follows it.
    pub data: &'a [u8],
}

impl<'a> Update<'a> {
    /// Finds the data in a payload. What does not start like an authenticated payload is the data
    /// itself.
    pub fn parse(bytes: &'a [u8]) -> Self {
        match after_authentication(bytes) {
            Some(data) => Self { authenticated: true, data },
            None => Self { authenticated: false, data: bytes },
        }
    }

    /// The value that `variable` has afterwards.
    ///
    /// # Errors
    /// [`VariableError::Lists`] where payload or present value are no signature lists,
    /// [`VariableError::NotLists`] for `SecureBoot`.
    pub fn apply(
        &self,
        variable: PolicyVariable,
        present: &[u8],
        write: Write,
    ) -> Result<Vec<u8>, VariableError> {
        if variable == PolicyVariable::SecureBoot {
            return Err(VariableError::NotLists { variable });
        }
        let lists = |bytes| {
            SignatureLists::parse(bytes).map_err(|error| VariableError::Lists { variable, error })
        };
        let new = lists(self.data)?;
        Ok(match (write, variable) {
            (Write::Replace, _) => new.to_bytes(),
            // EDK II filters what is appended to these four, and to no others.
            (
                Write::Append,
                PolicyVariable::Kek
                | PolicyVariable::Db
                | PolicyVariable::Dbx
                | PolicyVariable::Dbt,
            ) if !present.is_empty() => lists(present)?.appended(&new).to_bytes(),
            (Write::Append, _) => [present, &new.to_bytes()].concat(),
        })
    }
}

/// What follows an `EFI_VARIABLE_AUTHENTICATION_2` (UEFI 2.10, 8.2.2).
fn after_authentication(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    let _timestamp: [u8; 16] = reader.array()?;
    let (len, revision, kind) = (reader.u32()?, reader.u16()?, reader.u16()?);
    let guid = Guid::from_bytes(reader.array()?);
    let is_pkcs7 =
        revision == WIN_CERT_REVISION && kind == WIN_CERT_TYPE_EFI_GUID && guid == CERT_TYPE_PKCS7;
    reader.take_u64(len.checked_sub(CERT_HEADER_LEN)?.into())?;
    is_pkcs7.then(|| reader.rest())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::signature_list::SignatureList;
    use super::*;
    use crate::measurement::variable::CERT_SHA256;

    fn lists(bytes: &[u8]) -> Vec<u8> {
        let entries: Vec<_> = bytes.iter().map(|byte| vec![*byte; 48]).collect();
        let entries: Vec<_> = entries.iter().map(Vec::as_slice).collect();
        let list = SignatureList::new(CERT_SHA256, &entries).unwrap();
        SignatureLists::from(vec![list]).to_bytes()
    }

    fn authenticated(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 16];
        out.extend((CERT_HEADER_LEN + 5).to_le_bytes());
        out.extend(WIN_CERT_REVISION.to_le_bytes());
        out.extend(WIN_CERT_TYPE_EFI_GUID.to_le_bytes());
        out.extend(CERT_TYPE_PKCS7.as_bytes());
        out.extend(b"PKCS7");
        out.extend(data);
        out
    }

    #[track_caller]
    fn becomes(
        variable: PolicyVariable,
        present: &[u8],
        payload: &[u8],
        write: Write,
        expected: &[u8],
    ) {
        let update = Update::parse(payload);
        assert_eq!(update.apply(variable, present, write).unwrap(), expected);
    }

    #[test]
    fn both_forms_of_a_payload_and_both_ways_of_writing() {
        let both = [lists(&[1, 2]), lists(&[3])].concat();
        let payload = authenticated(&lists(&[2, 3]));
        for payload in [&payload, &lists(&[2, 3])] {
            becomes(PolicyVariable::Dbx, &lists(&[1, 2]), payload, Write::Append, &both);
            becomes(PolicyVariable::Dbx, &lists(&[1]), payload, Write::Replace, &lists(&[2, 3]));
            becomes(PolicyVariable::Dbx, &[], payload, Write::Append, &lists(&[2, 3]));
        }
        // dbr is not filtered.
        let twice = [lists(&[1]), lists(&[1])].concat();
        becomes(PolicyVariable::Dbr, &lists(&[1]), &lists(&[1]), Write::Append, &twice);
        becomes(PolicyVariable::Pk, &lists(&[1]), &authenticated(&[]), Write::Replace, &[]);
    }

    #[test]
    fn a_payload_s_name_tells_its_target_and_no_boot_file_has_one() {
        for name in ["db", "dbx:value", "KEK", "PK"] {
            let target = Target::from_name(name).unwrap();
            let artifact = target.artifact("/a folder/payload");
            assert_eq!(artifact, format!("{name}=/a\\040folder/payload"));
            assert_eq!(Target::of_artifact(&artifact), Some(target));
        }
        assert_eq!(Target::from_name("PK").unwrap().write, Write::Replace);
        for other in ["MokList=/x", "/db=/x", "db=x", "db", "grub.cfg", "db:other=/x"] {
            assert_eq!(Target::of_artifact(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn hostile_payloads_end(at in 0usize..80, bytes in prop::collection::vec(any::<u8>(), 1..40)) {
            let mut payload = authenticated(&lists(&[1, 2]));
            let end = payload.len().min(at + bytes.len());
            payload.splice(at.min(end)..end, bytes);
            let _ = Update::parse(&payload).apply(PolicyVariable::Db, &lists(&[3]), Write::Append);
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let (text, good) = (Update::parse(b"text"), lists(&[1]));
        let error = text.apply(PolicyVariable::Db, &good, Write::Append).unwrap_err();
        assert_eq!(
            error.to_string(),
            "db: signature list at byte 0 should have 28 bytes, 4 are left"
        );
        let error = Update::parse(&good).apply(PolicyVariable::Db, b"x", Write::Append);
        assert!(matches!(error, Err(VariableError::Lists { .. })));
        let error = Update::parse(&good).apply(PolicyVariable::SecureBoot, &[1], Write::Replace);
        assert!(matches!(error, Err(VariableError::NotLists { .. })));
        // A signature longer than the payload is no authenticated payload.
        let cut = &authenticated(&good)[..40];
        assert!(!Update::parse(cut).authenticated);
    }
}
