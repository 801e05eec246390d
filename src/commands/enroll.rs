//! `vmseal enroll`: seals a keyslot to this TPM and this boot.

use std::fs::File;
use std::io::{self, IsTerminal, Read};

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::{Value, json};
use vmseal::Error;
use vmseal::boot::{self, BootLogs};
use vmseal::coverage::{Component, Coverage};
use vmseal::enroll::{self, Chosen, Enrolled, Plan, With};
use vmseal::luks::{Device, HeaderCopy};
use vmseal::measurement::diff::Expected;
use vmseal::measurement::pcr::{join_pcrs, parse_pcrs};
use vmseal::measurement::{PcrSelection, PcrValues};
use vmseal::policy::{AuthorityKey, with_latch};
use vmseal::recovery::RecoveryKey;
use vmseal::tpm::{Tpm, TpmError};

use super::keeper::{Announced, Keeper};
use super::terminal::{self, Talk};
use super::{Done, account, inputs};
use crate::cli::{Enroll, Global};

/// Plans, asks for the passphrase, seals, and says what was done.
pub fn run(global: &Global, args: &Enroll, talk: Talk) -> Done {
    let authority = authority(args)?;
    let chosen = match args.pcrs.as_str() {
        "auto" => Chosen::Auto,
        list => Chosen::Pcrs(parse_pcrs(list).map_err(Error::from)?),
    };
    let (device, header) = (&args.volume.device, args.volume.header.as_deref());
    // Refuse what is no volume, or not the pinned one, before asking for anything; the lock is taken
    // once all is known.
    let copy = HeaderCopy::read(device, header).map_err(Error::from)?;
    enroll::check_pinned(&global.pins, copy.metadata(), None)?;
    drop(copy);
    let tpm = inputs::tpm(global)?;
    let sources = inputs::sources(global, &args.signature)?;
    let (plan, logs) = plan(global, args, &chosen, &tpm)?;
    let plan = Plan { authority, pin: args.pin, ..plan };
    for component in &plan.uncovered {
        talk.remark(format_args!(
            "WARNING: no PCR covers the {component}: a changed one opens too"
        ));
    }
    for caution in plan.coverage.iter().flat_map(Coverage::cautions) {
        talk.remark(caution);
    }
    if args.dry_run {
        if talk.json {
            talk.object(&json!({ "plan": plan_json(&plan) }));
        }
        talk.prose(describe(&plan));
        talk.prose("nothing was changed");
        return Ok(());
    }
    talk.detail(describe(&plan));
    let prompt = format!("Passphrase of {}: ", device.display());
    let passphrase = terminal::passphrase(args.unlock_key_file.as_deref(), &prompt)?;
    let pin = match args.pin {
        true => Some(terminal::new_pin(args.pin_file.as_deref(), talk)?),
        false => None,
    };
    let mut device = Device::open(device, header).map_err(Error::from)?;
    let (opened, key) = device.open_keyslot(None, &passphrase).map_err(Error::from)?;
    drop(passphrase);
    // A recovery key must fit as well, or nothing is written.
    let extra: Vec<Value> =
        args.recovery_key.then(|| enroll::recovery_token(31)).into_iter().collect();
    let keeper = Keeper::of(global, &args.volume.device, device.metadata().uuid(), talk);
    let announced = keeper
        .as_ref()
        .map(|keeper| {
            account::announce(keeper, &plan, plan_json(&plan), args.recovery_key, device.metadata())
        })
        .transpose()?;
    let with = With {
        pins: &global.pins,
        extra: &extra,
        pin: pin.as_ref(),
        approvals: &sources.gather(),
        journal_head: announced.as_ref().map(Announced::head),
    };
    let enrolled = enroll::apply(&mut device, (opened, &key), &tpm, &plan, &with);
    if let Some(announced) = &announced {
        account::conclude(global, announced, &plan, enrolled.as_ref());
    }
    let enrolled = enrolled?;
    keep_expected(global, &plan, &enrolled, logs.as_ref(), talk);
    if args.recovery_key {
        enroll::add_recovery_key(&mut device, &key, |recovery, keyslot| {
            report(talk, &plan, &enrolled, Some((recovery, keyslot)))
                .map_err(|error| Error::NotShown { cause: error.to_string() })
        })?;
    } else {
        // The volume is sealed, whether or not somebody listens.
        let _ = report(talk, &plan, &enrolled, None);
    }
    talk.detail(format_args!("pinned the volume in {}", global.pins.display()));
    Ok(())
}

/// Keeps the events of this boot for explanations. Without them a refusal says less, so that nothing
/// fails where they cannot be written.
fn keep_expected(
    global: &Global,
    plan: &Plan,
    enrolled: &Enrolled,
    logs: Option<&BootLogs>,
    talk: Talk,
) {
    let (Some(folder), Some(logs)) = (inputs::own_expected_folder(global), logs) else { return };
    let bank = plan.values.bank();
    let notes = logs.notes(bank, inputs::cmdline(global).as_deref());
    let expected = Expected::new(bank, plan.policy_digest().to_string(), notes);
    if let Err(error) = boot::write_expected(folder, enrolled.keyslot, &expected) {
        talk.remark(format_args!(
            "cannot keep this boot's events in {}, so that refusals will say less: {error}",
            folder.display()
        ));
    }
    for keyslot in &enrolled.superseded {
        inputs::forget_expected(global, *keyslot, talk);
    }
}

/// The key whose signatures are to count, where `--policy` says so.
fn authority(args: &Enroll) -> Result<Option<AuthorityKey>, Error> {
    let Some(path) = args.authority_public.as_deref() else { return Ok(None) };
    let refused = |cause: String| Error::AuthorityKey { path: path.to_owned(), cause };
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(AuthorityKey::MAX_PEM as u64 + 1).read_to_end(&mut pem))
        .map_err(|error| refused(error.to_string()))?;
    AuthorityKey::from_pem(&pem).map(Some).map_err(|error| refused(error.to_string()))
}

/// The plan, and the logs that it is from.
fn plan(
    global: &Global,
    args: &Enroll,
    chosen: &Chosen,
    tpm: &Tpm,
) -> Result<(Plan, Option<BootLogs>), Error> {
    let live = |selection: &PcrSelection| -> Result<PcrValues, Error> {
        let values = tpm.read_pcrs(std::slice::from_ref(selection))?.pop();
        values
            .filter(|values| values.selection() == *selection)
            .ok_or(TpmError::BankInactive { bank: selection.bank }.into())
    };
    let logs: Result<BootLogs, Error> = inputs::boot_logs(global, global.eventlog.as_deref(), None);
    match (logs, chosen) {
        (Ok(logs), _) => {
            let plan = enroll::plan(&logs, chosen, args.bank, &args.allow_uncovered, live)?;
            Ok((plan, Some(logs)))
        }
        // Without a log nothing is known to be covered; only who accepts all of that goes on.
        (Err(Error::LogMissing { .. }), Chosen::Pcrs(pcrs))
            if Component::ALL.iter().all(|component| args.allow_uncovered.contains(component)) =>
        {
            let selection = PcrSelection::new(args.bank, with_latch(pcrs.clone()));
            Ok((enroll::plan_without_log(&live(&selection)?)?, None))
        }
        (Err(error), _) => Err(error),
    }
}

fn describe(plan: &Plan) -> String {
    let literal = join_pcrs(&plan.literal().pcrs);
    let pcrs = match plan.authorization() {
        Some(signed) => {
            format!("signed PCRs {} and PCR {literal}", join_pcrs(&signed.pcrs.pcrs))
        }
        None => format!("PCRs {literal}"),
    };
    let pin = if plan.pin { ", with a PIN" } else { "" };
    let path =
        plan.coverage.as_ref().map(|coverage| format!(", boot path: {}", coverage.boot_path()));
    format!("{pcrs} of the {} bank{pin}{}", plan.values.bank(), path.unwrap_or_default())
}

fn plan_json(plan: &Plan) -> Value {
    json!({
        "bank": plan.values.bank(),
        "pcrs": plan.values,
        "policy_hash": plan.policy_digest().to_string(),
        "pin": plan.pin,
        "to_be_signed": plan.authorization().map(|authorization| json!({
            "bank": authorization.pcrs.bank,
            "pcrs": authorization.pcrs.pcrs.iter().map(|pcr| pcr.get()).collect::<Vec<_>>(),
            "pkfp": authorization.key.fingerprint().to_string(),
            "pol": plan.to_be_signed().map(|digest| digest.to_string()),
        })),
        "boot_path": plan.coverage.as_ref().map(|coverage| coverage.boot_path().to_string()),
        "uncovered": plan.uncovered.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// Says what was done. Fails where a recovery key did not get through.
fn report(
    talk: Talk,
    plan: &Plan,
    enrolled: &Enrolled,
    recovery: Option<(&RecoveryKey, u32)>,
) -> io::Result<()> {
    if talk.json {
        let mut object = json!({
            "keyslot": enrolled.keyslot,
            "token": enrolled.token,
            "superseded": enrolled.superseded,
            "kept": enrolled.kept,
            "proven": enrolled.proven,
            "plan": plan_json(plan),
        });
        if let (Some((key, keyslot)), Some(object)) = (recovery, object.as_object_mut()) {
            object.insert("recovery_key".into(), key.expose().into());
            object.insert("recovery_keyslot".into(), keyslot.into());
        }
        return terminal::deliver(format_args!("{object:#}"));
    }
    talk.prose(format_args!(
        "sealed keyslot {} to {} (token {})",
        enrolled.keyslot,
        describe(plan),
        enrolled.token
    ));
    for keyslot in &enrolled.superseded {
        talk.prose(format_args!("removed keyslot {keyslot}, sealed to the same boot before"));
    }
    for keyslot in &enrolled.kept {
        talk.prose(format_args!("kept keyslot {keyslot}, sealed before"));
        if plan.pin {
            talk.remark(format_args!(
                "keyslot {keyslot} may open without this PIN: vmseal status tells, vmseal revoke removes it"
            ));
        }
    }
    if let (false, Some(digest)) = (enrolled.proven, plan.to_be_signed()) {
        talk.remark(format_args!(
            "not proven to open: that takes a signature of {digest}, and a boot that is not latched"
        ));
    } else if !enrolled.proven {
        talk.remark("this boot is latched: whether it opens shows at the next boot");
    }
    if let Some((key, keyslot)) = recovery {
        // The key is data that was asked for: --quiet does not hide it.
        terminal::deliver(key.expose())?;
        show_qr(key);
        talk.remark(format_args!(
            "recovery key of keyslot {keyslot}: write it down now, it is not shown again"
        ));
    }
    Ok(())
}

/// A QR code, for whoever sits at the terminal.
fn show_qr(key: &RecoveryKey) {
    if !std::io::stdout().is_terminal() || !terminal::is_watched() {
        return;
    }
    let Ok(code) = QrCode::new(key.expose()) else { return };
    // White on black, whatever the terminal's colours: scanners want the dark modules dark.
    let picture =
        code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    for line in picture.lines() {
        terminal::show(format_args!("\x1b[40;37;1m{line}\x1b[0m"));
    }
}
