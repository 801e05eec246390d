//! `vmseal status`: keyslots and tokens, and which would have opened at the seal point of this boot.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::boot::{self, Choice, Judgement, Sources, Verdict};
use vmseal::enroll::KeyslotUse;
use vmseal::luks::{HeaderCopy, LuksError, Metadata, Pin, Pins};
use vmseal::token::Record;
use vmseal::tpm::Tpm;

use super::boots::TypedBoots;
use super::seal_point::{Pcrs, Source};
use super::terminal::Talk;
use super::{Done, inputs};
use crate::cli::{Global, Status};

/// Reports on one volume, or on all.
pub fn run(global: &Global, args: &Status, talk: Talk) -> Done {
    // Without a TPM there is still much to tell; a TCTI that is none is a slip to be told first.
    inputs::tcti(global)?;
    let tpm = inputs::tpm(global);
    let pcrs = Pcrs::gather(global, tpm.as_ref(), talk);
    if let Some(error) = &pcrs.disagreement {
        talk.remark(format_args!("the log is of another boot, or incomplete: {error}"));
    }
    let tpm = tpm.ok();
    let lockout = tpm.as_ref().and_then(|tpm| tpm.lockout().ok());
    let sources = inputs::sources(global, &args.signature)?;
    let pins = Pins::read(&global.pins).map_err(Error::from)?;
    let mut reports = vec![];
    match &args.device {
        Some(device) => reports.push(report(
            global,
            device,
            args.header.as_deref(),
            &pins,
            &pcrs,
            &sources,
            tpm.as_ref(),
        )?),
        None => {
            for device in inputs::block_devices(global) {
                match report(global, &device, None, &pins, &pcrs, &sources, tpm.as_ref()) {
                    Ok(report) => reports.push(report),
                    Err(Error::Luks(LuksError::NotLuks2 { .. } | LuksError::Io { .. })) => {}
                    Err(error) => talk.remark(format_args!("{}: {error}", device.display())),
                }
            }
        }
    }
    let typed = TypedBoots::count(global);
    if talk.json {
        let volumes: Vec<_> = reports.iter().map(VolumeReport::to_json).collect();
        let lockout = lockout.map(|lockout| {
            json!({
                "counter": lockout.counter, "max_tries": lockout.max_tries,
                "interval": lockout.interval, "locked": lockout.is_locked(),
            })
        });
        talk.object(&json!({
            "seal_point": pcrs.source.name(), "lockout": lockout, "volumes": volumes,
            "passphrase_boots": typed.as_ref().map(TypedBoots::to_json),
        }));
    }
    if let Some(lockout) = lockout.filter(|lockout| lockout.counter > 0) {
        talk.prose(lockout);
    }
    if let Some(typed) = typed {
        typed.say(talk);
    }
    if reports.is_empty() {
        talk.remark("there is no LUKS2 volume");
    }
    for report in &reports {
        talk.prose(report.to_text(&pcrs).trim_end());
    }
    if reports.iter().any(VolumeReport::opens_by_signatures) {
        talk.prose("a boot that was approved once and withdrawn still opens for whoever kept its signature, or a copy of the header: nothing counts approvals in the TPM");
    }
    Ok(())
}

struct VolumeReport {
    device: PathBuf,
    metadata: Metadata,
    judgements: Vec<Judgement>,
    record: Option<Result<Record, String>>,
    pinned: &'static str,
    /// The word for a kernel command line that pins the volume.
    word: Option<String>,
}

fn report(
    global: &Global,
    device: &Path,
    header: Option<&Path>,
    pins: &Pins,
    pcrs: &Pcrs,
    sources: &Sources,
    tpm: Option<&Tpm>,
) -> Result<VolumeReport, Error> {
    let copy = HeaderCopy::read(device, header)?;
    let metadata = copy.metadata().clone();
    let tokens = metadata.tokens();
    let record = Record::find(&tokens).map(|(_, record)| record.map_err(|error| error.to_string()));
    let choice = Choice::among(&tokens, || sources.gather());
    let mut judgements = choice.judge(|bank, pcr| pcrs.get(bank, pcr));
    if let Some(logs) = &pcrs.logs {
        choice.name_events(&mut judgements, logs);
        for Judgement { token, verdict } in &mut judgements {
            if let Some(mismatch) = verdict.mismatch_mut() {
                inputs::name_causes(global, &tokens, *token, mismatch, logs);
            }
        }
    }
    if let Some(tpm) = tpm {
        boot::name_foreign(&mut judgements, tpm)?;
    }
    let pin = pins.get(metadata.uuid())?;
    let word = pin.as_ref().map(Pin::cmdline_word);
    let pinned = match pin {
        None => "no",
        Some(pin) if pin.check_header(&metadata).is_ok() => "yes",
        Some(_) => "differs",
    };
    Ok(VolumeReport { device: device.to_owned(), metadata, judgements, record, pinned, word })
}

impl VolumeReport {
    fn opens_by_signatures(&self) -> bool {
        let tokens = self.judgements.iter().filter_map(|judgement| judgement.verdict.token());
        tokens.into_iter().any(|token| token.authorization.is_some())
    }

    fn has_recovery_keyslot(&self) -> bool {
        self.keyslots().any(|(_, kind)| kind == KeyslotUse::RecoveryKey)
    }

    fn keyslots(&self) -> impl Iterator<Item = (u32, KeyslotUse)> {
        let slots = self.metadata.keyslots();
        slots.into_iter().map(|slot| (slot.id, KeyslotUse::of(&self.metadata, slot.id)))
    }

    fn to_json(&self) -> Value {
        let keyslots: Vec<_> = self
            .keyslots()
            .map(|(keyslot, kind)| json!({ "keyslot": keyslot, "use": word(kind) }))
            .collect();
        let tokens: Vec<_> = self
            .judgements
            .iter()
            .map(|judgement| {
                let mut json =
                    json!({ "token": judgement.token, "verdict": judgement.verdict.name() });
                let more = match &judgement.verdict {
                    Verdict::Fits(_) => json!({}),
                    Verdict::Differs(_, mismatch) => {
                        json!({ "pcrs": mismatch.pcrs(), "why": mismatch.to_string() })
                    }
                    Verdict::Unapproved(_, unapproved) => json!({ "why": unapproved.to_string() }),
                    Verdict::Foreign(_) => json!({ "why": "sealed by another TPM" }),
                    Verdict::Malformed(error) => json!({ "why": error.to_string() }),
                };
                if let (Some(json), Value::Object(more)) = (json.as_object_mut(), more) {
                    json.extend(more);
                    if let Some(token) = judgement.verdict.token() {
                        json.insert("keyslot".into(), token.keyslot.into());
                        json.insert("needs".into(), token.summary().to_string().into());
                        json.insert("pin".into(), token.pin.is_some().into());
                        json.insert("written_since".into(), token.writer().since.into());
                    }
                }
                json
            })
            .collect();
        json!({
            "device": self.device.to_string_lossy(),
            "uuid": self.metadata.uuid(),
            "pinned": self.pinned,
            "cmdline_word": self.word,
            "recovery_key": self.has_recovery_keyslot(),
            "keyslots": keyslots,
            "tokens": tokens,
            "generation": self.record.as_ref().and_then(|r| Some(r.as_ref().ok()?.generation)),
        })
    }

    fn to_text(&self, pcrs: &Pcrs) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = writeln!(out, "{}: LUKS2 volume {}", self.device.display(), self.metadata.uuid());
        let pinned = match self.pinned {
            "yes" => "pinned",
            "no" => "not pinned: at boot it would be refused",
            _ => "NOT the pinned volume: at boot it would be refused",
        };
        let _ = writeln!(out, "  {pinned}");
        if let Some(word) = &self.word {
            let _ = writeln!(out, "  on a kernel command line: {word}");
        }
        for (keyslot, kind) in self.keyslots() {
            let _ = writeln!(out, "  keyslot {keyslot}: {}", word(kind));
        }
        let _ = writeln!(
            out,
            "  recovery key: {}",
            if self.has_recovery_keyslot() { "present" } else { "missing" }
        );
        if self.judgements.is_empty() {
            let _ = writeln!(out, "  no TPM token");
        }
        for Judgement { token: id, verdict } in &self.judgements {
            if let Some(token) = verdict.token() {
                let _ = writeln!(
                    out,
                    "  token {id}: {}; form of systemd {} or later",
                    token.summary(),
                    token.writer().since
                );
            }
            let said = match verdict {
                _ if pcrs.source == Source::Unknown => {
                    "cannot tell: no event log and no TPM".into()
                }
                Verdict::Fits(candidate) => {
                    format!(
                        "opens keyslot {} in this boot{} (by the {})",
                        candidate.token.keyslot,
                        if candidate.token.pin.is_some() { ", given the PIN" } else { "" },
                        pcrs.source.name()
                    )
                }
                Verdict::Differs(token, mismatch) => {
                    format!("does not open keyslot {}: {mismatch}", token.keyslot)
                }
                Verdict::Unapproved(token, unapproved) => {
                    format!("does not open keyslot {}: {unapproved}", token.keyslot)
                }
                Verdict::Foreign(token) => {
                    format!("does not open keyslot {}: it was sealed by another TPM", token.keyslot)
                }
                Verdict::Malformed(error) => format!("malformed: {error}"),
            };
            let _ = writeln!(out, "  token {id}: {said}");
        }
        if let Some(Err(error)) = &self.record {
            let _ = writeln!(out, "  record: malformed: {error}");
        }
        out
    }
}

fn word(kind: KeyslotUse) -> &'static str {
    match kind {
        KeyslotUse::Passphrase => "passphrase",
        KeyslotUse::RecoveryKey => "recovery key",
        KeyslotUse::Tpm => "TPM",
        KeyslotUse::KeyFile => "key file",
        KeyslotUse::OtherToken => "other token",
        KeyslotUse::Unfinished => "left by an enrolment that was cut short",
        KeyslotUse::Unknown => "no token: perhaps a sealed keyslot whose token is gone",
        KeyslotUse::Unbound => "not a key of this volume",
    }
}
