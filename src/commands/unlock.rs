//! `vmseal unlock`: opens a sealed volume and latches, or proves that it would open.

use serde_json::json;
use vmseal::Error;
use vmseal::boot::{self, Means, Opening};
use vmseal::luks::{HeaderCopy, Pin, Pins};
use vmseal::tpm::Lockout;

use super::terminal::{self, Talk};
use super::{Done, inputs};
use crate::cli::{Global, Unlock};

/// Opens, or tests.
pub fn run(global: &Global, args: &Unlock, talk: Talk) -> Done {
    // The TPM answers while the header is read; what is wrong with the volume is said first.
    let connecting = inputs::begin_tpm(global);
    let mut header = HeaderCopy::read(&args.volume.device, args.volume.header.as_deref())
        .map_err(Error::from)?;
    let pins = Pins::read(&global.pins).map_err(Error::from)?;
    let uuid = header.metadata().uuid().to_owned();
    let pin = pins.get(&uuid).map_err(Error::from)?;
    let sources = inputs::sources(global, &args.signature)?;
    let ask_pin = |lockout: Lockout| {
        if args.pin_file.is_none() && lockout.counter > 0 {
            talk.remark(lockout);
        }
        terminal::pin(
            args.pin_file.as_deref(),
            &format!("PIN of {}: ", args.volume.device.display()),
        )
    };
    let means = Means {
        approvals: &|| sources.gather(),
        pin: &ask_pin,
        seen: &|_| {},
        logs: &|| inputs::boot_logs(global, global.eventlog.as_deref(), None).ok(),
    };
    match &pin {
        Some(pin) => pin.check_header(header.metadata()),
        None => Pin::check_unpinned(header.metadata()),
    }
    .map_err(Error::from)?;
    let Some(name) = &args.name else {
        let tpm = connecting?.connected().map_err(Error::from)?;
        let released = boot::release(&tpm, &mut header, pin.as_ref(), &means)
            .map_err(|error| worded(error, global, &header))?;
        if pin.is_none() {
            talk.remark(format_args!(
                "volume {uuid} has no pin in {}: at boot it would be refused",
                global.pins.display()
            ));
        }
        if !released.latchable {
            talk.remark(format_args!(
                "token {} is not sealed to PCR 15: the latch does not bar it",
                released.token
            ));
        }
        if talk.json {
            talk.object(&json!({
                "opens": true, "token": released.token, "keyslot": released.keyslot,
                "pinned": pin.is_some(), "latchable": released.latchable,
            }));
        }
        talk.prose(format_args!("opens: token {}, keyslot {}", released.token, released.keyslot));
        return Ok(());
    };
    let pin = pin.ok_or_else(|| Error::NoPin { uuid, pins: global.pins.clone() })?;
    let tpm = connecting?.connected().map_err(Error::from)?;
    let released = boot::release(&tpm, &mut header, Some(&pin), &means)
        .map_err(|error| worded(error, global, &header))?;
    boot::open_and_latch(&tpm, &mut [Opening { header: &mut header, name, released: &released }])?;
    if talk.json {
        talk.object(
            &json!({ "opened": name, "token": released.token, "keyslot": released.keyslot }),
        );
    }
    talk.prose(format_args!("opened /dev/mapper/{name}, and latched"));
    Ok(())
}

/// A refusal in the words of the expected events, where they are at hand.
fn worded(mut error: Error, global: &Global, header: &HeaderCopy) -> Error {
    let (token, mismatch) = match &mut error {
        Error::PcrMismatch { token, mismatch } => (*token, mismatch),
        Error::Unapproved { token, unapproved } => match &mut unapproved.mismatch {
            Some(mismatch) => (*token, mismatch),
            None => return error,
        },
        _ => return error,
    };
    if let Ok(logs) = inputs::boot_logs(global, global.eventlog.as_deref(), None) {
        inputs::name_causes(global, &header.metadata().tokens(), token, mismatch, &logs);
    }
    error
}
