//! `vmseal explain`: what changed since the boot that a volume is sealed to, or between two logs.

use std::path::Path;

use clap::CommandFactory;
use clap::error::ErrorKind;
use serde_json::{Value, json};
use vmseal::Error;
use vmseal::boot::{BootLogs, Choice, Judgement, Verdict, refusal};
use vmseal::luks::HeaderCopy;
use vmseal::measurement::PcrBank;
use vmseal::measurement::diff::{Change, Finding, Note, changes, explain};
use vmseal::measurement::pcr::join_pcrs;
use vmseal::token::BootEntry;

use super::terminal::Talk;
use super::{Done, inputs};
use crate::cli::{Cli, Explain, Global};

/// Most lines that are printed without `--verbose`.
const MAX_LINES: usize = 10;
/// The last of them, where anything differs.
const LAST: &str = "If you did not make this change, do not type the passphrase here.";

/// Explains.
pub fn run(global: &Global, args: &Explain, talk: Talk) -> Done {
    match &args.device {
        Some(device) => of_device(global, args, device, talk),
        None => of_logs(global, args, talk),
    }
}

/// Between two logs, or a log and this boot's.
fn of_logs(global: &Global, args: &Explain, talk: Talk) -> Done {
    if args.log.len() > 2 || args.userspace_log.len() > args.log.len() {
        let message = "at most two --log, each with at most one --userspace-log";
        Cli::command().error(ErrorKind::TooManyValues, message).exit();
    }
    let userspace = |index: usize| args.userspace_log.get(index).map(AsRef::as_ref);
    let first = args.log.first().map(AsRef::as_ref);
    let expected = inputs::boot_logs(global, first, userspace(0))?;
    let (seen, cmdline) = match args.log.get(1) {
        Some(log) => (inputs::boot_logs(global, Some(log), userspace(1))?, None),
        None => {
            (inputs::boot_logs(global, global.eventlog.as_deref(), None)?, inputs::cmdline(global))
        }
    };
    let bank = common_bank(&expected, &seen)?;
    let old = all_notes(&expected, bank, None);
    let new = all_notes(&seen, bank, cmdline.as_deref());
    let findings = explain(&old, &new);
    tell(&findings, &changes(&old, &new), talk, json!({ "bank": bank }));
    if findings.is_empty() {
        talk.prose("nothing differs");
    }
    Ok(())
}

fn all_notes(logs: &BootLogs, bank: PcrBank, cmdline: Option<&str>) -> Vec<Note> {
    vmseal::measurement::diff::notes(&logs.firmware, logs.userspace.as_ref(), bank, cmdline)
}

/// The bank to compare in: SHA-256 where both have it.
fn common_bank(expected: &BootLogs, seen: &BootLogs) -> Result<PcrBank, Error> {
    let theirs = seen.firmware.banks();
    let common: Vec<PcrBank> =
        expected.firmware.banks().into_iter().filter(|bank| theirs.contains(bank)).collect();
    let preferred = common.iter().find(|bank| **bank == PcrBank::Sha256).or(common.first());
    let bank = expected.firmware.banks().first().copied().unwrap_or(PcrBank::Sha256);
    preferred.copied().ok_or(Error::LogLacksBank { bank })
}

/// Between the boot that a volume is sealed to and this one.
fn of_device(global: &Global, args: &Explain, device: &Path, talk: Talk) -> Done {
    let header = HeaderCopy::read(device, args.header.as_deref()).map_err(Error::from)?;
    let logs = inputs::boot_logs(global, global.eventlog.as_deref(), None)?;
    let tokens = header.metadata().tokens();
    let sources = inputs::sources(global, &args.signature)?;
    let choice = Choice::among(&tokens, || sources.gather());
    let value = |bank, pcr| logs.seal_point(bank).ok()?.values.get(pcr).copied();
    let mut judgements = choice.judge(value);
    let fits = |judgement: &&Judgement| matches!(judgement.verdict, Verdict::Fits(_));
    if let Some(Judgement { token, verdict }) = judgements.iter().find(fits) {
        let keyslot = verdict.token().map(|token| token.keyslot);
        tell(&[], &[], talk, json!({ "token": token, "keyslot": keyslot }));
        talk.prose(format_args!("this boot is the one that token {token} is sealed to"));
        return Ok(());
    }
    choice.name_events(&mut judgements, &logs);
    let error = refusal(judgements);
    let (token, mismatch) = match &error {
        Error::PcrMismatch { token, mismatch } => (*token, Some(mismatch)),
        Error::Unapproved { token, unapproved } => (*token, unapproved.mismatch.as_ref()),
        _ => return Err(error.into()),
    };
    let Some(mismatch) = mismatch else { return Err(error.into()) };
    let Some((entry, expected)) = inputs::expected_boot(global, &tokens, token, mismatch) else {
        return Err(error.into());
    };
    let mut seen = logs.notes(mismatch.bank, inputs::cmdline(global).as_deref());
    if expected.is_none() {
        // Of other PCRs the record keeps nothing: they would all seem new.
        seen.retain(|note| entry.values.get(note.pcr).is_some());
    }
    let recorded = recorded_notes(&entry);
    let (findings, old) = match &expected {
        Some(expected) => (expected.explain(&seen), &expected.notes),
        None => (explain(&recorded, &seen), &recorded),
    };
    let differ = mismatch.pcrs();
    let facts = json!({
        "token": token,
        "keyslot": entry.keyslot,
        "differ": differ,
        "expected_events": expected.is_some(),
    });
    tell(&findings, &changes(old, &seen), talk, facts);
    if findings.is_empty() {
        talk.prose(format_args!("PCR {} differs; no recorded event tells why", join_pcrs(&differ)));
    }
    Err(error.into())
}

/// What the header's record keeps of an approved boot: a few bytes of each digest.
fn recorded_notes(entry: &BootEntry) -> Vec<Note> {
    let events = entry.events.iter();
    events.flat_map(|(pcr, all)| all.iter().map(|digest| Note::unknown(*pcr, digest))).collect()
}

/// Prints the causes; with `--verbose` every event beneath them.
fn tell(findings: &[Finding], changes: &[Change<'_>], talk: Talk, facts: Value) {
    if talk.json {
        let mut object = facts;
        if let Some(object) = object.as_object_mut() {
            object.insert("differences".into(), findings.iter().map(finding_json).collect());
        }
        talk.object(&object);
        return;
    }
    // One line is the closing one.
    let fit = match (talk.verbose, findings.len() < MAX_LINES) {
        (0, false) => MAX_LINES - 2,
        _ => findings.len(),
    };
    findings.iter().take(fit).for_each(|finding| talk.prose(finding));
    if findings.len() > fit {
        talk.prose(format_args!("{} more differences: --verbose tells all", findings.len() - fit));
    }
    if talk.verbose > 0 {
        changes.iter().for_each(|change| talk.prose(change));
    }
    if !findings.is_empty() {
        talk.prose(LAST);
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "cause": finding.cause,
        "pcrs": finding.pcrs,
        "text": finding.text,
        "usual": finding.usual,
        "advice": finding.advice(),
    })
}
