//! Where approvals of PCR values lie outside the header: signature files and pcrlock policies.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::policy_disk;
use crate::error::Error;
use crate::policy::{Pcrlock, Signatures};

/// What the host hands to a guest of QEMU. The module `qemu_fw_cfg` shows it.
const FW_CFG: &str = "sys/firmware/qemu_fw_cfg/by_name/opt/org.vmseal/policy/raw";
/// systemd's search path for `tpm2-pcr-signature.json` (`load_volume_key` and `conf-files`), and
/// what systemd-stub hands to the guest.
const SIGNATURE_FILES: [&str; 5] = [
    "etc/systemd/tpm2-pcr-signature.json",
    "run/systemd/tpm2-pcr-signature.json",
    "usr/local/lib/systemd/tpm2-pcr-signature.json",
    "usr/lib/systemd/tpm2-pcr-signature.json",
    ".extra/tpm2-pcr-signature.json",
];
/// Where systemd-pcrlock writes its policy, and where it is looked for (`tpm2_pcrlock_policy_load`).
const PCRLOCK_FILES: [&str; 2] = ["run/systemd/pcrlock.json", "var/lib/systemd/pcrlock.json"];
/// Where the copies of it for the initrd arrive (`pcrlock_policy_load_credential`).
const CREDENTIAL_FOLDERS: [&str; 3] =
    ["run/credentials/@encrypted", ".extra/global_credentials", ".extra/credentials"];
/// Most copies of a pcrlock policy that are read: one for each installed system.
const MAX_CREDENTIALS: usize = 16;
/// Reads a value of this VM from QubesDB.
const QUBESDB_READ: &str = "usr/bin/qubesdb-read";
const QUBESDB_KEY: &str = "/vm-config/vmseal-policy";
const QUBESDB_WAIT: Duration = Duration::from_secs(2);

/// Approvals of PCR values, from all sources together.
#[derive(Debug, Clone, Default)]
pub struct Approvals {
    /// Signed PCR values.
    pub signatures: Signatures,
    /// pcrlock policies.
    pub pcrlock: Vec<Pcrlock>,
}

/// Where to look for approvals.
#[derive(Debug, Clone)]
pub struct Sources {
    root: PathBuf,
    given: Signatures,
}

impl Sources {
    /// Most bytes that are read of what the host hands over: the guest reads it byte by byte.
    pub const MAX_FW_CFG: usize = 64 << 10;

    /// The running system's, below `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), given: Signatures::default() }
    }

    /// Adds a signature file that somebody named.
    ///
    /// # Errors
    /// [`Error::SignatureFile`] for one that cannot be read: whoever named it counts on it.
    pub fn add_file(&mut self, path: &Path) -> Result<(), Error> {
        let refused = |cause: String| Error::SignatureFile { path: path.to_owned(), cause };
        let bytes = read(path, Signatures::MAX_LEN).map_err(|error| refused(error.to_string()))?;
        self.given.add_json(&bytes).map_err(|error| refused(error.to_string()))
    }

    /// How many disks hold signatures.
    pub fn disks(&self) -> usize {
        policy_disk::read_all(&self.root).len()
    }

    /// Waits for more of them than there were: one may appear a moment after the volume's. Returns
    /// whether it did.
    pub fn await_disk(&self, before: usize, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            if self.disks() > before {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Every approval there is. One source that cannot be read hides none of the others.
    pub fn gather(&self) -> Approvals {
        let mut approvals = Approvals { signatures: self.given.clone(), pcrlock: vec![] };
        let host = read(&self.root.join(FW_CFG), Self::MAX_FW_CFG).ok();
        let files = SIGNATURE_FILES.iter().filter_map(|path| self.read(path));
        let disks = policy_disk::read_all(&self.root);
        for bytes in host.into_iter().chain(files).chain(self.qubesdb()).chain(disks) {
            let _ = approvals.signatures.add_json(&bytes);
        }
        let plain = PCRLOCK_FILES.iter().filter_map(|path| Pcrlock::parse(&self.read(path)?).ok());
        let copies = self.credentials().filter_map(|bytes| Pcrlock::from_credential(&bytes).ok());
        for policy in plain.chain(copies) {
            if !approvals.pcrlock.contains(&policy) {
                approvals.pcrlock.push(policy);
            }
        }
        approvals
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        read(&self.root.join(path), Signatures::MAX_LEN).ok()
    }

    fn credentials(&self) -> impl Iterator<Item = Vec<u8>> {
        let folders = CREDENTIAL_FOLDERS.iter().map(|folder| self.root.join(folder));
        let entries = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("pcrlock."))
            .take(MAX_CREDENTIALS)
            .filter_map(|entry| read(&entry.path(), Signatures::MAX_LEN).ok())
    }

    /// What dom0 left in QubesDB, where this is a Qubes VM. A daemon that does not answer must not
    /// hold up the boot.
    fn qubesdb(&self) -> Option<Vec<u8>> {
        let program = self.root.join(QUBESDB_READ);
        if !program.exists() {
            return None;
        }
        let mut child = Command::new(program)
            .arg(QUBESDB_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let until = Instant::now() + QUBESDB_WAIT;
        while child.try_wait().ok()?.is_none() {
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // A value has at most 3072 bytes: it waits in the pipe.
        let mut bytes = Vec::new();
        child.stdout?.take(4096).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// A file of at most `limit` bytes.
fn read(path: &Path, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(std::io::Error::other("it is too long"));
    }
    Ok(bytes)
}
