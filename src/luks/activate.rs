//! Opening a volume as a device-mapper device, and closing it.

use libcryptsetup_rs_sys as sys;
use rustix::io::Errno;

use super::error::LuksError;
use super::header::HeaderCopy;
use crate::ffi::cryptsetup as ffi;
use crate::secret::VolumeKey;

/// How a volume is opened: the options of crypttab that change the mapping. Flags stored in the
/// header (`cryptsetup --persistent`) are honoured too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActivateOptions {
    /// `read-only`
    pub read_only: bool,
    /// `discard`
    pub allow_discards: bool,
    /// `no-read-workqueue`
    pub no_read_workqueue: bool,
    /// `no-write-workqueue`
    pub no_write_workqueue: bool,
    /// `same-cpu-crypt`
    pub same_cpu_crypt: bool,
    /// `submit-from-crypt-cpus`
    pub submit_from_crypt_cpus: bool,
}

impl ActivateOptions {
    fn flags(self) -> u32 {
        // The key goes through the kernel keyring, so that no table dump shows it.
        [
            (true, sys::CRYPT_ACTIVATE_KEYRING_KEY),
            (self.read_only, sys::CRYPT_ACTIVATE_READONLY),
            (self.allow_discards, sys::CRYPT_ACTIVATE_ALLOW_DISCARDS),
            (self.no_read_workqueue, sys::CRYPT_ACTIVATE_NO_READ_WORKQUEUE),
            (self.no_write_workqueue, sys::CRYPT_ACTIVATE_NO_WRITE_WORKQUEUE),
            (self.same_cpu_crypt, sys::CRYPT_ACTIVATE_SAME_CPU_CRYPT),
            (self.submit_from_crypt_cpus, sys::CRYPT_ACTIVATE_SUBMIT_FROM_CRYPT_CPUS),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |flags, (_, flag)| flags | flag)
    }
}

impl HeaderCopy {
    /// Opens the volume as `/dev/mapper/NAME`, by this copy of its header.
    ///
    /// # Errors
    /// [`LuksError::ForeignVolumeKey`]; [`LuksError::NameInUse`]; [`LuksError::Busy`] when the data
    /// device is in use; [`LuksError::Library`] when the kernel refuses, without device-mapper say.
    pub fn activate(
        &mut self,
        name: &str,
        key: &VolumeKey,
        options: ActivateOptions,
    ) -> Result<(), LuksError> {
        let data = &self.data;
        self.context.activate(name, key, options.flags()).map_err(|failure| {
            match Errno::from_raw_os_error(failure.errno) {
                // The key is compared with the digest of the data once more.
                Errno::PERM => LuksError::ForeignVolumeKey,
                Errno::EXIST => LuksError::NameInUse { name: name.to_owned() },
                Errno::BUSY => LuksError::Busy { path: data.clone() },
                _ => LuksError::library("open the volume", failure),
            }
        })
    }
}

/// Closes `/dev/mapper/NAME`.
///
/// # Errors
/// [`LuksError::NotActive`]; [`LuksError::Busy`] while it is mounted or otherwise in use.
pub fn deactivate(name: &str) -> Result<(), LuksError> {
    ffi::deactivate(name).map_err(|failure| match Errno::from_raw_os_error(failure.errno) {
        Errno::NODEV => LuksError::NotActive { name: name.to_owned() },
        Errno::BUSY => LuksError::Busy { path: format!("/dev/mapper/{name}").into() },
        _ => LuksError::library("close the volume", failure),
    })
}
