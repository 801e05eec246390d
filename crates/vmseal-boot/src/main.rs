//! The boot step: opens the sealed volumes of this boot, then latches. No command line library, no
//! configuration, no network.

mod args;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use args::{Args, Command};
use vmseal::Error;
use vmseal::boot::{self, BootLogs, Means, Opening, Sources};
use vmseal::exit::Exit;
use vmseal::luks::{HeaderCopy, LuksError, Pin, Pins, PinsError};
use vmseal::tpm::{Connecting, Tpm};

/// Where the kernel shows the firmware's event log, once securityfs is mounted.
const FIRMWARE_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

fn main() -> ExitCode {
    vmseal::ffi::quiet_tss2();
    // Without it a crash could leave a key on the disk: better to open nothing.
    if let Err(error) = vmseal::secret::forbid_core_dumps() {
        say(format_args!("cannot forbid core dumps: {error}"));
        return Exit::Internal.code().into();
    }
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(problem) => {
            say(problem);
            say(args::USAGE);
            return Exit::Usage.code().into();
        }
    };
    match &args.command {
        Command::Help => {
            let _ = writeln!(std::io::stdout(), "{}", args::USAGE);
            Exit::Done
        }
        Command::Latch => latch(&args),
        Command::Unlock(volumes) => unlock(&args, volumes),
    }
    .code()
    .into()
}

fn latch(args: &Args) -> Exit {
    match Tpm::connect(&args.tcti, args.timeout).and_then(|tpm| boot::latch(&tpm)) {
        Ok(_) => Exit::Done,
        Err(error) => {
            let mut failures = Failures::default();
            failures.add(Path::new("TPM"), error.into());
            failures.report()
        }
    }
}

/// Opens every volume that can be opened, then latches, whatever happened. Every header is compared
/// with its pin before the TPM is asked for anything: a volume that is not the pinned one is fatal
/// with or without a TPM, and whatever becomes of the others. Only where a device is missing, and
/// nothing worse is known, nothing is done: the caller comes again when it has appeared.
fn unlock(args: &Args, volumes: &[(PathBuf, String)]) -> Exit {
    // Connecting says nothing to the TPM yet; it is ready when the headers have been compared.
    let connecting = Tpm::begin(&args.tcti, args.timeout);
    let pins = Pins::read(&args.pins);
    let mut failures = Failures::default();
    let mut missing = false;
    let mut checked = Vec::new();
    for (device, name) in volumes {
        match check(device, &pins, args) {
            Ok((header, pin)) => checked.push((device, name, header, pin)),
            Err(error) => {
                missing |= matches!(error, Error::Luks(LuksError::DeviceMissing { .. }));
                failures.add(device, error);
            }
        }
    }
    if missing && failures.exit() != Exit::NotPinned {
        return failures.exit();
    }
    let tpm = match connecting.and_then(Connecting::connected) {
        Ok(tpm) => tpm,
        Err(error) => {
            failures.add(Path::new("TPM"), error.into());
            return failures.report();
        }
    };
    let mut sources = Sources::below(Path::new("/"));
    for file in &args.signatures {
        // The other sources may still do.
        if let Err(error) = sources.add_file(file) {
            say(error);
        }
    }
    let means = Means {
        approvals: &|| sources.gather(),
        pin: &|_| Err(Error::PinNeeded { cause: "the boot step does not ask for it".into() }),
        logs: &|| BootLogs::read(FIRMWARE_LOG.as_ref(), None).ok(),
    };
    let mut released = Vec::new();
    for (device, name, mut header, pin) in checked {
        match boot::release(&tpm, &mut header, Some(&pin), &means) {
            Ok(key) => released.push((header, name, key)),
            Err(error) => failures.add(device, error),
        }
    }
    let mut openings: Vec<_> = released
        .iter_mut()
        .map(|(header, name, released)| Opening { header, name, released })
        .collect();
    match boot::open_and_latch(&tpm, &mut openings) {
        Ok(()) => openings.iter().for_each(|opening| say(format_args!("opened {}", opening.name))),
        Err(error) => failures.add(Path::new("volumes"), error),
    }
    failures.report()
}

/// The header on `device`, compared with its pin. What cannot be compared is not the pinned volume:
/// stock tools may read in it what vmseal does not.
fn check(
    device: &Path,
    pins: &Result<Pins, PinsError>,
    args: &Args,
) -> Result<(HeaderCopy, Pin), Error> {
    let pins = pins.as_ref().map_err(Clone::clone)?;
    let header = HeaderCopy::read(device, args.header.as_deref()).map_err(|cause| match cause {
        LuksError::DeviceMissing { .. } => Error::Luks(cause),
        cause => Error::NotComparable { cause },
    })?;
    let uuid = header.metadata().uuid().to_owned();
    let pin = pins.get(&uuid)?.ok_or_else(|| Error::NoPin { uuid, pins: args.pins.clone() })?;
    pin.check_header(header.metadata())?;
    Ok((header, pin))
}

/// What failed, said at once with its device; the exit code is that of what matters most.
#[derive(Default)]
struct Failures(Option<Exit>);

impl Failures {
    fn add(&mut self, device: &Path, error: Error) {
        say(format_args!("{}: {error}", device.display()));
        // Pins that cannot be read compare with nothing.
        let exit = match error {
            Error::Pins(_) => Exit::NotPinned,
            error => error.exit(),
        };
        if self.0.is_none() || exit == Exit::NotPinned {
            self.0 = Some(exit);
        }
    }

    fn exit(&self) -> Exit {
        self.0.unwrap_or(Exit::Done)
    }

    /// Says what to do, to whoever stands at the console.
    fn report(&self) -> Exit {
        let exit = self.exit();
        if exit != Exit::Done {
            say(advice(exit));
        }
        exit
    }
}

fn advice(exit: Exit) -> &'static str {
    match exit {
        Exit::NotPinned => {
            "This is not a disk that was enrolled here. Do not open it, nor type its passphrase."
        }
        Exit::PcrMismatch => "If you did not make this change, do not type the passphrase here.",
        Exit::OtherTpm => {
            "If you did not replace this machine's TPM, do not type the passphrase here."
        }
        Exit::NoSignature => {
            "If you did not make this change, do not type the passphrase here. Nobody approved this boot."
        }
        _ => {
            "The TPM opens nothing in this boot. Once the system runs, 'vmseal status' tells more."
        }
    }
}

/// One line in one write: the console is shared with the kernel.
fn say(text: impl std::fmt::Display) {
    let _ = std::io::stderr().write_all(format!("vmseal: {text}\n").as_bytes());
}
