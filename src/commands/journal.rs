//! `vmseal journal`: what was approved on this machine, and whether that account is whole.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::authority::Scribes;
use vmseal::luks::HeaderCopy;
use vmseal::reseal::{Finding, Line, State, Store, StoreError, Verified, Witness};
use vmseal::token::Record;

use super::keeper::summary;
use super::terminal::Talk;
use super::{Done, authority};
use crate::cli::{Global, Journal};

/// Prints the journal, or says whether it is whole.
pub fn run(global: &Global, args: &Journal, talk: Talk) -> Done {
    let seen = Store::below(&global.root).read().map_err(Error::from)?;
    let witnesses = witnesses(&seen.state, &args.devices, talk)?;
    let names: Vec<_> = witnesses.iter().filter(|w| w.head.is_some()).map(|w| &w.name).collect();
    let names = json!(names);
    let lines = seen.verify(vec![], &|_, _| None).lines;
    let scribes = Scribes::of(&authority::store(global, None), &lines);
    let journal = seen.verify(witnesses, &|signature, line| scribes.check(signature, line));
    if talk.json {
        talk.object(&to_json(&journal, &names));
    }
    if args.verify {
        return verified(&journal, talk);
    }
    for line in &journal.lines {
        talk.prose(to_text(line));
    }
    if journal.torn {
        talk.remark(TORN);
    }
    if !journal.findings.is_empty() {
        talk.remark("the journal is not whole: vmseal journal --verify tells what is wrong");
    }
    Ok(())
}

const TORN: &str =
    "the last line is torn: the machine stopped while it was written, and nothing was done for it";

fn verified(journal: &Verified, talk: Talk) -> Done {
    tell_unsigned(journal, talk);
    if let Some(first) = journal.findings.first() {
        for finding in &journal.findings {
            talk.prose(finding);
        }
        let more = journal.findings.len() - 1 + journal.more;
        return Err(Error::from(StoreError::NotWhole { first: first.clone(), more }).into());
    }
    match journal.lines.last() {
        None => talk.prose("there is no journal, and nobody knows of one"),
        Some(last) => {
            talk.prose(format_args!(
                "the journal is whole: {} lines, {} signed by this machine's authority, the last of {}",
                journal.lines.len(),
                journal.signed,
                last.time
            ));
        }
    }
    if journal.torn {
        talk.remark(TORN);
    }
    if journal.unchecked > 0 {
        talk.remark(format_args!(
            "{} signatures were not checked: their key is not known here",
            journal.unchecked
        ));
    }
    Ok(())
}

/// Before there was a key nothing could be signed; after that, somebody may have left it out.
fn tell_unsigned(journal: &Verified, talk: Talk) {
    let is_signed = |line: &&Line| line.signature.is_some();
    let mut after = journal.lines.iter().skip_while(|line| !is_signed(line));
    let unsigned = after.by_ref().filter(|line| !is_signed(line));
    let numbers: Vec<u32> = unsigned.map(|line| line.seq).collect();
    match numbers.as_slice() {
        [] => {}
        [one] => {
            talk.remark(format_args!("1 line is not signed, though one before it is: line {one}"));
        }
        [first, ..] => talk.remark(format_args!(
            "{} lines are not signed, though one before them is: line {first} is the first",
            numbers.len()
        )),
    }
}

/// The records that may know where the journal ended: of the named volumes, or of those that the
/// state tells of, where they are still there.
fn witnesses(state: &State, devices: &[PathBuf], talk: Talk) -> Result<Vec<Witness>, Error> {
    let mut witnesses = vec![];
    for device in devices {
        witnesses.push(witness(device, None)?);
    }
    if devices.is_empty() {
        for (uuid, volume) in &state.volumes {
            let Some(device) = volume.device.as_deref().map(Path::new) else { continue };
            match witness(device, Some(uuid)) {
                Ok(witness) => witnesses.push(witness),
                Err(error) => talk
                    .remark(format_args!("the record of volume {uuid} is not compared: {error}")),
            }
        }
    }
    Ok(witnesses)
}

/// The record of a volume; one without a head says nothing, nor does that of another volume.
fn witness(device: &Path, uuid: Option<&String>) -> Result<Witness, Error> {
    let copy = HeaderCopy::read(device, None)?;
    let metadata = copy.metadata();
    let is_meant = uuid.is_none_or(|uuid| uuid == metadata.uuid());
    let record = Record::find(&metadata.tokens()).and_then(|(_, record)| record.ok());
    Ok(Witness {
        name: format!("the record of {}", device.display()),
        head: record.filter(|_| is_meant).and_then(|record| record.journal_head),
        is_state: false,
    })
}

fn to_text(line: &Line) -> String {
    let signed = if line.signature.is_some() { ", signed" } else { "" };
    format!("{} {} {}: {}{signed}", line.seq, line.time, line.kind, summary(&line.kind, &line.body))
}

fn to_json(journal: &Verified, witnesses: &Value) -> Value {
    let line = |line: &Line| {
        json!({
            "seq": line.seq, "time": line.time, "kind": line.kind.to_string(), "body": line.body,
            "signed_by": line.signature.as_ref().map(|signature| &signature.pkfp),
        })
    };
    let finding =
        |finding: &Finding| json!({ "finding": finding.name(), "text": finding.to_string() });
    json!({
        "lines": journal.lines.iter().map(line).collect::<Vec<_>>(),
        "head": journal.head().map(|head| head.to_string()),
        "torn": journal.torn,
        "signed": journal.signed,
        "unchecked": journal.unchecked,
        "findings": journal.findings.iter().map(finding).collect::<Vec<_>>(),
        "more_findings": journal.more,
        "compared_with": witnesses,
    })
}
