//! What `verify` names of a journal that is not as it was written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use proptest::prelude::*;
use serde_json::json;
use vmseal::measurement::{Digest, PcrBank};
use vmseal::reseal::{Draft, Finding, Kind, Signature, Verified, Witness, verify};
use vmseal::token::JournalHead;

fn draft(text: &str) -> Draft {
    let body = json!({ "text": text }).as_object().unwrap().clone();
    Draft { kind: Kind::Enroll, time: "2026-11-25T13:29:13Z".into(), body }
}

/// A journal in memory: its lines, and the head after each.
#[derive(Debug, Clone)]
struct Written {
    lines: Vec<String>,
    heads: Vec<JournalHead>,
}

impl Written {
    fn of(texts: &[String]) -> Self {
        Self { lines: vec![], heads: vec![] }.and(texts)
    }

    fn and(mut self, texts: &[String]) -> Self {
        for text in texts {
            let last = self.heads.last();
            let seq = last.map_or(1, |head| head.seq + 1);
            let prev = last.map_or(Digest::zero(PcrBank::Sha256), |head| head.hash);
            let line = draft(text).encode(seq, &prev, None).unwrap();
            let hash = PcrBank::Sha256.hash(line.as_bytes());
            let begin = last.map_or(*hash.as_bytes().first_chunk().unwrap(), |head| head.begin);
            self.heads.push(JournalHead { seq, hash, begin });
            self.lines.push(line);
        }
        self
    }

    fn bytes(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
    }

    fn last(&self) -> Option<JournalHead> {
        self.heads.last().copied()
    }
}

fn check(bytes: &[u8], state: Option<JournalHead>) -> Verified {
    with_record(bytes, state, None)
}

fn with_record(bytes: &[u8], state: Option<JournalHead>, record: Option<JournalHead>) -> Verified {
    let state = Witness { name: "state.json".into(), head: state, is_state: true };
    let record = Witness { name: "the record".into(), head: record, is_state: false };
    verify(bytes, &[state, record], &|_, _| None)
}

fn names(verified: &Verified) -> Vec<&'static str> {
    verified.findings.iter().map(Finding::name).collect()
}

fn texts(least: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(".{0,12}", least..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_was_written_is_whole(texts in texts(0), behind in 0..2usize, record in 0..12usize) {
        let written = Written::of(&texts);
        let state = written.heads.iter().rev().nth(behind).copied();
        let record = written.heads.get(record).copied();
        let verified = with_record(&written.bytes(), state, record);
        prop_assert_eq!(&verified.findings, &[]);
        prop_assert_eq!(verified.lines.len(), texts.len());
        prop_assert!(!verified.torn);
        prop_assert_eq!(verified.head(), written.last());
    }

    #[test]
    fn a_cut_end_is_named(texts in texts(1), at in any::<prop::sample::Index>()) {
        let written = Written::of(&texts);
        let mut bytes = written.bytes();
        // Without its very last byte the line is still the one that was noted.
        bytes.truncate(at.index(bytes.len() - 1));
        let verified = check(&bytes, written.last());
        prop_assert!(matches!(names(&verified)[..], ["truncated"] | ["gone"]), "{:?}", verified);
        let record = with_record(&bytes, verified.head(), written.last());
        prop_assert!(matches!(names(&record)[..], ["truncated"] | ["gone"]), "{:?}", record);
    }

    /// What a power cut leaves of a line that nobody has noted is no tampering.
    #[test]
    fn a_torn_end_is_told_apart(texts in texts(1), at in any::<prop::sample::Index>(), zeros in any::<bool>()) {
        let written = Written::of(&texts);
        let state = written.heads.iter().rev().nth(1).copied();
        let last = written.lines.last().unwrap();
        let whole = written.bytes();
        let mut bytes = whole.clone();
        let start = whole.len() - last.len() - 1;
        let left = at.index(last.len());
        match zeros {
            true => bytes[start + left..whole.len() - 1].fill(0),
            false => bytes.truncate(start + left),
        }
        let verified = check(&bytes, state);
        prop_assert_eq!(&verified.findings, &[]);
        prop_assert_eq!(verified.torn, bytes.len() > start);
        prop_assert_eq!(verified.lines.len(), texts.len() - 1);
    }

    #[test]
    fn an_edited_line_is_named(texts in texts(2), which in any::<prop::sample::Index>(), other in ".{13,20}") {
        let written = Written::of(&texts);
        let which = which.index(texts.len());
        let mut edited = written.clone();
        let prev = which.checked_sub(1).map_or(Digest::zero(PcrBank::Sha256), |i| written.heads[i].hash);
        let seq = u32::try_from(which + 1).unwrap();
        edited.lines[which] = draft(&other).encode(seq, &prev, None).unwrap();
        let verified = check(&edited.bytes(), written.last());
        let expected = match which + 1 == texts.len() {
            true => Finding::Forked { witness: "state.json".into(), seq },
            false => Finding::Edited { line: seq },
        };
        prop_assert_eq!(&verified.findings, &[expected]);
    }

    #[test]
    fn no_changed_byte_goes_unnoticed(texts in texts(1), at in any::<prop::sample::Index>(), by in 1..=255u8) {
        let written = Written::of(&texts);
        let mut bytes = written.bytes();
        let at = at.index(bytes.len() - 1);
        bytes[at] ^= by;
        let verified = check(&bytes, written.last());
        prop_assert!(!verified.findings.is_empty(), "byte {}", at);
    }

    #[test]
    fn lines_in_another_order_are_named(texts in texts(2), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
        let mut written = Written::of(&texts);
        let (a, b) = (a.index(texts.len()), b.index(texts.len()));
        prop_assume!(a != b);
        let last = written.last();
        written.lines.swap(a, b);
        let verified = check(&written.bytes(), last);
        prop_assert!(!verified.findings.is_empty());
        prop_assert!(names(&verified).iter().all(|name| *name == "reordered"), "{:?}", verified);
    }

    #[test]
    fn a_line_that_is_missing_or_there_twice_is_named(texts in texts(3), which in any::<prop::sample::Index>()) {
        let written = Written::of(&texts);
        let which = which.index(texts.len() - 1);
        let seq = u32::try_from(which + 1).unwrap();
        let (mut without, mut twice) = (written.clone(), written.clone());
        without.lines.remove(which);
        let verified = check(&without.bytes(), written.last());
        prop_assert_eq!(&verified.findings, &[Finding::Missing { first: seq, last: seq }]);
        let again = twice.lines[which].clone();
        twice.lines.push(again);
        let verified = check(&twice.bytes(), written.last());
        let line = texts.len() + 1;
        prop_assert_eq!(&verified.findings, &[Finding::Reordered { line, seq }]);
    }

    /// Whoever writes all lines anew from one on must also change what others noted.
    #[test]
    fn a_fork_is_named_by_whoever_knows_better(mine in texts(2), theirs in texts(2), at in any::<prop::sample::Index>()) {
        let at = at.index(mine.len() - 1) + 1;
        let written = Written::of(&mine);
        let theirs: Vec<String> = theirs.iter().map(|text| format!("{text} by another hand")).collect();
        let forked = Written::of(&mine[..at]).and(&theirs);
        let knows = written.heads[at];
        let by_state = check(&forked.bytes(), Some(knows));
        prop_assert!(names(&by_state).contains(&"forked"), "{:?}", by_state);
        let by_record = with_record(&forked.bytes(), forked.last(), Some(knows));
        let expected = Finding::Forked { witness: "the record".into(), seq: knows.seq };
        prop_assert_eq!(&by_record.findings, &[expected]);
        let before = with_record(&forked.bytes(), forked.last(), Some(written.heads[at - 1]));
        prop_assert_eq!(&before.findings, &[]);
    }

    #[test]
    fn another_journal_in_its_place_is_named(mine in texts(1), theirs in texts(1)) {
        let theirs: Vec<String> = theirs.iter().map(|text| format!("{text} elsewhere")).collect();
        let (mine, theirs) = (Written::of(&mine), Written::of(&theirs));
        let verified = with_record(&theirs.bytes(), theirs.last(), mine.last());
        let expected = Finding::Replaced { witness: "the record".into() };
        prop_assert_eq!(&verified.findings, &[expected]);
    }

    #[test]
    fn an_older_copy_is_named(texts in texts(3), at in any::<prop::sample::Index>()) {
        let written = Written::of(&texts);
        let at = at.index(texts.len() - 2);
        let older = Written::of(&texts[..=at]);
        // The journal alone, or with its state.
        let verified = check(&older.bytes(), written.last());
        prop_assert_eq!(names(&verified), ["truncated"]);
        let verified = with_record(&older.bytes(), older.last(), written.last());
        prop_assert_eq!(names(&verified), ["truncated"]);
        // The state alone, or removed.
        let verified = check(&written.bytes(), older.last());
        prop_assert_eq!(names(&verified), ["behind"]);
        let verified = check(&written.bytes(), None);
        prop_assert_eq!(names(&verified), ["not-noted"]);
    }

    #[test]
    fn rubbish_is_named_and_bounded(bytes in prop::collection::vec(any::<u8>(), 0..400), lines in 0..200usize) {
        let mut bytes = bytes;
        bytes.extend(b"{}\n".repeat(lines));
        let head = Written::of(&["a".into()]).last();
        let verified = check(&bytes, head);
        prop_assert!(!verified.findings.is_empty());
        prop_assert!(verified.findings.len() <= 64 + 1);
        for finding in &verified.findings {
            let text = finding.to_string();
            prop_assert!(text.len() < 400 && text.bytes().all(|b| (b' '..=b'~').contains(&b)));
        }
    }
}

#[test]
fn numbers_at_the_end_of_their_range_do_no_harm() {
    let prev = Digest::zero(PcrBank::Sha256);
    let line = |seq| draft("x").encode(seq, &prev, None).unwrap() + "\n";
    let bytes = line(u32::MAX) + &line(1) + "rubbish\n" + &line(u32::MAX);
    let verified = check(bytes.as_bytes(), None);
    assert!(names(&verified).contains(&"missing"), "{verified:?}");
    assert!(names(&verified).contains(&"malformed"), "{verified:?}");
}

#[test]
fn signatures_are_checked_where_the_key_is_at_hand() {
    let zero = Digest::zero(PcrBank::Sha256);
    let sign = |message: &[u8]| {
        let bytes = PcrBank::Sha256.hash(message).as_bytes().to_vec();
        Some(Signature { pkfp: "ab".repeat(32), bytes })
    };
    let line = draft("signed").encode(1, &zero, Some(&sign)).unwrap();
    let genuine = |signature: &Signature, message: &[u8]| {
        Some(signature.bytes == PcrBank::Sha256.hash(message).as_bytes())
    };
    let verified = verify(line.as_bytes(), &[], &genuine);
    // A line without its end that nobody noted is torn.
    assert!(verified.torn && verified.lines.is_empty());
    let verified = verify((line.clone() + "\n").as_bytes(), &[], &genuine);
    assert_eq!((verified.signed, verified.findings.len()), (1, 0));
    let edited = line.replace("\"text\":\"signed\"", "\"text\":\"edited\"") + "\n";
    let verified = verify(edited.as_bytes(), &[], &genuine);
    assert_eq!(verified.findings, [Finding::BadSignature { seq: 1 }]);
    let verified = verify(edited.as_bytes(), &[], &|_, _| None);
    assert_eq!((verified.unchecked, verified.findings.len()), (1, 0));
}
