//! The line of cause: what is wrong, without the remedy.

use std::fmt;

use super::Error;
use crate::enroll::Unforeseen;
use crate::measurement::text::printable;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tpm(error) => error.fmt(f),
            Self::Luks(error) => error.fmt(f),
            Self::Pins(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::NotPinned(error) => write!(f, "not the pinned volume: {error}"),
            Self::NotComparable { cause } => write!(f, "not the pinned volume: {cause}"),
            Self::StillOpen { name, cause } => {
                write!(f, "cannot latch ({cause}), and cannot close {name} again")
            }
            Self::NoPin { uuid, pins } => {
                write!(f, "volume {uuid} has no pin in {}", pins.display())
            }
            Self::Unpinnable(error) => error.fmt(f),
            Self::NoToken => f.write_str("the volume has no TPM token"),
            Self::BadToken { token, error } => write!(f, "token {token} is malformed: {error}"),
            Self::PcrMismatch { mismatch, .. } => mismatch.fmt(f),
            Self::Unapproved { unapproved, .. } => unapproved.fmt(f),
            Self::SignatureFile { path, cause } => {
                write!(f, "the signature file {}: {cause}", path.display())
            }
            #[cfg(feature = "cli")]
            Self::Authority(error) => error.fmt(f),
            #[cfg(feature = "cli")]
            Self::Sandbox(error) => error.fmt(f),
            Self::SrkPublic { path, cause } => {
                write!(f, "{}: no storage root key to seal to: {cause}", path.display())
            }
            Self::NoAuthorityPublic => {
                f.write_str("no key is named whose signatures the volume is to open for")
            }
            #[cfg(feature = "cli")]
            Self::Reference(error) => error.fmt(f),
            #[cfg(feature = "cli")]
            Self::Template(error) => error.fmt(f),
            Self::AuthorityKey { path, cause } => write!(f, "{}: {cause}", path.display()),
            Self::PinNeeded { cause } => write!(f, "a PIN is needed: {cause}"),
            Self::WrongPin { lockout: None, .. } => f.write_str("the PIN is wrong"),
            Self::WrongPin { lockout: Some(lockout), .. } => {
                write!(f, "the PIN is wrong; {lockout}")
            }
            Self::KeyslotRefused { token, keyslot } => {
                write!(f, "the secret of token {token} does not open keyslot {keyslot}")
            }
            Self::KeyslotTooCostly { keyslot } => {
                write!(f, "keyslot {keyslot} is no sealed one: opening it would take too long")
            }
            Self::LogMissing { path, cause } => {
                write!(f, "no event log at {}: {cause}", path.display())
            }
            Self::LogMalformed { path, error } => {
                write!(f, "the event log {} is malformed: {error}", path.display())
            }
            Self::UserspaceLogMalformed { path, error } => {
                write!(f, "the log {} is malformed: {error}", path.display())
            }
            Self::LogDisagrees { bank, pcr } => {
                write!(f, "PCR {pcr} of the {bank} bank is not what the event log replays to")
            }
            Self::LogLacksBank { bank } => write!(f, "the event log has no {bank} digests"),
            Self::NotCovered { components } => {
                f.write_str("this boot is not covered:")?;
                for (index, component) in components.iter().enumerate() {
                    write!(f, "{} {component}", if index == 0 { "" } else { ";" })?;
                }
                Ok(())
            }
            Self::Pcrs(error) => error.fmt(f),
            Self::EmptySeal { bank } => {
                write!(f, "every chosen PCR of the {bank} bank is zero: that would bind nothing")
            }
            Self::LastKeyslot { keyslot: Some(keyslot) } => {
                write!(f, "without keyslot {keyslot} no keyslot would open without a TPM")
            }
            Self::LastKeyslot { keyslot: None } => {
                f.write_str("no keyslot is known to open without a TPM, so none may go")
            }
            Self::NotSealed { token, keyslot } => {
                write!(
                    f,
                    "token {token} names keyslot {keyslot}, which is no sealed keyslot of its own"
                )
            }
            Self::NothingToRevoke => f.write_str("there is nothing to revoke"),
            Self::NoPassphrase { cause } => write!(f, "no passphrase: {cause}"),
            Self::NoRandomness { cause } => write!(f, "no random bytes: {cause}"),
            Self::NotShown { cause } => {
                write!(f, "the recovery key was taken back, it could not be shown: {cause}")
            }
            Self::Artifact { path, cause } => write!(f, "{}: {cause}", path.display()),
            Self::BadSet { set } => {
                write!(f, "--set {}: expected PATH=FILE", printable(set, 200))
            }
            Self::BadVariable { set } => {
                let set = printable(set, 200);
                write!(f, "--set {set}: expected db, dbx, KEK or PK, and =FILE")
            }
            Self::BaseNotReproduced(error) => error.fmt(f),
            Self::Unforeseen(Unforeseen { pcr, event, why }) => {
                let (event, why) = (printable(event, 120), printable(why, 160));
                match pcr {
                    Some(pcr) => {
                        write!(f, "PCR {pcr} of the next boot cannot be told: {event}: {why}")
                    }
                    None => write!(f, "the next boot cannot be told: {event}: {why}"),
                }
            }
            Self::RootNotEncrypted { folder } => {
                write!(f, "{} is not known to lie on encrypted devices only", folder.display())
            }
            Self::KeyFile { path, cause } | Self::Crypttab { path, cause } => {
                write!(f, "{}: {cause}", path.display())
            }
            Self::RebuildFailed { command, cause } => {
                write!(
                    f,
                    "the initramfs could not be rebuilt: {}: {cause}",
                    printable(command, 200)
                )
            }
            Self::BadQemu { found } => {
                write!(f, "--qemu {}: expected a version such as 10.0", printable(found, 60))
            }
            Self::NoSuchEntry { wanted, there } => {
                let there: Vec<String> = there.iter().map(|id| printable(id, 120)).collect();
                let wanted = printable(wanted, 120);
                write!(f, "no boot entry is called {wanted}; there are: {}", there.join(", "))
            }
            Self::NothingApproved { uuid: Some(uuid) } => {
                write!(f, "no boot of volume {} was approved on this machine", printable(uuid, 60))
            }
            Self::NothingApproved { uuid: None } => {
                f.write_str("no boot was approved on this machine")
            }
            Self::NotApproved { reasons } => {
                f.write_str("not approved")?;
                let shown = reasons.iter().map(|reason| printable(reason, 240));
                shown.enumerate().try_for_each(|(index, reason)| {
                    write!(f, "{} {reason}", if index == 0 { ":" } else { ";" })
                })
            }
            Self::NotCoveredVms { count, first, why } => {
                let (first, why) = (printable(first, 64), printable(why, 200));
                match count {
                    1 => write!(f, "{first} is not covered: {why}"),
                    _ => write!(f, "{count} machines are not covered, {first} among them: {why}"),
                }
            }
            Self::ChangedSince { path } => {
                write!(
                    f,
                    "{} changed since it was shown: nothing is approved",
                    printable(path, 200)
                )
            }
            Self::Narrow { entry } if entry.is_empty() => {
                f.write_str("--narrow: it cannot be told which boot the loader starts")
            }
            Self::Narrow { entry } => {
                write!(f, "--narrow: {} was not seen to open yet", printable(entry, 200))
            }
            Self::KeyslotGone { keyslot } => {
                write!(
                    f,
                    "keyslot {keyslot}, which approved boots open, is not there as it was made"
                )
            }
            Self::RecordFull => f.write_str("eight boots are approved already"),
            Self::RecordNewer { token } => {
                write!(f, "the record in token {token} is of a later version of vmseal")
            }
        }
    }
}
