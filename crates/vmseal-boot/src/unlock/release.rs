//! Opening by the TPM.

use std::cell::RefCell;
use std::time::Duration;

use vmseal::Error;
use vmseal::boot::{
    self, BootLogs, BootVolume, Means, OpenedBy, Released, Sources, TpmState, Unmeasured,
};
use vmseal::exit::Exit;
use vmseal::measurement::{PcrBank, PcrIndex, PcrSelection};
use vmseal::secret::TypedPin;
use vmseal::tpm::{Connecting, Tpm, TpmError};

use super::{Pass, Waiting, told};
use crate::say::say;

/// How often a PIN may be typed wrong. Each time brings the TPM's lockout nearer.
const PIN_TRIES: u32 = 3;
/// How much later than the volume the disk may appear by which a host hands over signatures.
const LATE_DISK: Duration = Duration::from_secs(1);

impl Pass<'_> {
    /// The TPM, where there is something to ask it for.
    pub(super) fn tpm(&mut self, early: Result<Connecting, TpmError>) -> Option<Tpm> {
        let connecting = match early {
            Ok(connecting) => Ok(Some(connecting)),
            Err(TpmError::Absent { .. }) => self.args.connect(self.machine),
            Err(error) => Err(error),
        };
        let failure = match connecting {
            Ok(Some(connecting)) => match connecting.connected() {
                Ok(tpm) => {
                    self.report.tpm = TpmState::Ready;
                    return Some(tpm);
                }
                Err(error) => error,
            },
            Ok(None) => {
                self.report.tpm = TpmState::None;
                let tcti = self.args.tcti.to_string();
                TpmError::Absent { tcti, cause: "the firmware shows none".into() }
            }
            Err(error) => error,
        };
        if !matches!(failure, TpmError::Absent { .. }) || self.machine.shows_tpm() {
            self.report.tpm = TpmState::Failed;
        }
        let error = Error::from(failure);
        if !self.waiting.is_empty() {
            say(&error);
        }
        for waiting in &mut self.waiting {
            waiting.exit = error.exit();
            let uuid = Some(waiting.header.metadata().uuid());
            self.report.note_volume(told(&waiting.volume, uuid, waiting.exit, Some(&error)));
        }
        None
    }

    /// Lets the TPM open what it opens. Where a volume was opened and cannot be measured, it is
    /// closed again: nothing may run from a volume whose key the TPM would release once more.
    pub(super) fn release_all(&mut self, tpm: &Tpm) {
        tpm.begin_bounded();
        let off = self.machine.kernel_line().off;
        if off && !self.waiting.is_empty() {
            say("vmseal=off on the kernel command line: the TPM is not asked");
        }
        for mut waiting in std::mem::take(&mut self.waiting) {
            let name = waiting.volume.name.clone();
            let tried = self.report.volumes.iter().find(|known| known.name == name);
            if let Some(exit) = tried.map(|known| known.exit).filter(|exit| !is_first(*exit)) {
                // The TPM was asked in an earlier pass, and is latched since.
                waiting.exit = Exit::from_code(exit);
                self.waiting.push(waiting);
                continue;
            }
            let outcome = match off {
                true => Err(Error::NoToken),
                false => self.release(tpm, &mut waiting),
            };
            let uuid = waiting.header.metadata().uuid().to_owned();
            match outcome {
                Ok(released) => {
                    say(format_args!("opened {name}"));
                    self.report.unmeasured.push(Unmeasured::of(&released.key, &name, &uuid));
                    let mut told = told(&waiting.volume, Some(&uuid), Exit::Done, None);
                    (told.by, told.token) = (Some(OpenedBy::Tpm), Some(released.token));
                    told.keyslot = Some(released.keyslot);
                    self.report.note_volume(told);
                    self.outcomes.push((name, Exit::Done));
                }
                Err(error) => {
                    if !off {
                        let device = waiting.volume.device.display();
                        say(format_args!("{device}: {error}"));
                    }
                    waiting.exit = error.exit();
                    let told = told(&waiting.volume, Some(&uuid), waiting.exit, Some(&error));
                    self.report.note_volume(told);
                    match waiting.exit {
                        Exit::NotPinned => self.outcomes.push((name, Exit::NotPinned)),
                        _ => self.waiting.push(waiting),
                    }
                }
            }
        }
        self.report.log = self.machine.log_position();
        if self.report.pcrs.is_empty() && self.opened_by_tpm().is_empty() {
            // Nothing was released: what holds instead is worth two commands.
            let all = (0..16).filter_map(|pcr| PcrIndex::new(pcr).ok());
            let all = PcrSelection::new(PcrBank::Sha256, all);
            if let Ok(values) = tpm.read_pcrs(&[all]) {
                self.report.note_pcrs(&values);
            }
        }
    }

    fn release(&mut self, tpm: &Tpm, waiting: &mut Waiting) -> Result<Released, Error> {
        let Waiting { volume, header, pin, .. } = waiting;
        let sources = self.sources();
        let seen = RefCell::new(vec![]);
        let firmware_log = self.machine.firmware_log();
        let (mut tries, disks) = (0, sources.disks());
        let released = loop {
            tries += 1;
            let means = Means {
                approvals: &|| sources.gather(),
                pin: &|lockout| {
                    let prompt = match lockout.counter {
                        0 => format!("PIN of disk {}: ", volume.name),
                        _ => format!("PIN of disk {} ({lockout}): ", volume.name),
                    };
                    let typed = self.typed_pin(volume, tries, &prompt);
                    // Whoever types slowly takes no time from the TPM.
                    tpm.begin_bounded();
                    typed
                },
                seen: &|values| seen.borrow_mut().extend_from_slice(values),
                logs: &|| BootLogs::read(&firmware_log, None).ok(),
            };
            match boot::release(tpm, header, Some(pin), &means) {
                Err(error @ Error::WrongPin { .. }) if tries < PIN_TRIES => {
                    say(format_args!("{}: {error}", volume.device.display()));
                }
                // Once for all volumes: who has no such disk waits for it in vain.
                Err(Error::Unapproved { .. })
                    if !self.awaited_disk.replace(true) && sources.await_disk(disks, LATE_DISK) => {
                }
                outcome => break outcome,
            }
        };
        self.report.note_pcrs(&seen.into_inner());
        let released = released?;
        let key = &released.key;
        if let Err(error) = header.activate(&volume.name, key, volume.options) {
            // The key came out and opens nothing: it must not come out again.
            let uuid = header.metadata().uuid();
            self.report.unmeasured.push(Unmeasured::of(key, &volume.name, uuid));
            return Err(error.into());
        }
        Ok(released)
    }

    fn typed_pin(&self, volume: &BootVolume, tries: u32, prompt: &str) -> Result<TypedPin, Error> {
        let nobody = |cause: String| Error::PinNeeded { cause };
        let asker = self.args.ask.as_ref();
        let asker = asker.ok_or_else(|| nobody("the boot step does not ask for it".into()))?;
        let mut typed =
            asker.ask(volume, tries - 1, prompt).map_err(|error| nobody(error.to_string()))?;
        if typed.is_empty() {
            return Err(nobody("none was typed".into()));
        }
        Ok(TypedPin::new(std::mem::take(&mut *typed)))
    }

    fn sources(&self) -> Sources {
        let mut sources = Sources::below(self.machine.root());
        for file in &self.args.signatures {
            // The other sources may still do.
            if let Err(error) = sources.add_file(file) {
                say(error);
            }
        }
        sources
    }
}

/// Whether the TPM has yet to be asked for a volume that ended so.
fn is_first(exit: u8) -> bool {
    [Exit::Done, Exit::Refused].iter().any(|first| first.code() == exit)
}
