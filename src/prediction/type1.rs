//! What an entry of type 1 measures: kernel (PCR 4), command line (PCR 12), and the kernel's own
//! words (PCR 9).

use super::account::LOAD_OPTIONS;
use super::artifacts::{Artifacts, Joint};
use super::boot_entry::{EntryFile, Starts};
use super::plan::{Planned, pcr};
use crate::artifact::Volume;
use crate::measurement::{Digest, PcrBank};

/// UTF-16LE with the NUL that ends it, as systemd-boot passes and measures command lines.
pub(super) fn utf16_with_nul(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

pub(super) fn hashed(banks: &[PcrBank], bytes: &[u8]) -> Vec<Digest> {
    banks.iter().map(|bank| bank.hash(bytes)).collect()
}

/// The measurements of an entry, in order; `file` is where it was read.
pub(super) fn plan(
    artifacts: &Artifacts<'_>,
    volume: Volume,
    entry: &EntryFile,
    file: Option<&str>,
) -> Vec<Planned> {
    let banks = artifacts.banks();
    let (path, is_linux) = match &entry.starts {
        Some(Starts::Linux(path)) => (path.as_str(), true),
        Some(Starts::Efi(path)) => (path.as_str(), false),
        None => return Vec::new(),
    };
    let mut planned = vec![artifacts.image_measurement(volume, path)];
    let source = file.map(str::to_owned);
    let options = entry.load_options();
    if let Some(options) = &options {
        planned.push(Planned {
            pcr: pcr(12),
            what: format!("command line {options}"),
            digests: Ok(hashed(banks, &utf16_with_nul(options))),
            source: source.clone(),
        });
    }
    if !is_linux {
        // What an arbitrary program measures is not known; `uki` entries are told by the caller.
        return planned;
    }
    // Without options the kernel measures none.
    planned.extend(options.map(|options| Planned {
        pcr: pcr(9),
        what: format!("{LOAD_OPTIONS}{options}"),
        digests: Ok(hashed(banks, &utf16_with_nul(&options))),
        source,
    }));
    planned.extend(initrd(artifacts, volume, &entry.initrds));
    planned
}

/// The initrd that the kernel measures: the files one after the other.
fn initrd(artifacts: &Artifacts<'_>, volume: Volume, files: &[String]) -> Option<Planned> {
    if files.is_empty() {
        return None;
    }
    let joined = artifacts.joined(volume, files, Joint::Unknown);
    let from_log = joined.as_ref().is_ok_and(|joined| joined.from_log);
    Some(Planned {
        pcr: pcr(9),
        what: "initrd that the kernel loaded".to_owned(),
        digests: joined.map(|joined| joined.digests),
        source: (!from_log).then(|| files.join(" ")),
    })
}
