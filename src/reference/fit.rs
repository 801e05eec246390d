//! Which event log in the guest's memory tells of the boot that the TPM saw. A log is the guest's
//! word: it counts only where its digests are, one by one, those that were extended.

use std::fmt;

use super::command_stream::Extend;
use crate::measurement::{
    Digest, Event, EventDigest, EventLog, EventType, InitrdWord, PcrBank, PcrIndex, UserspaceLog,
};

/// What the firmware measures when the kernel takes over, after the log was handed out
/// (PFP 8.2.4): the events are in a table of their own, and in the logs of some.
const ACTIONS: [&str; 3] = [
    "Exit Boot Services Invocation",
    "Exit Boot Services Returned with Success",
    "Exit Boot Services Returned with Failure",
];
const ACTION_PCR: u8 = 5;
/// IMA has a log of its own, and nothing is sealed to its PCR.
const IMA: u8 = 10;

/// The logs of a boot, each digest of which the TPM saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// The firmware's log, to its end.
    pub log: EventLog,
    /// What systemd measured after it.
    pub userspace: UserspaceLog,
}

/// Why no log tells of the boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// There is no log in the guest's memory.
    NoLog,
    /// The log that comes nearest says something else than the TPM saw.
    Differs {
        /// How many of the extends it tells of.
        told: usize,
        /// The PCR of the first one that it does not.
        pcr: PcrIndex,
        /// What was extended.
        seen: String,
        /// What the log says instead; `None` where it ends there.
        logged: Option<String>,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLog => f.write_str("there is no event log in its memory"),
            Self::Differs { told, pcr, seen, logged: Some(logged) } => write!(
                f,
                "after {told} extends the TPM saw {seen} in PCR {pcr}, and its event log says {logged}"
            ),
            Self::Differs { told, pcr, seen, logged: None } => write!(
                f,
                "after {told} extends the TPM saw {seen} in PCR {pcr}, which its event log does not tell of"
            ),
        }
    }
}

/// The first of the logs that tells of these extends in a bank, in order and to the last. What a
/// log has after that is left out: nobody knows where in the guest's memory one ends.
///
/// # Errors
/// [`Unfit`] of the log that comes nearest.
pub fn fit(
    logs: impl IntoIterator<Item = EventLog>,
    extends: &[Extend],
    bank: PcrBank,
) -> Result<Fitted, Unfit> {
    let mut nearest: Option<(usize, Unfit)> = None;
    for log in logs.into_iter().filter(|log| log.banks() == [bank]) {
        match fit_one(&log, extends, bank) {
            Ok(fitted) => return Ok(fitted),
            Err((told, unfit)) => {
                if nearest.as_ref().is_none_or(|(most, _)| told > *most) {
                    nearest = Some((told, unfit));
                }
            }
        }
    }
    Err(nearest.map_or(Unfit::NoLog, |(_, unfit)| unfit))
}

fn fit_one(log: &EventLog, extends: &[Extend], bank: PcrBank) -> Result<Fitted, (usize, Unfit)> {
    let mut logged = log.events().iter().filter(|event| event.extends()).peekable();
    // The header of a crypto-agile log extends nothing.
    let (mut told, mut end) = (0, 1);
    let (mut actions, mut words) = (vec![], vec![]);
    for extend in extends {
        // A bank without a digest is not extended.
        let Some(digest) = digest_of(extend, bank) else { continue };
        let is_it = |event: &&Event| {
            event.pcr == u32::from(extend.pcr.get()) && event.digest(bank) == Some(digest)
        };
        let is_log_over = !actions.is_empty() || !words.is_empty();
        if let Some(event) = logged.next_if(|event| !is_log_over && is_it(event)) {
            (told, end) = (told + 1, event.number + 1);
        } else if is_unsealed(extend.pcr) {
            continue;
        } else if let (true, Some(event)) = (words.is_empty(), action(extend.pcr, digest)) {
            actions.push(event);
        } else if let Some(event) = InitrdWord::event(extend.pcr, digest) {
            words.push(event);
        } else {
            let (pcr, seen) = (extend.pcr, short(&digest));
            let next = logged.peek().filter(|_| !is_log_over);
            let logged = next.map(|event| shown(event, bank));
            return Err((told, Unfit::Differs { told, pcr, seen, logged }));
        }
    }
    let mut events: Vec<Event> = log.events().iter().take(end).cloned().collect();
    for event in actions {
        events.push(Event { number: events.len(), ..event });
    }
    let log = EventLog::from_events(log.format().clone(), events);
    Ok(Fitted { log, userspace: UserspaceLog::from_events(words) })
}

/// PCRs that are never sealed to, and that not every log tells of.
fn is_unsealed(pcr: PcrIndex) -> bool {
    pcr.get() == IMA || pcr.is_resettable()
}

fn digest_of(extend: &Extend, bank: PcrBank) -> Option<Digest> {
    let digest = extend.digests.iter().find(|digest| digest.alg_id == bank.alg_id())?;
    Digest::from_bytes(bank, &digest.bytes).ok()
}

fn action(pcr: PcrIndex, digest: Digest) -> Option<Event> {
    let bank = digest.bank();
    let is_it = |text: &&str| pcr.get() == ACTION_PCR && bank.hash(text.as_bytes()) == digest;
    let text = ACTIONS.into_iter().find(is_it)?;
    let digests = vec![EventDigest { alg_id: bank.alg_id(), bytes: digest.as_bytes().to_vec() }];
    let (pcr, event_type) = (pcr.get().into(), EventType::EfiAction);
    Some(Event { number: 0, pcr, event_type, digests, raw: text.as_bytes().to_vec() })
}

fn shown(event: &Event, bank: PcrBank) -> String {
    let digest = event.digest(bank).map_or("no digest".to_owned(), |digest| short(&digest));
    format!("{digest} in PCR {} ({})", event.pcr, event.event_type)
}

fn short(digest: &Digest) -> String {
    digest.to_string().chars().take(8).collect()
}

#[cfg(test)]
mod tests;
