//! What commands gather: the TPM, the event logs, the pins.

use std::path::{Path, PathBuf};
use std::time::Duration;

use vmseal::Error;
use vmseal::boot::{BootLogs, Sources};
use vmseal::tpm::{Connecting, Tcti, Tpm};

use crate::cli::Global;

/// Where the kernel shows the firmware's event log.
const FIRMWARE_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// Where systemd keeps the log of what it measured itself.
const USERSPACE_LOG: &str = "/run/log/systemd/tpm2-measure.log";

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

/// The logs of the running system, or those that were named.
///
/// # Errors
/// [`Error::LogMissing`], [`Error::LogMalformed`].
pub fn boot_logs(firmware: Option<&Path>, userspace: Option<&Path>) -> Result<BootLogs, Error> {
    // The running system's second log says nothing about another boot's first.
    let second: Option<PathBuf> = match (firmware, userspace) {
        (_, Some(path)) => Some(path.to_owned()),
        (None, None) => Some(PathBuf::from(USERSPACE_LOG)).filter(|path| path.exists()),
        (Some(_), None) => None,
    };
    BootLogs::read(firmware.unwrap_or(Path::new(FIRMWARE_LOG)), second.as_deref())
}
