//! `vmseal eventlog`: the measured boot as a story, event by event beneath, or as JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use vmseal::Error;
use vmseal::boot::BootLogs;
use vmseal::coverage::{Coverage, Phase, StoryLine, story};
use vmseal::measurement::pcr::join_pcrs;
use vmseal::measurement::{Event, PcrBank, PcrIndex, PcrSelection, UserspaceEvent};

use super::terminal::Talk;
use super::{Done, inputs};
use crate::cli::{Eventlog, Global};

/// Prints the log, then compares it with the TPM where that is asked for.
pub fn run(global: &Global, args: &Eventlog, talk: Talk) -> Done {
    let firmware = args.file.as_deref().or(global.eventlog.as_deref());
    let logs = inputs::boot_logs(global, firmware, args.userspace_log.as_deref())?;
    // A script gets its object only where the log tells the truth; a person sees both.
    let verified = args.verify.then(|| verify(&logs, global)).transpose();
    match (&verified, talk.json) {
        (Ok(_), true) => talk.object(&to_json(&logs)?),
        (Err(_), true) => {}
        (_, false) => talk.prose(to_text(&logs, talk.verbose > 0).trim_end()),
    }
    if let Some(banks) = verified? {
        let names: Vec<_> = banks.iter().map(ToString::to_string).collect();
        talk.remark(format_args!("the log agrees with the TPM's PCRs ({})", names.join(", ")));
    }
    Ok(())
}

/// Compares every bank that the log and the TPM have in common, and tells which those are.
fn verify(logs: &BootLogs, global: &Global) -> Result<Vec<PcrBank>, Error> {
    let tpm = inputs::tpm(global)?;
    let (common, other): (Vec<_>, Vec<_>) =
        tpm.active_banks()?.into_iter().partition(|bank| logs.firmware.banks().contains(bank));
    if common.is_empty() {
        let bank = other.first().copied().unwrap_or(PcrBank::Sha256);
        return Err(Error::LogLacksBank { bank });
    }
    let all = |bank: &PcrBank| PcrSelection::new(*bank, PcrIndex::all());
    for live in tpm.read_pcrs(&common.iter().map(all).collect::<Vec<_>>())? {
        logs.verify(&live)?;
    }
    Ok(common)
}

fn to_json(logs: &BootLogs) -> serde_json::Result<Value> {
    let mut events = Vec::new();
    for event in logs.firmware.events() {
        events.push(firmware_event(event)?);
    }
    let userspace = logs.userspace.iter().flat_map(|log| log.events());
    events.extend(userspace.enumerate().map(|(number, event)| userspace_event(number, event)));
    Ok(json!({ "events": events, "pcrs": serde_json::to_value(logs.replay())? }))
}

fn firmware_event(event: &Event) -> serde_json::Result<Value> {
    let data = event.data();
    let digests: Map<_, _> =
        digests(event).into_iter().map(|(name, hex)| (name, Value::from(hex))).collect();
    Ok(json!({
        "number": event.number,
        "pcr": event.pcr,
        "type": event.event_type.to_string(),
        "digests": digests,
        "data": serde_json::to_value(&data)?,
        "description": data.to_string(),
    }))
}

fn userspace_event(number: usize, event: &UserspaceEvent) -> Value {
    let text = |text: &Option<vmseal::measurement::LogText>| text.as_ref().map(ToString::to_string);
    json!({
        "log": "userspace",
        "number": number,
        "pcr": event.pcr,
        "type": text(&event.event_type).unwrap_or_else(|| "measurement".into()),
        "digests": event.digests,
        "data": { "kind": "userspace", "word": text(&event.word) },
        "description": event.to_string(),
    })
}

/// Algorithm and digest, the algorithm by number where it has no name here.
fn digests(event: &Event) -> Vec<(String, String)> {
    let named = |digest: &vmseal::measurement::EventDigest| {
        let name = PcrBank::from_alg_id(digest.alg_id)
            .map_or_else(|| format!("0x{:04x}", digest.alg_id), |bank| bank.to_string());
        (name, hex::encode(&digest.bytes))
    };
    event.digests.iter().map(named).collect()
}

// Writing to a String does not fail.
fn to_text(logs: &BootLogs, details: bool) -> String {
    let mut out = String::new();
    for line in story(&logs.firmware, logs.userspace.as_ref()) {
        let _ = writeln!(out, "{:<14}{}{}", line.phase.to_string(), line.text, shown_by(&line));
    }
    for caution in Coverage::of(&logs.firmware).cautions() {
        let _ = writeln!(out, "\n{caution}");
    }
    let _ = writeln!(out, "\nEvents:");
    for event in logs.firmware.events() {
        let pcr = if event.extends() { event.pcr.to_string() } else { "-".into() };
        let _ = writeln!(out, "{:>5}  PCR {pcr:<3} {}", event.number, event.data());
        if details {
            let _ = writeln!(out, "{:15}{}, {} bytes", "", event.event_type, event.raw.len());
            for (name, hex) in digests(event) {
                let _ = writeln!(out, "{:15}{name} {hex}", "");
            }
        }
    }
    for (number, event) in logs.userspace.iter().flat_map(|log| log.events()).enumerate() {
        let pcr = event.pcr.map_or("-".into(), |pcr| pcr.to_string());
        let _ = writeln!(out, "{number:>4}u  PCR {pcr:<3} {event}");
        if details {
            for (bank, digest) in &event.digests {
                let _ = writeln!(out, "{:15}{bank} {digest}", "");
            }
        }
    }
    if details {
        for (bank, values) in logs.replay() {
            let _ = writeln!(out, "\nReplayed {bank}:");
            for (pcr, value) in values.iter() {
                let _ = writeln!(out, "{:>5}  {value}", pcr.get());
            }
        }
    }
    out
}

/// Where a line of the story is to be found: ` [PCR 4, event 27]`.
fn shown_by(line: &StoryLine) -> String {
    let unit = if line.phase == Phase::Later { "u" } else { "" };
    let events = match (line.events.first(), line.events.last()) {
        (Some(first), Some(last)) if first == last => format!(", event {first}{unit}"),
        (Some(first), Some(last)) => format!(", events {first}{unit} to {last}{unit}"),
        _ => String::new(),
    };
    if line.pcrs.is_empty() {
        return String::new();
    }
    format!(" [PCR {}{events}]", join_pcrs(&line.pcrs))
}
