//! Opening the volumes of this boot: by the TPM, else by a passphrase that somebody types.

mod release;
mod typed;

use std::cell::Cell;
use std::time::{Duration, Instant};

use vmseal::Error;
use vmseal::boot::{
    self, BootReport, BootVolume, LatchState, Machine, OpenedBy, TpmState, VolumeReport,
};
use vmseal::exit::Exit;
use vmseal::luks::{HeaderCopy, LuksError, Pin, Pins, deactivate};
use vmseal::tpm::{Tpm, TpmError};

use crate::args::Args;
use crate::bars::latch_tpm;
use crate::say::{advice, say, show};
use crate::volumes::Known;

/// How often missing devices are looked for.
const LOOK: Duration = Duration::from_millis(50);

/// One pass over the volumes of this boot.
pub struct Pass<'a> {
    args: &'a Args,
    machine: &'a Machine,
    known: Known,
    report: BootReport,
    /// Whether PCR 15 was extended in this pass.
    latched: bool,
    /// Whether a disk of the host's was waited for.
    awaited_disk: Cell<bool>,
    /// In the order of the volumes: what is still to be opened.
    waiting: Vec<Waiting>,
    outcomes: Vec<(String, Exit)>,
}

/// A volume whose header is the pinned one, and that is not open.
struct Waiting {
    volume: BootVolume,
    header: HeaderCopy,
    pin: Pin,
    exit: Exit,
}

impl<'a> Pass<'a> {
    /// Begins a pass, after those that the report tells of.
    pub fn new(args: &'a Args, machine: &'a Machine) -> Self {
        let mut report = BootReport::read(machine.root()).unwrap_or_default();
        if let (Some(uptime), false) = (machine.uptime(), report.phases.contains_key("start")) {
            report.note_phase("start", uptime);
        }
        report.pins_sha256 = Pins::file_digest(&args.pins).ok();
        let known = Known::of(args, machine);
        Self {
            args,
            machine,
            known,
            report,
            latched: false,
            awaited_disk: Cell::new(false),
            waiting: vec![],
            outcomes: vec![],
        }
    }

    /// Opens what can be opened, then latches, unless a device that may still appear is missing. A
    /// volume that is not the pinned one is fatal for it, with or without a TPM, and whatever
    /// becomes of the others.
    ///
    /// Returns the exit code, and that of each volume that was handled.
    pub fn run(mut self) -> (Exit, Vec<(String, Exit)>) {
        // Connecting says nothing to the TPM yet; it is ready when the headers have been compared.
        let early = Tpm::begin(&self.args.tcti, self.args.timeout);
        let missing = self.timed("headers", Self::check_headers);
        let barred = self.is_barred();
        let is_latched = self.report.latch == LatchState::Done && self.report.unmeasured.is_empty();
        if self.waiting.is_empty() && (is_latched || (missing && !barred)) {
            return self.end(false);
        }
        let tpm = self.timed("tpm", |pass| pass.tpm(early));
        if let Some(tpm) = &tpm {
            self.timed("release", |pass| pass.release_all(tpm));
        }
        let barred = self.is_barred();
        let last = !missing || barred;
        if last && !self.report.unmeasured.is_empty() {
            self.latch(tpm.as_ref());
        }
        self.advise();
        let asked = self.timed("prompt", Self::ask_all);
        if last {
            self.latch(tpm.as_ref());
        }
        for waiting in std::mem::take(&mut self.waiting) {
            self.outcomes.push((waiting.volume.name, waiting.exit));
        }
        self.end(asked.is_err())
    }

    fn is_barred(&self) -> bool {
        self.outcomes.iter().any(|(_, exit)| *exit == Exit::NotPinned)
    }

    /// Writes the report, and tells how the pass ended. Where nobody could be asked, somebody else
    /// must.
    fn end(self, unasked: bool) -> (Exit, Vec<(String, Exit)>) {
        if let Err(error) = self.report.write(self.machine.root()) {
            say(format_args!("cannot write {}: {error}", boot::BOOT_REPORT));
        }
        let mut exits = self.outcomes.iter().map(|(_, exit)| *exit);
        let exit = match (self.is_barred(), unasked) {
            (true, _) => Exit::NotPinned,
            (false, true) => Exit::Internal,
            (false, false) => exits.find(|exit| *exit != Exit::Done).unwrap_or(Exit::Done),
        };
        (exit, self.outcomes)
    }

    fn timed<T>(&mut self, phase: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let start = Instant::now();
        let done = work(self);
        self.report.note_phase(phase, start.elapsed().as_millis());
        done
    }

    /// Compares every header with its pin. Returns whether a device is missing.
    fn check_headers(&mut self) -> bool {
        let machine = self.machine;
        let mut volumes = std::mem::take(&mut self.known.volumes);
        volumes.retain(|volume| !machine.is_open(&volume.name));
        let until = Instant::now() + self.args.wait;
        while volumes.iter().any(|volume| !volume.device.exists()) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        let mut missing = false;
        for volume in volumes {
            if self.report.is_barred(&volume.name) {
                say(format_args!("{}: not the pinned volume, as before", volume.name));
                self.outcomes.push((volume.name, Exit::NotPinned));
                continue;
            }
            match self.known.check_header(&volume) {
                Ok((header, pin)) => {
                    self.waiting.push(Waiting { volume, header, pin, exit: Exit::Done });
                }
                Err(error) => {
                    let is_missing = matches!(error, Error::Luks(LuksError::DeviceMissing { .. }));
                    missing |= is_missing;
                    // Pins that cannot be read compare with nothing.
                    let exit = match error {
                        Error::Pins(_) => Exit::NotPinned,
                        _ => error.exit(),
                    };
                    // A device that is waited for is said once.
                    let known = self.report.volumes.iter().any(|said| said.name == volume.name);
                    if !(is_missing && known) {
                        say(format_args!("{}: {error}", volume.device.display()));
                    }
                    self.report.note_volume(told(&volume, None, exit, Some(&error)));
                    self.outcomes.push((volume.name, exit));
                }
            }
        }
        missing
    }

    /// Says what to do, before anybody is asked for anything.
    fn advise(&self) {
        let waiting = self.waiting.iter().map(|waiting| waiting.exit);
        let all = waiting.chain(self.outcomes.iter().map(|(_, exit)| *exit));
        let worst = all.filter(|exit| *exit != Exit::Done).reduce(|worst, exit| match exit {
            Exit::NotPinned => exit,
            _ => worst,
        });
        if let Some(exit) = worst {
            say(advice(exit));
            show(&advice(exit));
        }
    }

    /// What the TPM opened in this pass.
    fn opened_by_tpm(&self) -> Vec<String> {
        let by_tpm = |name: &str| {
            let known = self.report.volumes.iter().find(|known| known.name == name);
            known.is_some_and(|known| known.by == Some(OpenedBy::Tpm))
        };
        let opened = self.outcomes.iter().filter(|(_, exit)| *exit == Exit::Done);
        opened.map(|(name, _)| name.clone()).filter(|name| by_tpm(name)).collect()
    }

    /// Latches. Where that fails, what the TPM opened in this pass is closed again.
    fn latch(&mut self, tpm: Option<&Tpm>) {
        if self.latched && self.report.unmeasured.is_empty() {
            return;
        }
        let start = Instant::now();
        let latched = match tpm {
            Some(tpm) => latch_tpm(tpm, &mut self.report),
            // Without one there is nothing to bar; one that does not answer is the gate's business.
            None if self.report.tpm == TpmState::None => Ok(()),
            None => Err(TpmError::Timeout { seconds: self.args.timeout.as_secs() }),
        };
        self.latched = latched.is_ok();
        self.report.note_phase("latch", start.elapsed().as_millis());
        self.report.latch = match &latched {
            Ok(()) => LatchState::Done,
            Err(_) => LatchState::Failed,
        };
        let (Some(_), Err(error)) = (tpm, latched) else { return };
        say(format_args!("cannot latch: {error}"));
        let exit = Error::from(error).exit();
        for name in self.opened_by_tpm() {
            match deactivate(&name) {
                Ok(()) => say(format_args!("closed {name} again")),
                Err(failure) => say(format_args!("{name} stays open: {failure}")),
            }
            self.outcomes.iter_mut().filter(|(opened, _)| *opened == name).for_each(|outcome| {
                outcome.1 = exit;
            });
            self.report.volumes.iter_mut().filter(|known| known.name == name).for_each(|known| {
                (known.exit, known.by) = (exit.code(), None);
            });
        }
    }
}

fn told(
    volume: &BootVolume,
    uuid: Option<&str>,
    exit: Exit,
    error: Option<&Error>,
) -> VolumeReport {
    VolumeReport {
        name: volume.name.clone(),
        device: volume.device.display().to_string(),
        uuid: uuid.map(str::to_owned),
        exit: exit.code(),
        by: None,
        token: None,
        keyslot: None,
        cause: error.map(ToString::to_string),
    }
}
