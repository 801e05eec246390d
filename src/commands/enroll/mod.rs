//! `vmseal enroll`: seals a keyslot to this TPM and this boot.

mod report;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::boot::{self, BootLogs};
use vmseal::coverage::{Component, Coverage};
use vmseal::enroll::{self, Chosen, Enrolled, NextBoot, Plan, To, With};
use vmseal::luks::{Device, HeaderCopy, Pins};
use vmseal::measurement::diff::Expected;
use vmseal::measurement::pcr::parse_pcrs;
use vmseal::measurement::text::printable;
use vmseal::measurement::{PcrSelection, PcrValues};
use vmseal::policy::with_latch;
use vmseal::reseal::{Kind, Store};
use vmseal::tpm::{Tpm, TpmError};

use super::account::{self, Sealing};
use super::keeper::{Announced, Keeper};
use super::next_boot::{self, Prepared};
use super::rebuild::{Carried, Integration};
use super::signer::{Own, Signer};
use super::terminal::{self, Talk};
use super::{Done, inputs};
use crate::cli::{Enroll, Global, Rebuild};
use report::Report;
pub use report::{describe, plan_json};

/// Plans, asks for the passphrase, seals, and says what was done.
pub fn run(global: &Global, args: &Enroll, talk: Talk) -> Done {
    let chosen = chosen(args)?;
    let (device, header) = (&args.volume.device, args.volume.header.as_deref());
    // Refuse what is no volume, or not the pinned one, before asking for anything; the lock is taken
    // once all is known.
    let copy = HeaderCopy::read(device, header).map_err(Error::from)?;
    enroll::check_pinned(&global.pins, copy.metadata(), None)?;
    drop(copy);
    let tpm = inputs::tpm(global)?;
    let sources = inputs::sources(global, &args.signature)?;
    let (signer, why_literal) = Signer::of(global, args, &tpm)?;
    let (plan, logs) = plan(global, args, &chosen, &tpm)?;
    let authority = signer.as_ref().map(|signer| signer.public().clone());
    let own = signer.as_ref().and_then(Signer::own);
    let plan = Plan { authority, pin: args.pin, ..plan };
    warn(&plan, talk);
    let integration = match args.this_boot || global.eventlog.is_some() {
        true => None,
        false => Integration::find(global),
    };
    let next = integration.as_ref().zip(logs.as_ref());
    if args.dry_run {
        return dry_run(global, args, (&plan, own), next, talk);
    }
    talk.detail(describe(&plan));
    let prompt = format!("Passphrase of {}: ", device.display());
    let passphrase = terminal::passphrase(args.unlock_key_file.as_deref(), &prompt)?;
    let pin = match args.pin {
        true => Some(terminal::new_pin(args.pin_file.as_deref(), talk)?),
        false => None,
    };
    // An approval that was planned before this would take from the header what this adds. Before the
    // header's own lock, as there.
    let is_of_system = inputs::is_of_system(global, device);
    let alone = is_of_system.then(|| Store::below(&global.root).alone()).transpose();
    let _alone = alone.map_err(Error::from)?;
    let open = || Device::open(device, header).map_err(Error::from);
    let mut device = open()?;
    let (opened, key) = device.open_keyslot(None, &passphrase).map_err(Error::from)?;
    drop(passphrase);
    let keeper = Keeper::of(global, &args.volume.device, device.metadata().uuid(), talk);
    // Before keys, pins and an initramfs are written for what could not be put on record.
    if let Some(keeper) = &keeper {
        keeper.check()?;
    }
    if let Some(own) = own {
        own.write(global, &tpm, talk)?;
    }
    let pins_before = Pins::read(&global.pins).map_err(Error::from)?;
    let prepared = match next {
        None => None,
        Some((integration, logs)) => {
            enroll::pin_volume(&global.pins, device.metadata(), &key)?;
            // The generator reads headers too, and would wait for the lock.
            drop(device);
            let prepared = next_boot::prepare(global, args, integration, (&plan, logs), talk)?;
            device = open()?;
            Some(prepared)
        }
    };
    let foreseen = prepared.as_ref().and_then(|prepared| prepared.next.as_ref());
    let is_next = foreseen.is_some_and(|next| next.plan.values != plan.values);
    let plan = foreseen.map_or(plan, |next| next.plan.clone());
    // A recovery key must fit as well, or nothing is written.
    let extra: Vec<Value> =
        args.recovery_key.then(|| enroll::recovery_token(31)).into_iter().collect();
    let mut approvals = sources.gather();
    let signatures = own.map(|own| own.sign(&plan, device.metadata())).transpose()?;
    approvals.signatures.merge(signatures.clone().unwrap_or_default());
    let expected = expected(global, &plan, (foreseen, logs.as_ref()));
    let sealing = Sealing {
        plan: &plan,
        entry: foreseen.map(|next| next.entry.as_str()),
        expected: expected.as_ref(),
        artifacts: BTreeMap::new(),
        kind: Kind::Enroll,
    };
    let mut body = plan_json(&plan);
    if let Some(body) = body.as_object_mut() {
        body.insert("recovery_key".into(), args.recovery_key.into());
    }
    let announced = keeper.as_ref().map(|keeper| sealing.announce(keeper, body, device.metadata()));
    let announced = announced.transpose()?;
    let with = With {
        pins: &global.pins,
        extra: &extra,
        pin: pin.as_ref(),
        approvals: &approvals,
        journal_head: announced.as_ref().map(Announced::head),
        signatures: signatures.as_ref(),
        replaced: own.and_then(Own::old),
    };
    let enrolled = enroll::apply(&mut device, (opened, &key), To::Tpm(&tpm), &plan, &with);
    if let Some(announced) = &announced {
        account::conclude(announced, &plan, enrolled.as_ref());
    }
    let enrolled = enrolled?;
    keep_expected(global, &enrolled, expected.as_ref(), talk);
    let done =
        Report { plan: &plan, enrolled: &enrolled, prepared: prepared.as_ref(), is_next, own };
    if args.recovery_key {
        enroll::add_recovery_key(&mut device, &key, |recovery, keyslot| {
            done.say(talk, Some((recovery, keyslot)))
                .map_err(|error| Error::NotShown { cause: error.to_string() })
        })?;
    } else {
        // The volume is sealed, whether or not somebody listens.
        let _ = done.say(talk, None);
    }
    if let Some(why) = why_literal {
        talk.remark(format_args!(
            "sealed to literal values, so that each update takes the passphrase: {why}"
        ));
    }
    talk.detail(format_args!("pinned the volume in {}", global.pins.display()));
    remark_on_pins(global, &pins_before, prepared.as_ref(), device.metadata().uuid(), talk);
    drop(device);
    if let Some((own, signatures)) = own.zip(signatures) {
        own.finish(global, args, &signatures, talk);
    }
    Ok(())
}

/// The PCRs that were asked for.
///
/// # Errors
/// [`Error::Pcrs`].
pub fn chosen(args: &Enroll) -> Result<Chosen, Error> {
    match args.pcrs.as_str() {
        "auto" => Ok(Chosen::Auto),
        list => Ok(Chosen::Pcrs(parse_pcrs(list)?)),
    }
}

/// What a plan leaves open.
pub fn warn(plan: &Plan, talk: Talk) {
    for component in &plan.uncovered {
        talk.remark(format_args!(
            "WARNING: no PCR covers the {component}: a changed one opens too"
        ));
    }
    for caution in plan.coverage.iter().flat_map(Coverage::cautions) {
        talk.remark(caution);
    }
}

/// What else the pins ask for.
fn remark_on_pins(
    global: &Global,
    before: &Pins,
    prepared: Option<&Prepared>,
    uuid: &str,
    talk: Talk,
) {
    let Ok(pins) = Pins::read(&global.pins) else { return };
    if prepared.is_none() && pins != *before {
        talk.remark(format_args!(
            "the initramfs must carry {}: rebuild it, boot it, and enroll again",
            global.pins.display()
        ));
    }
    let rebuilt = prepared.is_some_and(|prepared| prepared.rebuilt.is_some());
    let others: Vec<_> = pins.uuids().filter(|other| *other != uuid).collect();
    if rebuilt && !others.is_empty() {
        talk.remark(format_args!(
            "the initramfs is another one now: what is sealed to a TPM on these volumes must be enrolled again: {}",
            others.join(", ")
        ));
    }
}

/// What would be done.
fn dry_run(
    global: &Global,
    args: &Enroll,
    (plan, own): (&Plan, Option<&Own>),
    next: Option<(&Integration, &BootLogs)>,
    talk: Talk,
) -> Done {
    let carried = next.map(|(integration, _)| integration.carried(global));
    let lacks = carried == Some(Carried::No) && args.rebuild == Rebuild::Auto;
    let rebuild = next.filter(|_| lacks);
    let rebuild = rebuild.map(|(integration, _)| integration.command());
    let foreseen = match next.filter(|_| rebuild.is_none()) {
        Some((_, logs)) => Some(next_boot::predicted(global, plan, logs)?),
        None => None,
    };
    let plan = foreseen.as_ref().map_or(plan, |next| &next.plan);
    if talk.json {
        let boot = if next.is_some() { "next" } else { "this" };
        let mut shown = plan_json(plan);
        if own.is_some_and(Own::is_new) {
            // Of a key that goes with this process.
            for pointer in ["/policy_hash", "/to_be_signed/pkfp"] {
                shown.pointer_mut(pointer).map(Value::take);
            }
        }
        let authority = own.map(Own::to_json);
        talk.object(
            &json!({ "plan": shown, "boot": boot, "rebuild": rebuild, "authority": authority }),
        );
    }
    talk.prose(describe(plan));
    if let Some(prose) = own.and_then(Own::plan_prose) {
        talk.prose(prose);
    }
    if let Some(command) = rebuild {
        talk.prose(format_args!("the initramfs would be rebuilt first: {command}"));
        talk.prose("the values are those of the next boot, which is predicted after that");
    } else if let Some(next) = &foreseen {
        talk.prose(format_args!("the next boot: {}", printable(&next.entry, 200)));
    }
    talk.prose("nothing was changed");
    Ok(())
}

/// The events of the boot that is sealed to.
fn expected(
    global: &Global,
    plan: &Plan,
    (next, logs): (Option<&NextBoot>, Option<&BootLogs>),
) -> Option<Expected> {
    let bank = plan.values.bank();
    let notes = match next {
        Some(next) => next.notes.clone(),
        None => logs?.notes(bank, inputs::cmdline(global).as_deref()),
    };
    Some(Expected::new(bank, plan.policy_digest().to_string(), notes))
}

/// Copies the events of the boot that was sealed to, for explanations. Without them a refusal says
/// less, so that nothing fails where they cannot be written.
fn keep_expected(global: &Global, enrolled: &Enrolled, expected: Option<&Expected>, talk: Talk) {
    let (Some(folder), Some(expected)) = (inputs::own_expected_folder(global), expected) else {
        return;
    };
    if let Err(error) = boot::write_expected(folder, enrolled.keyslot, expected) {
        talk.remark(format_args!(
            "cannot keep this boot's events in {}, so that refusals will say less: {error}",
            folder.display()
        ));
    }
    for keyslot in &enrolled.superseded {
        inputs::forget_expected(global, *keyslot, talk);
    }
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
