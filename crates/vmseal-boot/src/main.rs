//! The boot step: opens the sealed volumes of this boot, then latches. No command line library, no
//! configuration, no network.

mod args;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use args::{Args, Command};
use vmseal::Error;
use vmseal::boot::{self, BootLogs, Opening, Released};
use vmseal::exit::Exit;
use vmseal::luks::{HeaderCopy, LuksError, Pins};
use vmseal::tpm::Tpm;

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
        Err(error) => refuse(&error.into()),
    }
}

/// Opens every volume that can be opened, then latches, whatever happened. Only where a device is
/// missing nothing is done: the caller comes again when it has appeared.
fn unlock(args: &Args, volumes: &[(PathBuf, String)]) -> Exit {
    let pins = match Pins::read(&args.pins) {
        Ok(pins) => pins,
        Err(error) => {
            latch(args);
            return refuse(&error.into());
        }
    };
    let mut headers = Vec::new();
    let mut failure = None;
    for (device, name) in volumes {
        match HeaderCopy::read(device, args.header.as_deref()) {
            Ok(header) => headers.push((header, name)),
            Err(error @ LuksError::DeviceMissing { .. }) => return refuse(&error.into()),
            Err(error) => worst(&mut failure, error.into()),
        }
    }
    let tpm = match Tpm::connect(&args.tcti, args.timeout) {
        Ok(tpm) => tpm,
        Err(error) => return refuse(&error.into()),
    };
    let mut released: Vec<(HeaderCopy, &String, Released)> = Vec::new();
    for (mut header, name) in headers {
        match release(&tpm, &mut header, &pins, args) {
            Ok(key) => released.push((header, name, key)),
            Err(error) => worst(&mut failure, error),
        }
    }
    let mut openings: Vec<_> = released
        .iter_mut()
        .map(|(header, name, released)| Opening { header, name, released })
        .collect();
    if let Err(error) = boot::open_and_latch(&tpm, &mut openings) {
        worst(&mut failure, error);
    } else {
        openings.iter().for_each(|opening| say(format_args!("opened {}", opening.name)));
    }
    failure.map_or(Exit::Done, |error| refuse(&error))
}

fn release(
    tpm: &Tpm,
    header: &mut HeaderCopy,
    pins: &Pins,
    args: &Args,
) -> Result<Released, Error> {
    let uuid = header.metadata().uuid().to_owned();
    let pin = pins.get(&uuid)?.ok_or_else(|| Error::NoPin { uuid, pins: args.pins.clone() })?;
    boot::release(tpm, header, Some(&pin), || BootLogs::read(FIRMWARE_LOG.as_ref(), None).ok())
}

/// Keeps the error that matters most: not the pinned volume is fatal, else the first one.
fn worst(failure: &mut Option<Error>, error: Error) {
    if failure.is_none() || error.exit() == Exit::NotPinned {
        *failure = Some(error);
    }
}

/// Says what is wrong and what to do, to whoever stands at the console.
fn refuse(error: &Error) -> Exit {
    say(error);
    say(match error.exit() {
        Exit::NotPinned => {
            "This is not the disk that was enrolled. Do not open it, nor type its passphrase."
        }
        Exit::PcrMismatch => "If you did not make this change, do not type the passphrase here.",
        Exit::OtherTpm => {
            "If you did not replace this machine's TPM, do not type the passphrase here."
        }
        _ => {
            "The TPM opens nothing in this boot. Once the system runs, 'vmseal status' tells more."
        }
    });
    error.exit()
}

/// One line in one write: the console is shared with the kernel.
fn say(text: impl std::fmt::Display) {
    let _ = std::io::stderr().write_all(format!("vmseal: {text}\n").as_bytes());
}
