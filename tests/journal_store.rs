//! What a writer of the journal leaves behind, and what it makes of what it finds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;
use vmseal::reseal::{Draft, Finding, Kind, Store, StoreError};

fn draft(text: &str) -> Draft {
    let body = json!({ "text": text }).as_object().unwrap().clone();
    Draft { kind: Kind::Enroll, time: "2026-11-25T13:29:13Z".into(), body }
}

/// A store in a folder of its own.
struct Kept {
    root: TempDir,
    store: Store,
}

impl Kept {
    fn with(lines: usize) -> Self {
        let root = TempDir::new().unwrap();
        let kept = Self { store: Store::below(root.path()), root };
        for line in 0..lines {
            kept.append(&format!("{line}"));
        }
        kept
    }

    fn append(&self, text: &str) -> Option<String> {
        self.store.lock().unwrap().append(&draft(text), None).unwrap().1
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.path().join("var/lib/vmseal").join(name)
    }

    fn names(&self) -> Vec<&'static str> {
        let verified = self.store.read().unwrap().verify(vec![], &|_, _| None);
        verified.findings.iter().map(Finding::name).collect()
    }

    fn lines(&self) -> usize {
        self.store.read().unwrap().journal.iter().filter(|byte| **byte == b'\n').count()
    }
}

#[test]
fn only_root_reads_the_store() {
    let kept = Kept::with(1);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(kept.file("")), 0o700);
    for name in ["state.json", "journal.jsonl", ".lock"] {
        assert_eq!(mode(kept.file(name)), 0o600, "{name}");
    }
}

#[test]
fn a_torn_line_is_cut_off_by_the_next() {
    let kept = Kept::with(2);
    let mut journal = fs::read(kept.file("journal.jsonl")).unwrap();
    for torn in [&b"{\"body\":{"[..], b"\0\0\0\0", b"{\"bo\0\0\0\0}\n"] {
        let lines = kept.lines();
        fs::write(kept.file("journal.jsonl"), [&journal[..], torn].concat()).unwrap();
        let verified = kept.store.read().unwrap().verify(vec![], &|_, _| None);
        assert!(verified.torn && verified.findings.is_empty(), "{verified:?}");
        assert_eq!(kept.append("next"), None);
        assert_eq!((kept.names(), kept.lines()), (vec![], lines + 1));
        journal = fs::read(kept.file("journal.jsonl")).unwrap();
    }
}

/// A head that is written over another must not make a journal look whole that was not.
#[test]
fn a_journal_that_was_not_whole_says_so_ever_after() {
    type Damage = fn(&Kept);
    let damages: [(&str, Damage); 7] = [
        ("truncated", |kept| {
            let text = fs::read_to_string(kept.file("journal.jsonl")).unwrap();
            let lines: Vec<_> = text.split_inclusive('\n').take(2).collect();
            fs::write(kept.file("journal.jsonl"), lines.concat()).unwrap();
        }),
        ("gone", |kept| fs::remove_file(kept.file("journal.jsonl")).unwrap()),
        ("not-noted", |kept| fs::remove_file(kept.file("state.json")).unwrap()),
        ("replaced", |kept| {
            let other = Kept::with(0);
            other.append("elsewhere");
            other.append("elsewhere");
            fs::copy(other.file("journal.jsonl"), kept.file("journal.jsonl")).unwrap();
        }),
        ("edited", |kept| {
            let text = fs::read_to_string(kept.file("journal.jsonl")).unwrap();
            let text = text.replace("\"text\":\"1\"", "\"text\":\"one\"");
            fs::write(kept.file("journal.jsonl"), text).unwrap();
        }),
        ("malformed", |kept| {
            let text = fs::read_to_string(kept.file("journal.jsonl")).unwrap();
            fs::write(kept.file("journal.jsonl"), text + "rubbish\n").unwrap();
        }),
        ("reordered", |kept| {
            let text = fs::read_to_string(kept.file("journal.jsonl")).unwrap();
            let mut lines: Vec<_> = text.split_inclusive('\n').collect();
            lines.swap(1, 2);
            fs::write(kept.file("journal.jsonl"), lines.concat()).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let kept = Kept::with(4);
        damage(&kept);
        assert!(kept.names().contains(&name), "{name}: {:?}", kept.names());
        let lines = kept.lines();
        assert!(kept.append("next").is_some(), "{name}");
        assert_eq!(kept.lines(), lines + 2, "{name}: a line that tells of it");
        assert!(kept.names().contains(&"noted"), "{name}: {:?}", kept.names());
        assert_eq!(kept.append("and on"), None, "{name}: it is told once");
        assert_eq!(kept.lines(), lines + 3, "{name}");
    }
}

#[test]
fn writers_take_turns_and_lose_nothing() {
    const THREADS: usize = 6;
    let kept = Kept::with(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let kept = &kept;
            scope.spawn(move || {
                for turn in 0..5 {
                    let mut locked = kept.store.lock().unwrap();
                    let volume = format!("{thread}-{turn}");
                    locked.state.volumes.insert(volume, Default::default());
                    locked.append(&draft("turn"), None).unwrap();
                }
            });
        }
    });
    let seen = kept.store.read().unwrap();
    assert_eq!((kept.names(), kept.lines()), (vec![], THREADS * 5));
    assert_eq!(seen.state.volumes.len(), THREADS * 5);
}

#[test]
fn what_lies_in_place_of_the_files_is_refused() {
    let refused = |name: &str, damage: &dyn Fn(PathBuf)| {
        let kept = Kept::with(2);
        fs::remove_file(kept.file(name)).unwrap();
        damage(kept.file(name));
        let error = kept.store.lock().and_then(|mut locked| locked.append(&draft("x"), None));
        error.expect_err(name)
    };
    let link = |path: PathBuf| std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
    let fifo = |path: PathBuf| {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
    };
    for name in ["state.json", "journal.jsonl"] {
        assert!(matches!(refused(name, &link), StoreError::Io { .. }));
        assert!(matches!(refused(name, &fifo), StoreError::Malformed { .. }));
        let folder = refused(name, &|path| fs::create_dir(path).unwrap());
        assert!(matches!(folder, StoreError::Malformed { .. }));
    }
    let text = |text: &'static str| move |path: PathBuf| fs::write(path, text).unwrap();
    let error = refused("state.json", &text("{\"version\":2}"));
    assert!(matches!(error, StoreError::Newer { version: 2, .. }));
    let error = refused("state.json", &text("{\"version\":1,\"volumes\":[\"\u{1b}[2J\"]}"));
    assert!(matches!(error, StoreError::Malformed { .. }));
    assert!(error.to_string().bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{error}");
    let error = refused("state.json", &text(""));
    assert!(matches!(error, StoreError::Malformed { .. }));
    let long = |path: PathBuf| fs::File::create(path).unwrap().set_len(1 << 26).unwrap();
    assert!(matches!(refused("state.json", &long), StoreError::TooLarge { .. }));
    assert!(matches!(refused("journal.jsonl", &long), StoreError::TooLarge { .. }));
}
