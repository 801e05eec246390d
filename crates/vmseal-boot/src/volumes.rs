//! Which volumes belong to this boot, and what they must be.

use std::path::{Path, PathBuf};

use vmseal::Error;
use vmseal::boot::{BootVolume, KernelLine, Machine};
use vmseal::luks::{HeaderCopy, LuksError, Pin, Pins, PinsError};
use vmseal::token::Record;

use crate::args::{Args, Command};

const BY_UUID: &str = "/dev/disk/by-uuid";

/// The volumes of this boot and their pins.
pub struct Known {
    /// In the order in which they are opened.
    pub volumes: Vec<BootVolume>,
    pins: Result<Pins, PinsError>,
    /// Of the kernel command line, which wins: UUID and digest.
    digests: Vec<(String, String)>,
    file: PathBuf,
}

impl Known {
    /// Those that the arguments name; else those of crypttab, then those of the kernel command line
    /// that are pinned: there, others than vmseal's may stand too.
    pub fn of(args: &Args, machine: &Machine) -> Self {
        let line = machine.kernel_line();
        let pins = Pins::read(&args.pins);
        let volumes = match &args.command {
            Command::Unlock(pairs) if !pairs.is_empty() => {
                let header = args.header.clone();
                let volume = |(device, name): &(PathBuf, String)| BootVolume {
                    header: header.clone(),
                    ..BootVolume::new(name, device)
                };
                pairs.iter().map(volume).collect()
            }
            _ => of_system(&args.crypttab, &line, pins.as_ref().ok()),
        };
        Self { volumes, pins, digests: line.pins, file: args.pins.clone() }
    }

    /// The header on a volume's device, compared with its pin. What cannot be compared is not the
    /// pinned volume: stock tools may read in it what vmseal does not.
    pub fn check_header(&self, volume: &BootVolume) -> Result<(HeaderCopy, Pin), Error> {
        self.pins.as_ref().map_err(Clone::clone)?;
        let header = HeaderCopy::read(&volume.device, volume.header.as_deref()).map_err(
            |cause| match cause {
                LuksError::DeviceMissing { .. } => Error::Luks(cause),
                cause => Error::NotComparable { cause },
            },
        )?;
        let pin = self.pin(&header)?;
        pin.check_header(header.metadata())?;
        Ok((header, pin))
    }

    /// The pin of what is open under a name.
    pub fn pin_of(&self, name: &str, device: &Path) -> Result<Pin, Error> {
        let volume = self.volumes.iter().find(|volume| volume.name == name);
        let header = volume.and_then(|volume| volume.header.as_deref());
        let header =
            HeaderCopy::read(device, header).map_err(|cause| Error::NotComparable { cause })?;
        self.pin(&header)
    }

    fn pin(&self, header: &HeaderCopy) -> Result<Pin, Error> {
        let uuid = header.metadata().uuid().to_owned();
        let pins = self.pins.as_ref().map_err(Clone::clone)?;
        let digests = self.digests.iter().filter(|(pinned, _)| *pinned == uuid);
        let digests: Vec<_> = digests.map(|(_, digest)| digest.as_str()).collect();
        if !digests.is_empty() {
            let record =
                Record::find(&header.metadata().tokens()).and_then(|(_, found)| found.ok());
            let candidate = record.and_then(|record| record.pin);
            return Ok(pins.by_digest(&uuid, &digests, candidate.as_ref())?);
        }
        pins.get(&uuid)?.ok_or_else(|| Error::NoPin { uuid, pins: self.file.clone() })
    }
}

fn of_system(crypttab: &Path, line: &KernelLine, pins: Option<&Pins>) -> Vec<BootVolume> {
    // A crypttab that cannot be read names no volume; those of the command line are left.
    let text = std::fs::read(crypttab).unwrap_or_default();
    let mut volumes = BootVolume::of_crypttab(&String::from_utf8_lossy(&text));
    let pinned: Vec<_> = pins.iter().flat_map(|pins| pins.uuids()).collect();
    let is_ours = |volume: &BootVolume| {
        let uuid = volume.device.strip_prefix(BY_UUID).ok().and_then(Path::to_str);
        uuid.is_some_and(|uuid| {
            pinned.contains(&uuid) || line.pins.iter().any(|(pinned, _)| pinned == uuid)
        })
    };
    for volume in BootVolume::of_kernel_line(line) {
        let known = volumes.iter().any(|known| known.device == volume.device);
        if !known && is_ours(&volume) {
            volumes.push(volume);
        }
    }
    volumes
}
