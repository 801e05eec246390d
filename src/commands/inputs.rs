//! What commands gather: the TPM, the event logs, the pins.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use vmseal::Error;
use vmseal::boot::{self, BootLogs, EXPECTED_FOLDER, Mismatch, Sources};
use vmseal::measurement::diff::Expected;
use vmseal::token::{BootEntry, Record, SystemdTpm2};
use vmseal::tpm::{Connecting, Tcti, Tpm};

use super::terminal::Talk;
use crate::cli::Global;

/// Where the kernel shows the firmware's event log.
const FIRMWARE_LOG: &str = "sys/kernel/security/tpm0/binary_bios_measurements";
/// Where systemd keeps the log of what it measured itself.
const USERSPACE_LOG: &str = "run/log/systemd/tpm2-measure.log";

/// Connects to the TPM that `--tcti` names.
///
/// # Errors
/// [`Error::Tpm`].
pub fn tpm(global: &Global) -> Result<Tpm, Error> {
    Ok(begin_tpm(global)?.connected()?)
}

/// Begins to connect to the TPM that `--tcti` names.
///
/// # Errors
/// [`Error::Tpm`].
pub fn begin_tpm(global: &Global) -> Result<Connecting, Error> {
    Ok(Tpm::begin(&tcti(global)?, Duration::from_secs(global.timeout))?)
}

/// Parses `--tcti`.
///
/// # Errors
/// [`Error::Tpm`].
pub fn tcti(global: &Global) -> Result<Tcti, Error> {
    global.tcti.as_deref().map_or(Ok(Tcti::default()), |text| Ok(text.parse()?))
}

/// Where to look for approvals: the named signature files, then the system's.
///
/// # Errors
/// [`Error::SignatureFile`].
pub fn sources(global: &Global, files: &[PathBuf]) -> Result<Sources, Error> {
    let mut sources = Sources::below(&global.root);
    files.iter().try_for_each(|file| sources.add_file(file))?;
    Ok(sources)
}

/// Where the expected events of approved boots lie.
pub fn expected_folder(global: &Global) -> &Path {
    global.expected_folder.as_deref().unwrap_or(Path::new(EXPECTED_FOLDER))
}

/// The same, to be written to: not where the log is another system's, whose boots this one's `/boot`
/// knows nothing of.
pub fn own_expected_folder(global: &Global) -> Option<&Path> {
    let own = global.eventlog.is_none() || global.expected_folder.is_some();
    own.then(|| expected_folder(global))
}

/// Whether what is done is of the system that we run on, or of one that was named: not where only
/// the log is another system's.
pub fn is_own_system(global: &Global) -> bool {
    global.eventlog.is_none() || global.root != Path::new("/")
}

/// Whether a volume is one of this system's, as far as that is seen: an image file came from elsewhere.
pub fn is_of_system(global: &Global, device: &Path) -> bool {
    let is_disk = || device.metadata().is_ok_and(|found| found.file_type().is_block_device());
    let is_named = global.root != Path::new("/");
    is_own_system(global) && (is_named || is_disk())
}

/// Removes the expected events of a keyslot that is gone.
pub fn forget_expected(global: &Global, keyslot: u32, talk: Talk) {
    let removed = own_expected_folder(global).map(|folder| boot::remove_expected(folder, keyslot));
    if let Some(Err(error)) = removed {
        talk.remark(format_args!("the expected events of keyslot {keyslot} stay: {error}"));
    }
}

/// The command line of this system, where the log is this system's too.
pub fn cmdline(global: &Global) -> Option<String> {
    let path = global.root.join("proc/cmdline");
    let text = global.eventlog.is_none().then(|| std::fs::read_to_string(path))?.ok()?;
    Some(text.trim_end_matches('\n').to_owned())
}

/// The recorded boot that a mismatch of a token is from, and the events that were expected of it.
pub fn expected_boot(
    global: &Global,
    tokens: &BTreeMap<u32, Value>,
    token: u32,
    mismatch: &Mismatch,
) -> Option<(BootEntry, Option<Expected>)> {
    let token = SystemdTpm2::parse(tokens.get(&token)?).ok()?;
    let (_, record) = Record::find(tokens)?;
    let entry = mismatch.entry(Some(&record.ok()?), &token)?.clone();
    // A file that cannot be read only costs the words.
    let expected = boot::read_expected(expected_folder(global), &entry).unwrap_or_default();
    Some((entry, expected))
}

/// Words a mismatch by the events that were expected, where they are at hand.
pub fn name_causes(
    global: &Global,
    tokens: &BTreeMap<u32, Value>,
    token: u32,
    mismatch: &mut Mismatch,
    logs: &BootLogs,
) {
    if let Some((_, Some(expected))) = expected_boot(global, tokens, token, mismatch) {
        mismatch.name_causes(&expected, logs, cmdline(global).as_deref());
    }
}

/// The block devices of the system, in the order of their names.
pub fn block_devices(global: &Global) -> Vec<PathBuf> {
    let folder = global.root.join("sys/class/block");
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut devices: Vec<_> = entries
        .flatten()
        .map(|entry| global.root.join("dev").join(entry.file_name()))
        .filter(|path| path.exists())
        .collect();
    devices.sort();
    devices
}

/// The logs of the running system, or those that were named.
///
/// # Errors
/// [`Error::LogMissing`], [`Error::LogMalformed`].
pub fn boot_logs(
    global: &Global,
    firmware: Option<&Path>,
    userspace: Option<&Path>,
) -> Result<BootLogs, Error> {
    // The running system's second log says nothing about another boot's first.
    let second: Option<PathBuf> = match (firmware, userspace) {
        (_, Some(path)) => Some(path.to_owned()),
        (None, None) => Some(global.root.join(USERSPACE_LOG)).filter(|path| path.exists()),
        (Some(_), None) => None,
    };
    let first = firmware.map_or_else(|| global.root.join(FIRMWARE_LOG), Path::to_owned);
    BootLogs::read(&first, second.as_deref())
}
