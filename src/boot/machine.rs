//! What the boot step asks of the machine besides its TPM and its disks.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

use super::kernel_line::KernelLine;
use super::report::LogPosition;

/// Where the kernel shows the firmware's event log, once securityfs is mounted.
const FIRMWARE_LOG: &str = "sys/kernel/security/tpm0/binary_bios_measurements";
const SECURITYFS: &str = "sys/kernel/security";
const USERSPACE_LOG: &str = "run/log/systemd/tpm2-measure.log";
/// The firmware's table that announces a TPM, and the class of those the kernel drives.
const TPM_TABLE: &str = "sys/firmware/acpi/tables/TPM2";
const TPM_CLASS: &str = "sys/class/tpm";

/// The machine, as the kernel shows it below a root.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// The machine that shows itself below `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The kernel command line; an empty one where it cannot be read.
    pub fn kernel_line(&self) -> KernelLine {
        let text = fs::read(self.root.join("proc/cmdline")).unwrap_or_default();
        KernelLine::parse(&String::from_utf8_lossy(&text))
    }

    /// Whether firmware or kernel show a TPM, working or not.
    pub fn shows_tpm(&self) -> bool {
        let has_device =
            |path: &Path| fs::read_dir(path).is_ok_and(|mut list| list.next().is_some());
        self.root.join(TPM_TABLE).exists() || has_device(&self.root.join(TPM_CLASS))
    }

    /// Whether a volume of this name is open.
    pub fn is_open(&self, name: &str) -> bool {
        self.root.join("dev/mapper").join(name).symlink_metadata().is_ok()
    }

    /// Milliseconds since the kernel started.
    pub fn uptime(&self) -> Option<u128> {
        let text = fs::read_to_string(self.root.join("proc/uptime")).ok()?;
        let seconds: f64 = text.split(' ').next()?.parse().ok()?;
        Some((seconds * 1000.0) as u128)
    }

    /// The firmware's event log. Mounts securityfs where nothing did: it is part of /sys, and stays.
    pub fn firmware_log(&self) -> PathBuf {
        let path = self.root.join(FIRMWARE_LOG);
        if !path.exists() {
            let folder = self.root.join(SECURITYFS);
            // Without it a refusal names PCRs only.
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            let _ = mount("securityfs", &folder, "securityfs", flags, None);
        }
        path
    }

    /// How long the logs are now.
    pub fn log_position(&self) -> LogPosition {
        // The kernel's file tells no length of its own.
        let length = |path: PathBuf| io::copy(&mut File::open(path).ok()?, &mut io::sink()).ok();
        LogPosition {
            firmware_bytes: length(self.firmware_log()),
            userspace_bytes: length(self.root.join(USERSPACE_LOG)),
        }
    }
}
