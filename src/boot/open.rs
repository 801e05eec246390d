//! Opening a volume with a released key, then latching.

use crate::error::Error;
use crate::luks::{ActivateOptions, HeaderCopy, deactivate};
use crate::tpm::Tpm;

use super::latch::{latch, latch_volume};
use super::release::Released;

/// A volume to be opened.
pub struct Opening<'a> {
    /// The header that was checked: this very copy is activated.
    pub header: &'a mut HeaderCopy,
    /// Name of the device-mapper device.
    pub name: &'a str,
    /// The key that the TPM gave access to.
    pub released: &'a Released,
}

/// Opens the volumes, then latches once for each. Where the latch fails, they are closed again:
/// nothing may run from a volume whose key the TPM would release once more.
///
/// # Errors
/// The first activation that fails, after the latch; or the latch's own failure.
pub fn open_and_latch(tpm: &Tpm, volumes: &mut [Opening<'_>]) -> Result<(), Error> {
    let mut opened = Vec::new();
    let mut failure = None;
    for volume in volumes {
        let options = ActivateOptions::default();
        match volume.header.activate(volume.name, &volume.released.key, options) {
            Ok(()) => opened.push(volume),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    // Where no volume opened, the fixed word keeps the released keys from coming out again.
    let latched = if opened.is_empty() {
        latch(tpm).map(|_| ())
    } else {
        opened.iter().try_for_each(|volume| {
            let uuid = volume.header.metadata().uuid();
            latch_volume(tpm, &volume.released.key, volume.name, uuid)
        })
    };
    if let Err(error) = latched {
        for volume in opened {
            if deactivate(volume.name).is_err() {
                let name = volume.name.to_owned();
                return Err(Error::StillOpen { name, cause: error });
            }
        }
        return Err(error.into());
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}
