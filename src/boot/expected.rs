//! Where the expected events of approved boots lie: `/boot/vmseal/expected-N.json`, N a keyslot, and
//! `expected-N-ID.json` of further boots that open the same one.
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

fn further_file(folder: &Path, keyslot: u32, id: &str) -> PathBuf {
    folder.join(format!("expected-{keyslot}-{id}.json"))
}

/// Writes the expected events of a keyslot's boot: another name first, then renamed.
///
/// # Errors
/// The system's; [`io::ErrorKind::FileTooLarge`] where there are more events than a file holds.
pub fn write_expected(folder: &Path, keyslot: u32, expected: &Expected) -> io::Result<()> {
    write(folder, &file(folder, keyslot), expected)
}

/// Writes those of a further boot, whose [`boot_id`](crate::token::boot_id) is `id`.
///
/// # Errors
/// As [`write_expected`].
pub fn write_further_expected(
    folder: &Path,
    keyslot: u32,
    id: &str,
    expected: &Expected,
) -> io::Result<()> {
    write(folder, &further_file(folder, keyslot, id), expected)
}

/// Removes those of further boots of a keyslot but for these.
///
/// # Errors
/// The system's.
pub fn keep_further_expected(folder: &Path, keyslot: u32, ids: &[String]) -> io::Result<()> {
    let kept: Vec<_> = ids.iter().map(|id| further_file(folder, keyslot, id)).collect();
    let start = format!("expected-{keyslot}-");
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&start) && !kept.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn write(folder: &Path, path: &Path, expected: &Expected) -> io::Result<()> {
    let text = expected.to_json().ok_or(io::ErrorKind::FileTooLarge)?;
    fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Removes the expected events of a keyslot's boots; there may be none.
///
/// # Errors
/// The system's.
pub fn remove_expected(folder: &Path, keyslot: u32) -> io::Result<()> {
    keep_further_expected(folder, keyslot, &[])?;
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
    let is_there = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    let further = further_file(folder, entry.keyslot, &entry.id());
    let path = if is_there(&further) { further } else { file(folder, entry.keyslot) };
    let is_file = is_there(&path);
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
