//! `/var/lib/vmseal/tpm2-pcr-signature.json`: what this machine's key has signed, in systemd's form,
//! for whoever brings it to a boot without `vmseal-boot`.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::luks::MetadataLock;
use crate::policy::{AuthorityKey, PolicyDigest, Signatures, verified};
use crate::public_file;

/// The file, below the root.
pub const SIGNATURE_FILE: &str = "var/lib/vmseal/tpm2-pcr-signature.json";
const PATIENCE: Duration = Duration::from_secs(5);

/// Adds `new` to the file below `root`. Of what it held only signatures stay that one of `keys` made,
/// and not for a policy in `withdrawn`.
///
/// # Errors
/// The system's. The file is then as it was.
pub fn leave_signatures(
    root: &Path,
    keys: &[&AuthorityKey],
    new: &Signatures,
    withdrawn: &[PolicyDigest],
) -> io::Result<PathBuf> {
    let path = root.join(SIGNATURE_FILE);
    let folder = path.parent().unwrap_or(root);
    // The journal and the state lie there too.
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let _lock = MetadataLock::acquire(folder, PATIENCE).map_err(io::Error::other)?;
    let mut signatures = verified(&read(&path), keys);
    signatures.retain(|_, approved, _| !withdrawn.iter().any(|gone| gone.as_bytes() == approved));
    signatures.merge(verified(new, keys));
    public_file::replace(&path, format!("{}\n", signatures.to_json()).as_bytes())?;
    Ok(path)
}

/// What the file holds. One that cannot be read holds nothing: it is a copy.
fn read(path: &Path) -> Signatures {
    let mut signatures = Signatures::default();
    let mut bytes = Vec::new();
    let limit = Signatures::MAX_LEN as u64 + 1;
    let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    if is_file && File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).is_ok()
    {
        let _ = signatures.add_json(&bytes);
    }
    signatures
}
