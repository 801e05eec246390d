//! Where the expected events of approved boots lie: `/boot/vmseal/expected-N.json`, N a keyslot.
//! They only word explanations, so that whatever goes wrong with them stops nothing.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::measurement::diff::{Expected, ExpectedError};
use crate::token::BootEntry;

/// Where they lie in the running system.
pub const EXPECTED_FOLDER: &str = "/boot/vmseal";

fn file(folder: &Path, keyslot: u32) -> PathBuf {
    folder.join(format!("expected-{keyslot}.json"))
}

/// Writes the expected events of a keyslot's boot: another name first, then renamed.
///
/// # Errors
/// The system's; [`io::ErrorKind::FileTooLarge`] where there are more events than a file holds.
pub fn write_expected(folder: &Path, keyslot: u32, expected: &Expected) -> io::Result<()> {
    let text = expected.to_json().ok_or(io::ErrorKind::FileTooLarge)?;
    fs::create_dir_all(folder)?;
    let (path, new) = (file(folder, keyslot), folder.join(format!(".expected-{keyslot}.new")));
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)
}

/// Removes the expected events of a keyslot's boot; there may be none.
///
/// # Errors
/// The system's.
pub fn remove_expected(folder: &Path, keyslot: u32) -> io::Result<()> {
    match fs::remove_file(file(folder, keyslot)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The expected events of a recorded boot: `None` where there are none, or those of another boot.
///
/// # Errors
/// [`ExpectedError`] where the file is none.
pub fn read_expected(folder: &Path, entry: &BootEntry) -> Result<Option<Expected>, ExpectedError> {
    let mut bytes = Vec::new();
    // A FIFO in place of the file would wait for ever.
    let path = file(folder, entry.keyslot);
    let is_file = fs::metadata(&path).is_ok_and(|metadata| metadata.is_file());
    let read =
        |path: &Path| File::open(path)?.take(Expected::MAX_LEN as u64 + 1).read_to_end(&mut bytes);
    if !is_file || { read }(&path).is_err() {
        return Ok(None);
    }
    let expected = Expected::parse(&bytes)?;
    let is_of_entry = expected.policy_hash == entry.policy_hash.to_string()
        && expected.bank == entry.values.bank();
    Ok(is_of_entry.then_some(expected))
}
