//! The bars: latch, gate, closing before a shell, and the word on whether a stock unlocker may go on.

use std::collections::BTreeSet;
use std::path::Path;

use vmseal::Error;
use vmseal::boot::{self, BootReport, LatchState, Machine};
use vmseal::exit::Exit;
use vmseal::luks::{LuksError, Mapping, deactivate};
use vmseal::tpm::{Tpm, TpmError};

use crate::args::Args;
use crate::say::{advice, say, show};
use crate::volumes::Known;

/// What to do where the TPM is there and cannot be latched.
const REPAIR: &str = "This boot goes no further: the TPM could release the key to whatever comes \
    next. Repair the TPM, or start the VM without its TPM device.";
/// Where a volume that the TPM opened stays open.
const NO_SHELL: &str = "No shell opens while it is open. A boot with vmseal=off on the kernel \
    command line opens nothing by itself.";

/// Extends PCR 15 if it is still zero, with what earlier passes left to be measured.
pub fn latch(args: &Args, machine: &Machine) -> Exit {
    match latch_machine(args, machine) {
        Ok(()) => Exit::Done,
        Err(error) => {
            say(format_args!("cannot latch: {error}"));
            Exit::NoTpm
        }
    }
}

/// As [`latch`]; and every open volume that is pinned must be the pinned one. Nothing may follow
/// where this fails.
pub fn gate(args: &Args, machine: &Machine) -> Exit {
    if let Err(error) = latch_machine(args, machine) {
        say(format_args!("cannot latch: {error}"));
        say(REPAIR);
        show(REPAIR);
        return Exit::NoTpm;
    }
    let known = Known::of(args, machine);
    let report = BootReport::read(machine.root()).unwrap_or_default();
    // What was opened here was opened by the header that had been compared.
    let strangers = known.volumes.iter().filter(|volume| !report.is_opened(&volume.name));
    let barred = strangers.filter_map(|volume| {
        let error = check_mapping(&known, machine, &volume.name, &volume.device).err()?;
        say(format_args!("{}: {error}", volume.name));
        Some(())
    });
    if barred.count() > 0 {
        say(advice(Exit::NotPinned));
        show(&advice(Exit::NotPinned));
        return Exit::NotPinned;
    }
    Exit::Done
}

/// Closes the volumes that opened without a passphrase: a shell would read them to anybody. Whoever
/// typed it may have both.
pub fn close(args: &Args, machine: &Machine) -> Exit {
    let report = BootReport::read(machine.root()).unwrap_or_default();
    let known = Known::of(args, machine).volumes.into_iter().map(|volume| volume.name);
    let names: BTreeSet<_> =
        known.chain(report.volumes.iter().map(|volume| volume.name.clone())).collect();
    let open = names.into_iter().filter(|name| machine.is_open(name) && !report.is_typed(name));
    let left = open.filter_map(|name| {
        let error = match deactivate(&name) {
            Ok(()) | Err(LuksError::NotActive { .. }) => return None,
            Err(error) => error,
        };
        say(format_args!("{name} opened without a passphrase and cannot be closed: {error}"));
        Some(name)
    });
    if left.count() == 0 {
        return Exit::Done;
    }
    say(NO_SHELL);
    show(NO_SHELL);
    Exit::Refused
}

/// Whether a stock unlocker may go on with the volume of this name.
pub fn check(args: &Args, machine: &Machine, name: &str) -> Exit {
    let known = Known::of(args, machine);
    let Some(volume) = known.volumes.iter().find(|volume| volume.name == name) else {
        return Exit::Done;
    };
    let report = BootReport::read(machine.root()).unwrap_or_default();
    let outcome = if report.is_barred(name) {
        say(format_args!("{name}: not the pinned volume"));
        Exit::NotPinned
    } else {
        let checked = if machine.is_open(name) {
            check_mapping(&known, machine, name, &volume.device)
        } else {
            known.check_header(volume).map(|_| ())
        };
        match checked {
            Ok(()) => Exit::Done,
            Err(error) => {
                say(format_args!("{name}: {error}"));
                match error {
                    Error::Luks(LuksError::DeviceMissing { .. }) => Exit::Refused,
                    // What cannot be compared is not the pinned one.
                    _ => Exit::NotPinned,
                }
            }
        }
    };
    if outcome == Exit::NotPinned {
        say(advice(outcome));
    }
    outcome
}

fn check_mapping(known: &Known, machine: &Machine, name: &str, device: &Path) -> Result<(), Error> {
    let Some(mapping) = Mapping::named(machine.root(), name)? else { return Ok(()) };
    let pin = known.pin_of(name, device)?;
    Ok(pin.check_mapping(&mapping)?)
}

fn latch_machine(args: &Args, machine: &Machine) -> Result<(), TpmError> {
    let mut report = BootReport::read(machine.root()).unwrap_or_default();
    let latched = match args.connect(machine) {
        // Nothing that could release anything.
        Ok(None) => Ok(()),
        Ok(Some(connecting)) => connecting.connected().and_then(|tpm| latch_tpm(&tpm, &mut report)),
        Err(error) => Err(error),
    };
    let state = if latched.is_ok() { LatchState::Done } else { LatchState::Failed };
    if report.latch != state {
        report.latch = state;
        // The latch counts, not the note of it.
        let _ = report.write(machine.root());
    }
    latched
}

/// Measures the volumes that wait for it, and makes sure that PCR 15 is not zero.
pub fn latch_tpm(tpm: &Tpm, report: &mut BootReport) -> Result<(), TpmError> {
    tpm.begin_bounded();
    let mut latched = false;
    while let Some(volume) = report.unmeasured.first() {
        boot::latch_measured(tpm, volume)?;
        report.unmeasured.remove(0);
        latched = true;
    }
    if latched { Ok(()) } else { boot::latch(tpm).map(|_| ()) }
}
