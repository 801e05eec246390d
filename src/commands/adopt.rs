//! `vmseal adopt`: pins a volume that systemd enrolled, and says what its tokens do not cover.

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::boot::{self, Choice, Sources, Verdict};
use vmseal::coverage::{BootPath, Coverage};
use vmseal::enroll::{self, Adopted, Adoption};
use vmseal::luks::{Device, HeaderCopy, Metadata, Pins};
use vmseal::reseal::{Approved, Kind, VolumeState};
use vmseal::tpm::Tpm;

use super::keeper::{Announced, Keeper};
use super::rebuild::{Carried, Integration};
use super::seal_point::Pcrs;
use super::terminal::{self, Talk};
use super::{Done, inputs};
use crate::cli::{Adopt, Global};

/// Looks at the tokens, asks for the passphrase, pins.
pub fn run(global: &Global, args: &Adopt, talk: Talk) -> Done {
    let (path, header) = (&args.volume.device, args.volume.header.as_deref());
    let copy = HeaderCopy::read(path, header).map_err(Error::from)?;
    enroll::check_pinned(&global.pins, copy.metadata(), None)?;
    let tpm = inputs::tpm(global)?;
    let pcrs = Pcrs::gather(global, Ok(&tpm), talk);
    // What the tokens cover is told from the log: it must be of this boot.
    if let Some(error) = &pcrs.disagreement {
        return Err(error.clone().into());
    }
    let sources = inputs::sources(global, &args.signature)?;
    let adoption = plan(copy.metadata(), &tpm, &pcrs, &sources)?;
    let uuid = copy.metadata().uuid().to_owned();
    drop(copy);
    warn(&adoption, &pcrs, talk);
    let integration = Integration::find(global);
    // Not known before the volume has a pin, which changes the digest of the file.
    let is_carried = |integration: &Integration| {
        let pinned =
            Pins::read(&global.pins).is_ok_and(|pins| pins.uuids().any(|known| known == uuid));
        pinned && integration.carried(global) != Carried::No
    };
    let rebuild = integration.filter(|integration| !is_carried(integration));
    if rebuild.is_some() {
        warn_of_rebuild(&adoption, &pcrs, talk);
    }
    if args.dry_run {
        report(talk, &adoption, false);
        talk.prose("nothing was changed");
        return Ok(());
    }
    let prompt = format!("Passphrase of {}: ", path.display());
    let passphrase = terminal::passphrase(args.unlock_key_file.as_deref(), &prompt)?;
    let mut device = Device::open(path, header).map_err(Error::from)?;
    let (_, key) = device.open_keyslot(None, &passphrase).map_err(Error::from)?;
    drop(passphrase);
    // Somebody may have changed the header while the passphrase was typed.
    let adoption = plan(device.metadata(), &tpm, &pcrs, &sources)?;
    let keeper = Keeper::of(global, path, device.metadata().uuid(), talk);
    let tokens = || json!({ "tokens": adoption.tokens.iter().map(token_json).collect::<Vec<_>>() });
    let announced = keeper.as_ref().map(|keeper| keeper.announce(Kind::Adopt, tokens(), |_| ()));
    let announced = announced.transpose()?;
    let head = announced.as_ref().map(Announced::head);
    let adopted = enroll::adopt(&mut device, &key, &global.pins, &adoption, head);
    if let Some(announced) = &announced {
        match &adopted {
            Ok(()) => announced.conclude(Kind::Apply, json!({}), |volume| enter(volume, &adoption)),
            Err(error) => announced.refuse(error, |_| ()),
        }
    }
    adopted?;
    report(talk, &adoption, true);
    talk.prose(format_args!(
        "pinned volume {} in {}",
        device.metadata().uuid(),
        global.pins.display()
    ));
    if let Some(integration) = rebuild {
        talk.remark(format_args!(
            "the initramfs must carry {}, or the volume is refused at boot: {}",
            global.pins.display(),
            integration.command()
        ));
    }
    Ok(())
}

/// The initramfs with the pin in it is another initrd.
fn warn_of_rebuild(adoption: &Adoption, pcrs: &Pcrs, talk: Talk) {
    let path = pcrs.logs.as_ref().map(|logs| Coverage::of(&logs.firmware).boot_path());
    let of_initrd: &[u8] = match path {
        Some(BootPath::Uki | BootPath::SystemdBootUki | BootPath::ChainedUki) => &[4, 9, 11],
        _ => &[9],
    };
    let is_sealed = |token: &&Adopted| {
        let token = token.judgement.verdict.token();
        let mut pcrs = token.into_iter().flat_map(|token| &token.pcrs.pcrs);
        pcrs.any(|pcr| of_initrd.contains(&pcr.get()))
    };
    for token in adoption.tokens.iter().filter(is_sealed) {
        talk.remark(format_args!(
            "WARNING: token {} is sealed to the initrd as it is, and will not open with one that carries the pin: vmseal enroll seals to that boot",
            token.judgement.token
        ));
    }
}

fn plan(metadata: &Metadata, tpm: &Tpm, pcrs: &Pcrs, sources: &Sources) -> Result<Adoption, Error> {
    let choice = Choice::among(&metadata.tokens(), || sources.gather());
    let pcr = |bank, index| pcrs.get(bank, index);
    let mut judgements = choice.judge(pcr);
    boot::name_foreign(&mut judgements, tpm)?;
    Adoption::plan(metadata, judgements, pcrs.logs.as_ref(), pcr)
}

/// Enters this boot as approved for each token that opens in it, and is not entered yet.
fn enter(volume: &mut VolumeState, adoption: &Adoption) {
    for entry in adoption.tokens.iter().filter_map(|token| token.entry.as_ref()) {
        if volume.entry_mut(&entry.policy_hash, &entry.values).is_none() {
            let generation = volume.generation.saturating_add(1);
            let mut approved = Approved::new(entry.policy_hash, entry.values.clone(), generation);
            approved.keyslot = Some(entry.keyslot);
            volume.approve(approved);
        }
    }
}

/// What whoever relies on the tokens should know.
fn warn(adoption: &Adoption, pcrs: &Pcrs, talk: Talk) {
    for token in &adoption.tokens {
        let id = token.judgement.token;
        for part in token.uncovered.iter().flatten() {
            talk.remark(format_args!(
                "WARNING: token {id} is not known to cover the {}: {}",
                part.component, part.reason
            ));
        }
        if token.judgement.verdict.token().is_some() && !token.latchable {
            talk.remark(format_args!(
                "WARNING: token {id} is not sealed to PCR 15: no latch keeps the TPM from releasing its secret to a booted system"
            ));
        }
    }
    for caution in pcrs.logs.iter().flat_map(|logs| Coverage::of(&logs.firmware).cautions()) {
        talk.remark(caution);
    }
}

fn report(talk: Talk, adoption: &Adoption, pinned: bool) {
    if talk.json {
        let tokens: Vec<_> = adoption.tokens.iter().map(token_json).collect();
        talk.object(&json!({ "pinned": pinned, "tokens": tokens }));
    }
    for Adopted { judgement, recorded, .. } in &adoption.tokens {
        let id = judgement.token;
        match &judgement.verdict {
            Verdict::Fits(candidate) if *recorded => talk.prose(format_args!(
                "token {id}: {}; a refusal will name what differs from this boot",
                candidate.token.summary()
            )),
            Verdict::Fits(candidate) => {
                talk.prose(format_args!("token {id}: {}", candidate.token.summary()));
            }
            Verdict::Differs(token, mismatch) => talk.prose(format_args!(
                "token {id}: {}; does not open in this boot: {mismatch}",
                token.summary()
            )),
            Verdict::Unapproved(token, unapproved) => talk.prose(format_args!(
                "token {id}: {}; does not open in this boot: {unapproved}",
                token.summary()
            )),
            Verdict::Foreign(token) => {
                talk.prose(format_args!("token {id}: {}; sealed by another TPM", token.summary()))
            }
            Verdict::Malformed(error) => {
                talk.prose(format_args!("token {id}: malformed: {error}"));
            }
        }
    }
}

fn token_json(adopted: &Adopted) -> Value {
    let Adopted { judgement, recorded, uncovered, latchable, .. } = adopted;
    let token = judgement.verdict.token();
    json!({
        "token": judgement.token,
        "keyslot": token.map(|token| token.keyslot),
        "needs": token.map(|token| token.summary().to_string()),
        "verdict": judgement.verdict.name(),
        "recorded": recorded,
        "latchable": latchable,
        "uncovered": uncovered.as_ref().map(|parts| {
            parts.iter().map(|part| part.component.to_string()).collect::<Vec<_>>()
        }),
    })
}
