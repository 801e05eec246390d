//! A prediction in prose and as JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use vmseal::measurement::text::printable;
use vmseal::measurement::{Digest, PcrBank};
use vmseal::prediction::{Account, EntryPrediction, Fate, Prediction};

/// The JSON of `docs/formats.md`.
pub fn to_json(prediction: &Prediction, banks: &[PcrBank]) -> Value {
    let entries: Vec<Value> =
        prediction.entries.iter().map(|entry| entry_json(entry, banks)).collect();
    let mut whole = json!({ "entries": entries });
    if let (Some(then), Some(object)) = (&prediction.then, whole.as_object_mut()) {
        object.insert("then".into(), to_json(then, banks));
    }
    whole
}

fn is_wanted(bank: PcrBank, banks: &[PcrBank]) -> bool {
    banks.is_empty() || banks.contains(&bank)
}

fn entry_json(entry: &EntryPrediction, banks: &[PcrBank]) -> Value {
    let pcrs: Map<String, Value> = entry
        .pcrs
        .iter()
        .filter(|(bank, _)| is_wanted(**bank, banks))
        .map(|(bank, values)| (bank.to_string(), json!(values)))
        .collect();
    json!({
        "id": printable(&entry.id, 400),
        "title": entry.title.as_deref().map(|title| printable(title, 400)),
        "default": entry.default,
        "pcrs": pcrs,
        "unpredictable": entry.unpredictable,
        "events": entry.events.iter().map(account_json).collect::<Vec<_>>(),
    })
}

fn account_json(account: &Account) -> Value {
    let by_bank = |digests: &[Digest]| {
        let pairs = digests.iter().map(|digest| (digest.bank().to_string(), digest.to_string()));
        pairs.map(|(bank, hex)| (bank, Value::from(hex))).collect::<Map<_, _>>()
    };
    let new = account.new.as_ref();
    json!({
        "pcr": account.pcr,
        "what": printable(&account.what, 4096),
        "fate": account.fate,
        "old": by_bank(&account.old),
        "new": by_bank(new.map(Vec::as_slice).unwrap_or_default()),
        "why": new.err(),
        "source": account.source.as_deref().map(|source| printable(source, 400)),
    })
}

/// Characters of a digest that prose shows.
const DIGEST_SHOWN: usize = 16;

// Writing to a String does not fail.
/// The account for people: the default entry first, changed events only unless `details`.
pub fn to_text(prediction: &Prediction, banks: &[PcrBank], details: bool) -> String {
    let mut out = String::new();
    let (first, others): (Vec<_>, Vec<_>) =
        prediction.entries.iter().partition(|entry| entry.default);
    for entry in first.into_iter().chain(others) {
        let default = if entry.default { " (default)" } else { "" };
        let _ = writeln!(out, "{}{default}", printable(&entry.id, 400));
        entry_text(&mut out, entry, banks, details);
        out.push('\n');
    }
    if let Some(then) = &prediction.then {
        let _ = writeln!(out, "The boot after it:\n");
        out.push_str(&to_text(then, banks, details));
    }
    out
}

fn entry_text(out: &mut String, entry: &EntryPrediction, banks: &[PcrBank], details: bool) {
    let shown = entry.events.iter().filter(|account| details || account.is_changed());
    let mut count = 0;
    for account in shown {
        count += 1;
        let fate = account.fate;
        let _ = writeln!(out, "  PCR {:<3}{fate:<13}{}", account.pcr.get(), printable(&account.what, 200));
        let short = |digests: &[Digest]| {
            let digest = digests.iter().find(|digest| is_wanted(digest.bank(), banks))?;
            Some(digest.to_string().chars().take(DIGEST_SHOWN).collect::<String>())
        };
        let old = short(&account.old).unwrap_or_else(|| "-".to_owned());
        match (&account.new, fate) {
            (Err(why), _) => {
                let _ = writeln!(out, "         unpredictable: {}", printable(why, 400));
            }
            (Ok(_), Fate::CarriedOver | Fate::Remeasured) => {}
            (Ok(new), _) => {
                let new = short(new).unwrap_or_else(|| "-".to_owned());
                let _ = writeln!(out, "         {old} -> {new}");
            }
        }
    }
    if count == 0 {
        let _ = writeln!(out, "  nothing changes");
    }
    for unpredictable in &entry.unpredictable {
        let (pcr, event) = (unpredictable.pcr, printable(&unpredictable.event, 200));
        let _ = writeln!(out, "  PCR {pcr} cannot be told: {event}: {}", printable(&unpredictable.why, 400));
    }
    for (bank, values) in entry.pcrs.iter().filter(|(bank, _)| is_wanted(**bank, banks)) {
        for (pcr, value) in values.iter() {
            let _ = writeln!(out, "  {bank} {:>2} {value}", pcr.get());
        }
    }
}
