//! `vmseal enroll --srk-public`: seals a volume to a TPM that is not here, before its machine's first
//! boot.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::json;
use vmseal::Error;
use vmseal::boot::Approvals;
use vmseal::enroll::{self, Plan, To, With};
use vmseal::luks::{Device, HeaderCopy, Pin};
use vmseal::tpm::SrkElsewhere;

use super::enroll::{chosen, describe, plan_json, warn};
use super::terminal::{self, Talk};
use super::{Done, inputs, signer};
use crate::cli::{Enroll, Global, PolicyMode};

/// Plans from the log of another machine, seals to its TPM, and says what its boot must know.
pub fn run(global: &Global, args: &Enroll, talk: Talk) -> Done {
    let Some(srk) = args.srk_public.as_deref().map(read).transpose()? else { return Ok(()) };
    let (path, header) = (&args.volume.device, args.volume.header.as_deref());
    let copy = HeaderCopy::read(path, header).map_err(Error::from)?;
    enroll::check_pinned(&global.pins, copy.metadata(), None)?;
    drop(copy);
    let authority = signer::given(args)?;
    if authority.is_none() && args.policy != Some(PolicyMode::Pcr) {
        return Err(Error::NoAuthorityPublic.into());
    }
    let logs = inputs::boot_logs(global, global.eventlog.as_deref(), None)?;
    let plan = enroll::plan_elsewhere(&logs, &chosen(args)?, args.bank, &args.allow_uncovered)?;
    let plan = Plan { authority, pin: args.pin, ..plan };
    warn(&plan, talk);
    if args.dry_run {
        if talk.json {
            talk.object(&json!({ "plan": plan_json(&plan), "boot": "log" }));
        }
        talk.prose(describe(&plan));
        talk.prose("nothing was changed");
        return Ok(());
    }
    let prompt = format!("Passphrase of {}: ", path.display());
    let passphrase = terminal::passphrase(args.unlock_key_file.as_deref(), &prompt)?;
    let pin = match args.pin {
        true => Some(terminal::new_pin(args.pin_file.as_deref(), talk)?),
        false => None,
    };
    let mut device = Device::open(path, header).map_err(Error::from)?;
    let (opened, key) = device.open_keyslot(None, &passphrase).map_err(Error::from)?;
    drop(passphrase);
    let word = Pin::of(device.metadata(), &key).map_err(Error::from)?.cmdline_word();
    let with = With {
        pins: &global.pins,
        extra: &[],
        pin: pin.as_ref(),
        approvals: &Approvals::default(),
        journal_head: None,
        signatures: None,
        replaced: None,
    };
    let enrolled = enroll::apply(&mut device, (opened, &key), To::Elsewhere(&srk), &plan, &with)?;
    if talk.json {
        talk.object(&json!({
            "keyslot": enrolled.keyslot, "token": enrolled.token, "kept": enrolled.kept,
            "proven": false, "pin": word, "srk_name": hex::encode(&srk.srk.name),
            "plan": plan_json(&plan),
        }));
    }
    let (keyslot, token) = (enrolled.keyslot, enrolled.token);
    talk.prose(format_args!("sealed keyslot {keyslot} to {} (token {token})", describe(&plan)));
    talk.prose(format_args!(
        "for the TPM whose storage root key is {}",
        hex::encode(&srk.srk.name)
    ));
    for keyslot in &enrolled.kept {
        talk.prose(format_args!("kept keyslot {keyslot}, sealed before"));
    }
    talk.remark("not proven: its TPM is not here");
    talk.remark(format_args!(
        "its boot must know the volume: put {} into its initramfs, or this word on its command line: {word}",
        global.pins.display()
    ));
    Ok(())
}

fn read(path: &Path) -> Result<SrkElsewhere, Error> {
    let refused = |cause: String| Error::SrkPublic { path: path.to_owned(), cause };
    let mut bytes = vec![];
    File::open(path)
        .and_then(|file| file.take(SrkElsewhere::MAX_FILE as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| refused(error.to_string()))?;
    SrkElsewhere::from_file(&bytes).map_err(|error| refused(error.to_string()))
}
