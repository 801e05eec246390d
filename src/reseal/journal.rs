//! Whether a journal is whole: a pure question to its bytes and to the heads that others noted.
//!
//! The chain names what was changed between two lines that stayed. Only a head that was noted
//! elsewhere can tell that the end is missing, or that all lines after a change were written anew.

mod findings;

use std::collections::BTreeMap;

use serde_json::Value;

use super::line::{Kind, Line, Signature};
use crate::measurement::text::printable;
use crate::measurement::{Digest, PcrBank};
use crate::token::JournalHead;

pub use findings::Finding;
use findings::Findings;

/// Somebody who may have noted where the journal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Who, for messages.
    pub name: String,
    /// What was noted.
    pub head: Option<JournalHead>,
    /// Whether it is the state, which is written after each line, and so lags by one at most.
    pub is_state: bool,
}

/// Whether a signature is genuine; `None` where its key is not at hand.
pub type Check<'a> = &'a dyn Fn(&Signature, &[u8]) -> Option<bool>;

/// A journal, and whether it is whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verified {
    /// The lines that can be read, in the order of the file.
    pub lines: Vec<Line>,
    /// What is wrong, in the order of the file, witnesses last.
    pub findings: Vec<Finding>,
    /// Findings that were left out: there are too many.
    pub more: usize,
    /// Whether the last line is torn: writing was cut short, before anybody noted the line.
    pub torn: bool,
    /// Lines whose signature is genuine.
    pub signed: usize,
    /// Lines whose signature could not be checked.
    pub unchecked: usize,
    /// Bytes of the lines that are there to stay: a torn one is not among them.
    pub(super) kept: usize,
    /// Whether the file's first line can be read.
    is_begun: bool,
    /// Number and digest of the last line in the file, whether or not it can be read.
    pub(super) last: Option<(u32, Digest)>,
    /// First bytes of the digest of line 1; of the file's first line where that is another.
    pub(super) begin: [u8; 4],
    /// Whether something is wrong that no line of the journal tells of yet.
    pub(super) is_news: bool,
}

/// Each line's position among those that can be read, and in the file from 1, by its number.
type Order = BTreeMap<u32, (usize, usize)>;

/// Reads a journal and compares it with what was noted elsewhere.
pub fn verify(bytes: &[u8], witnesses: &[Witness], check: Check<'_>) -> Verified {
    let mut journal = Verified::default();
    let kept = kept(bytes, witnesses);
    journal.kept = kept.len();
    journal.torn = kept.len() < bytes.len();
    let mut findings = Findings::default();
    let order = journal.read_lines(kept, check, &mut findings);
    let edited = chain(&journal.lines, &order, &mut findings);
    // Where the journal itself tells of a break, it told of all that came before.
    journal.is_news = findings.is_news();
    for witness in witnesses {
        let finding = journal.compare(witness, &order, edited);
        journal.is_news |= witness.is_state && finding.is_some();
        findings.add_all(finding);
    }
    (journal.findings, journal.more) = findings.finish();
    journal
}

impl Verified {
    /// Where the journal ends, for others to note.
    pub fn head(&self) -> Option<JournalHead> {
        self.last.map(|(seq, hash)| JournalHead { seq, hash, begin: self.begin })
    }

    /// Reads the lines one by one. Returns where each number stands.
    fn read_lines(&mut self, kept: &[u8], check: Check<'_>, findings: &mut Findings) -> Order {
        let mut order = BTreeMap::new();
        let mut before = None;
        let mut unread = 0;
        let mut gaps = vec![];
        let text = kept.strip_suffix(b"\n").unwrap_or(kept);
        let texts = text.split(|byte| *byte == b'\n').filter(|_| !kept.is_empty());
        for (number, text) in (1..).zip(texts) {
            let hash = PcrBank::Sha256.hash(text);
            if number == 1 {
                self.begin = hash.as_bytes().first_chunk().copied().unwrap_or_default();
            }
            let highest = order.last_key_value().map_or(0, |(seq, _)| *seq);
            let Some(line) = Line::parse(text) else {
                findings.add(number, Finding::Malformed { line: number });
                unread += 1;
                let seq = self.last.map_or(0, |(seq, _)| seq).saturating_add(1);
                (self.last, before) = (Some((seq, hash)), Some(hash));
                continue;
            };
            self.is_begun |= number == 1;
            if line.seq == 1 {
                self.begin = hash.as_bytes().first_chunk().copied().unwrap_or_default();
            }
            if order.contains_key(&line.seq) || line.seq < highest {
                findings.add(number, Finding::Reordered { line: number, seq: line.seq });
            } else {
                gaps.push((number, highest, line.seq, std::mem::take(&mut unread)));
            }
            if line.kind == Kind::Break {
                // Its number makes room for what is missing: only what is there can be compared.
                let zero = Digest::zero(PcrBank::Sha256);
                if line.prev != before.unwrap_or(zero) {
                    findings.add(number, Finding::Edited { line: line.seq.saturating_sub(1) });
                }
                findings.tell(number, Finding::Noted { seq: line.seq, text: noted(&line) });
            }
            self.check_signature(&line, text, check, number, findings);
            let highest = highest.max(line.seq);
            (self.last, before) = (Some((highest, hash)), Some(hash));
            order.entry(line.seq).or_insert((self.lines.len(), number));
            self.lines.push(line);
        }
        for (number, below, above, unread) in gaps {
            let Some(first) = below.checked_add(1).filter(|first| *first < above) else { continue };
            let elsewhere = order.range(first..above).count();
            let missing = usize::try_from(above - first).unwrap_or(usize::MAX) - elsewhere;
            if missing > unread {
                findings.add(number, Finding::Missing { first, last: above - 1 });
            }
        }
        order
    }

    fn check_signature(
        &mut self,
        line: &Line,
        text: &[u8],
        check: Check<'_>,
        number: usize,
        findings: &mut Findings,
    ) {
        let Some(signature) = &line.signature else { return };
        let message = Line::signed(text).unwrap_or_default();
        match check(signature, &message) {
            Some(true) => self.signed += 1,
            Some(false) => findings.add(number, Finding::BadSignature { seq: line.seq }),
            None => self.unchecked += 1,
        }
    }

    /// What a witness knows better. `edited` tells that line 1 is known not to be the true one.
    fn compare(&self, witness: &Witness, order: &Order, edited: bool) -> Option<Finding> {
        let witness_name = || printable(&witness.name, 80);
        let Some(head) = &witness.head else {
            // The very first line is on the disk before anything is noted.
            let unnoted = witness.is_state && self.last.is_some_and(|(seq, _)| seq > 1);
            return unnoted.then(|| Finding::NotNoted { witness: witness_name() });
        };
        let Some((last, _)) = self.last else {
            return Some(Finding::Gone { witness: witness_name(), seq: head.seq });
        };
        let line = order.get(&head.seq).and_then(|(position, _)| self.lines.get(*position));
        let fits = line.is_some_and(|line| line.hash == head.hash);
        if !fits && head.begin != self.begin && !edited && self.is_begun {
            return Some(Finding::Replaced { witness: witness_name() });
        }
        if head.seq > last {
            return Some(Finding::Truncated { witness: witness_name(), seq: head.seq, last });
        }
        if line.is_some() && !fits {
            return Some(Finding::Forked { witness: witness_name(), seq: head.seq });
        }
        let is_behind = witness.is_state && last - head.seq > 1;
        is_behind.then(|| Finding::Behind { witness: witness_name(), seq: head.seq, last })
    }
}

/// The bytes without a torn line at the end: one without an end or with zeros in it, as a power cut
/// leaves it, that nobody has noted.
fn kept<'a>(bytes: &'a [u8], witnesses: &[Witness]) -> &'a [u8] {
    let (text, is_ended) = match bytes.strip_suffix(b"\n") {
        Some(text) => (text, true),
        None => (bytes, false),
    };
    let start = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let (before, last) = bytes.split_at(start);
    let hash = PcrBank::Sha256.hash(last.strip_suffix(b"\n").unwrap_or(last));
    let is_noted = witnesses.iter().any(|w| w.head.is_some_and(|head| head.hash == hash));
    if (is_ended && !last.contains(&0)) || is_noted { bytes } else { before }
}

/// Follows the chain by the lines' numbers. Returns whether line 1 is not the one that line 2 was
/// written after.
fn chain(lines: &[Line], order: &Order, findings: &mut Findings) -> bool {
    let line = |seq: u32| order.get(&seq).and_then(|(position, _)| lines.get(*position));
    let mut first_edited = false;
    for (seq, (position, number)) in order {
        let Some(this) = lines.get(*position) else { continue };
        let before = match seq.checked_sub(1) {
            Some(0) | None => Some(Digest::zero(PcrBank::Sha256)),
            Some(before) => line(before).map(|line| line.hash),
        };
        if before.is_some_and(|hash| hash != this.prev) && this.kind != Kind::Break {
            findings.add(*number, Finding::Edited { line: (seq - 1).max(1) });
            first_edited |= *seq <= 2;
        }
    }
    first_edited
}

fn noted(line: &Line) -> String {
    let found = line.body.get("found").and_then(Value::as_array);
    let first = found.and_then(|found| found.first()).and_then(Value::as_str);
    printable(first.unwrap_or_default(), 200)
}
