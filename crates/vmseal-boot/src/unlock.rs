//! Opening the volumes of this boot: by the TPM, else by a passphrase that somebody types.

use std::time::{Duration, Instant};

use vmseal::Error;
use vmseal::boot::{
    self, BootLogs, BootReport, BootVolume, LatchState, Machine, Means, OpenedBy, Released,
    Sources, TpmState, Unmeasured, VolumeReport,
};
use vmseal::exit::Exit;
use vmseal::luks::{HeaderCopy, LuksError, Pin, deactivate};
use vmseal::measurement::{PcrBank, PcrIndex, PcrSelection};
use vmseal::secret::{KeyslotPassphrase, TypedPin, VolumeKey};
use vmseal::tpm::{Connecting, Tpm, TpmError};

use crate::args::Args;
use crate::bars::latch_tpm;
use crate::say::{advice, say, show};
use crate::volumes::Known;

/// How often missing devices are looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How often a PIN may be typed wrong. Each time brings the TPM's lockout nearer.
const PIN_TRIES: u32 = 3;

/// One pass over the volumes of this boot.
pub struct Pass<'a> {
    args: &'a Args,
    machine: &'a Machine,
    known: Known,
    report: BootReport,
    /// What the TPM opened in this pass.
    opened: Vec<String>,
    /// Whether PCR 15 was extended in this pass.
    latched: bool,
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
        let pins = std::fs::read(&args.pins).ok();
        report.pins_sha256 = pins.map(|bytes| PcrBank::Sha256.hash(&bytes).to_string());
        let known = Known::of(args, machine);
        Self {
            args,
            machine,
            known,
            report,
            opened: vec![],
            latched: false,
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
            return self.end(barred, false);
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
        let barred = self.is_barred();
        self.end(barred, asked.is_err())
    }

    fn is_barred(&self) -> bool {
        self.outcomes.iter().any(|(_, exit)| *exit == Exit::NotPinned)
    }

    /// Writes the report, and tells how the pass ended. Where nobody could be asked, somebody else
    /// must.
    fn end(self, barred: bool, unasked: bool) -> (Exit, Vec<(String, Exit)>) {
        if let Err(error) = self.report.write(self.machine.root()) {
            say(format_args!("cannot write {}: {error}", boot::BOOT_REPORT));
        }
        let mut exits = self.outcomes.iter().map(|(_, exit)| *exit);
        let exit = match (barred, unasked) {
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

    /// The TPM, where there is something to ask it for.
    fn tpm(&mut self, early: Result<Connecting, TpmError>) -> Option<Tpm> {
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
    fn release_all(&mut self, tpm: &Tpm) {
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
                    self.opened.push(name.clone());
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
        if self.opened.is_empty() && self.report.pcrs.is_empty() {
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
        let seen = std::cell::RefCell::new(vec![]);
        let firmware_log = self.machine.firmware_log();
        let mut tries = 0;
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
            show(advice(exit));
        }
    }

    /// Asks for the passphrase of each volume that the TPM did not open, and opens it by the very
    /// header that was compared.
    ///
    /// # Errors
    /// Where nobody could be asked.
    fn ask_all(&mut self) -> Result<(), Error> {
        let Some(asker) = &self.args.ask else { return Ok(()) };
        let mut outcome = Ok(());
        for mut waiting in std::mem::take(&mut self.waiting) {
            let mut tried = 0;
            while outcome.is_ok() && waiting.volume.tries.is_none_or(|tries| tried < tries) {
                let prompt = format!("Please unlock disk {}: ", waiting.volume.name);
                let answer = asker.ask(&waiting.volume, tried, &prompt);
                tried += 1;
                match answer.and_then(|mut typed| {
                    let passphrase = KeyslotPassphrase::new(std::mem::take(&mut *typed));
                    open_with(&mut waiting, &passphrase)
                }) {
                    Ok((keyslot, key)) => {
                        waiting.exit = Exit::Done;
                        self.opened_by_passphrase(&waiting, keyslot, &key);
                        break;
                    }
                    Err(error @ Error::NoPassphrase { .. }) => {
                        say(&error);
                        outcome = Err(error);
                    }
                    Err(error) => {
                        say(format_args!("{}: {error}", waiting.volume.device.display()));
                        waiting.exit = error.exit();
                        if waiting.exit == Exit::NotPinned {
                            break;
                        }
                    }
                }
            }
            let name = waiting.volume.name.clone();
            match waiting.exit {
                Exit::Done => self.outcomes.push((name, Exit::Done)),
                Exit::NotPinned => {
                    let uuid = Some(waiting.header.metadata().uuid());
                    let told = told(&waiting.volume, uuid, Exit::NotPinned, None);
                    self.report.note_volume(told);
                    say(advice(Exit::NotPinned));
                    self.outcomes.push((name, Exit::NotPinned));
                }
                _ => self.waiting.push(waiting),
            }
        }
        outcome
    }

    fn opened_by_passphrase(&mut self, waiting: &Waiting, keyslot: u32, key: &VolumeKey) {
        let (volume, uuid) = (&waiting.volume, waiting.header.metadata().uuid());
        say(format_args!("opened {} by passphrase", volume.name));
        self.report.unmeasured.push(Unmeasured::of(key, &volume.name, uuid));
        let known = self.report.volumes.iter().find(|known| known.name == volume.name);
        let cause = known.and_then(|known| known.cause.clone());
        let mut told = told(volume, Some(uuid), Exit::Done, None);
        (told.by, told.keyslot, told.cause) = (Some(OpenedBy::Passphrase), Some(keyslot), cause);
        self.report.note_volume(told);
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
        for name in std::mem::take(&mut self.opened) {
            let exit = Error::from(error.clone()).exit();
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

fn open_with(
    waiting: &mut Waiting,
    passphrase: &KeyslotPassphrase,
) -> Result<(u32, VolumeKey), Error> {
    let Waiting { volume, header, pin, .. } = waiting;
    let (keyslot, key) = header.open_any_keyslot(passphrase)?;
    pin.check_key(&key)?;
    header.activate(&volume.name, &key, volume.options)?;
    Ok((keyslot, key))
}

/// Whether the TPM has yet to be asked for a volume that ended so.
fn is_first(exit: u8) -> bool {
    [Exit::Done, Exit::Refused].iter().any(|first| first.code() == exit)
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
