//! What becomes of Secure Boot's variables, for people: which entries come, and which go.

use std::collections::HashSet;
use std::fmt;

use super::der::Certificate;
use super::efivar::{PolicyVariable, PolicyVariables};
use super::signature_list::SignatureLists;
use crate::measurement::PcrBank;
use crate::measurement::efi::Guid;
use crate::measurement::text::printable;
use crate::measurement::variable::{CERT_SHA256, CERT_X509};

/// Bytes of an entry's owner.
const OWNER_LEN: usize = 16;
/// Entries of one variable that are shown, of those that come and of those that go.
const SHOWN: usize = 8;
/// Characters of a name that are shown.
const NAME: usize = 80;

/// A variable that the boot to come finds otherwise than the one that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableChange {
    /// The variable.
    pub variable: PolicyVariable,
    /// What is new in it: one printable line each, at most 8, then a line that counts the rest.
    pub added: Vec<String>,
    /// What is gone from it, likewise.
    pub removed: Vec<String>,
}

impl VariableChange {
    /// Every variable whose value is not the same, in the order in which they are measured.
    pub fn all(old: &PolicyVariables, new: &PolicyVariables) -> Vec<Self> {
        let changed = PolicyVariable::ALL
            .into_iter()
            .filter(|variable| old.get(*variable) != new.get(*variable));
        changed.map(|variable| Self::of(variable, old.get(variable), new.get(variable))).collect()
    }

    fn of(variable: PolicyVariable, old: &[u8], new: &[u8]) -> Self {
        let (before, after) = (entries(variable, old), entries(variable, new));
        Self { variable, added: beyond(&after, &before), removed: beyond(&before, &after) }
    }
}

impl fmt::Display for VariableChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secure Boot variable {}:", self.variable.name())?;
        if self.added.is_empty() && self.removed.is_empty() {
            return f.write_str(" the same entries in another form");
        }
        let signed = |sign, lines: &[String]| {
            lines.iter().map(|line| format!("\n  {sign} {line}")).collect::<String>()
        };
        f.write_str(&(signed('+', &self.added) + &signed('-', &self.removed)))
    }
}

/// What a value consists of.
#[derive(PartialEq, Eq, Hash)]
enum Entry {
    /// An entry of a signature list: its type, then owner and content.
    Signature(Guid, Vec<u8>),
    /// A value that is no signature lists.
    Plain(Vec<u8>),
}

fn entries(variable: PolicyVariable, value: &[u8]) -> Vec<Entry> {
    let plain = || if value.is_empty() { vec![] } else { vec![Entry::Plain(value.to_vec())] };
    if variable == PolicyVariable::SecureBoot {
        return plain();
    }
    match SignatureLists::parse(value) {
        Ok(lists) => {
            lists.entries().map(|(kind, entry)| Entry::Signature(kind, entry.to_vec())).collect()
        }
        Err(_) => plain(),
    }
}

/// Those of `these` that are not among `those`.
fn beyond(these: &[Entry], those: &[Entry]) -> Vec<String> {
    let known: HashSet<&Entry> = those.iter().collect();
    let all: Vec<&Entry> = these.iter().filter(|entry| !known.contains(entry)).collect();
    let mut lines: Vec<String> = all.iter().take(SHOWN).map(|entry| entry.to_string()).collect();
    if all.len() > SHOWN {
        lines.push(format!("{} more", all.len() - SHOWN));
    }
    lines
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, entry) = match self {
            Self::Plain(value) if value == &[0] => return f.write_str("off"),
            Self::Plain(value) if value == &[1] => return f.write_str("on"),
            Self::Plain(value) => return write!(f, "{} bytes", value.len()),
            Self::Signature(kind, entry) => (kind, entry),
        };
        let content = entry.get(OWNER_LEN..).unwrap_or_default();
        match *kind {
            CERT_X509 => {
                let called = Certificate::parse(content).and_then(|found| found.called());
                let called = printable(called.as_deref().unwrap_or("without a name"), NAME);
                write!(f, "certificate {called}, sha256 {}", PcrBank::Sha256.hash(content))
            }
            CERT_SHA256 => write!(f, "sha256 {}", hex::encode(content)),
            _ => write!(f, "entry of type {kind}, sha256 {}", PcrBank::Sha256.hash(content)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::signature_list::SignatureList;
    use super::*;

    fn lists(kind: Guid, entries: &[Vec<u8>]) -> Vec<u8> {
        let entries: Vec<_> = entries.iter().map(Vec::as_slice).collect();
        SignatureLists::from(vec![SignatureList::new(kind, &entries).unwrap()]).to_bytes()
    }

    #[track_caller]
    fn shows(variable: PolicyVariable, old: &[u8], new: &[u8], expected: &str) {
        let of = |value: &[u8]| PolicyVariables::from_values([(variable, value.to_vec())]);
        let all = VariableChange::all(&of(old), &of(new));
        assert_eq!(all.iter().map(VariableChange::to_string).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn entries_that_come_and_go_are_named() {
        let hash = |byte: u8| vec![byte; 48];
        let [a, b] = [1u8, 2].map(|byte| hex::encode([byte; 32]));
        let (first, second) = (lists(CERT_SHA256, &[hash(1)]), lists(CERT_SHA256, &[hash(2)]));
        let dbx = PolicyVariable::Dbx;
        let both = lists(CERT_SHA256, &[hash(1), hash(2)]);
        shows(dbx, &first, &both, &format!("Secure Boot variable dbx:\n  + sha256 {b}"));
        shows(
            dbx,
            &first,
            &second,
            &format!("Secure Boot variable dbx:\n  + sha256 {b}\n  - sha256 {a}"),
        );
        let twice = [first, second].concat();
        shows(dbx, &both, &twice, "Secure Boot variable dbx: the same entries in another form");
        let many: Vec<_> = (0..40).map(hash).collect();
        let all = VariableChange::all(
            &PolicyVariables::from_values([]),
            &PolicyVariables::from_values([(dbx, lists(CERT_SHA256, &many))]),
        );
        assert_eq!((all[0].added.len(), all[0].added[8].as_str()), (9, "32 more"));
    }

    #[test]
    fn what_is_no_list_and_hostile_names_are_shown_all_the_same() {
        let pk = PolicyVariable::Pk;
        shows(pk, b"text", &[], "Secure Boot variable PK:\n  - 4 bytes");
        shows(
            PolicyVariable::SecureBoot,
            &[1],
            &[0],
            "Secure Boot variable SecureBoot:\n  + off\n  - on",
        );
        let certificate = [vec![0; 16], b"\x1b[2J is none".to_vec()].concat();
        let digest = PcrBank::Sha256.hash(&certificate[16..]);
        let new = lists(CERT_X509, &[certificate]);
        shows(
            pk,
            &[],
            &new,
            &format!("Secure Boot variable PK:\n  + certificate without a name, sha256 {digest}"),
        );
    }
}
