//! The files below `/var/lib/vmseal`: `state.json` is replaced as a whole, `journal.jsonl` is
//! added to, and both are on the disk before anything that they tell of happens.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use serde_json::json;

use super::error::StoreError;
use super::journal::{Verified, Witness, verify};
use super::line::{Draft, Kind, Sign};
use super::state::State;
use crate::measurement::{Digest, PcrBank};
use crate::token::JournalHead;

/// Where they lie, below the root.
const FOLDER: &str = "var/lib/vmseal";
const STATE: &str = "state.json";
/// The lock is held while this exists, so that one name does.
const NEW_STATE: &str = ".state.json.new";
const JOURNAL: &str = "journal.jsonl";
const LOCK: &str = ".lock";
const ALONE: &str = ".reseal.lock";
/// Most bytes of a journal: some 20,000 approvals.
const MAX_JOURNAL: u64 = 32 << 20;
/// Most findings that a line about them repeats.
const MAX_TOLD: usize = 8;
/// How long another writer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Where state and journal of a system lie.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// State and journal as somebody saw them who does not write.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// The state; an empty one where there is none.
    pub state: State,
    /// The bytes of the journal.
    pub journal: Vec<u8>,
}

/// State and journal in the hands of their one writer.
pub struct Locked {
    folder: PathBuf,
    /// The state, to be changed at will; written with the next line, or by [`Locked::commit`].
    pub state: State,
    _lock: OwnedFd,
}

impl Store {
    /// That of the system below `root`.
    pub fn below(root: &Path) -> Self {
        Self { folder: root.join(FOLDER) }
    }

    /// The file of the state, for messages.
    pub fn state_file(&self) -> PathBuf {
        self.folder.join(STATE)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads both, without the lock.
    ///
    /// # Errors
    /// [`StoreError`] of reading.
    pub fn read(&self) -> Result<Seen, StoreError> {
        // The state first: a line that a writer adds meanwhile is then one too many, not too few.
        let state = read_state(&self.folder)?;
        Ok(Seen { state, journal: read_journal(&self.folder)? })
    }

    /// Takes the lock and reads the state. Makes the folder, mode 0700, where there is none.
    ///
    /// # Errors
    /// [`StoreError::Busy`] after ten seconds, and those of reading.
    pub fn lock(&self) -> Result<Locked, StoreError> {
        let lock = self.locked(LOCK)?;
        Ok(Locked { folder: self.folder.clone(), state: read_state(&self.folder)?, _lock: lock })
    }

    /// Keeps every other approval waiting, from the plan to the end, until what is returned is dropped.
    ///
    /// # Errors
    /// [`StoreError::Busy`] after ten seconds.
    pub fn alone(&self) -> Result<Alone, StoreError> {
        self.locked(ALONE).map(|lock| Alone { _lock: lock })
    }

    fn locked(&self, name: &str) -> Result<OwnedFd, StoreError> {
        let folder = &self.folder;
        let io = |error: &std::io::Error| StoreError::io(folder, error);
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| io(&e))?;
        let path = folder.join(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| errno(&path, e))?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(lock),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < give_up => sleep(POLL),
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(StoreError::Busy { path }),
                Err(error) => return Err(errno(&path, error)),
            }
        }
    }
}

/// The right to plan and to apply, which one process has.
pub struct Alone {
    _lock: OwnedFd,
}

impl Seen {
    /// The state as a witness of the journal.
    pub fn witness(state: &State) -> Witness {
        Witness { name: STATE.into(), head: state.journal_head, is_state: true }
    }

    /// Whether the journal is whole, by the state and by other witnesses.
    pub fn verify(&self, others: Vec<Witness>, check: super::journal::Check<'_>) -> Verified {
        let witnesses: Vec<_> = [Self::witness(&self.state)].into_iter().chain(others).collect();
        verify(&self.journal, &witnesses, check)
    }
}

impl Locked {
    /// Adds a line, then writes the state with what was changed in it. A torn line at the end is cut
    /// off. Where the journal is not whole, a line that tells so comes first: the new head must not
    /// make it look whole. Returns the head, and the first finding of which no line told before.
    ///
    /// # Errors
    /// [`StoreError`]. Nothing is added then, or the line is and only the state does not know it yet.
    pub fn append(
        &mut self,
        draft: &Draft,
        sign: Option<Sign<'_>>,
    ) -> Result<(JournalHead, Option<String>), StoreError> {
        let path = self.folder.join(JOURNAL);
        let bytes = read_journal(&self.folder)?;
        let journal = verify(&bytes, &[Seen::witness(&self.state)], &|_, _| None);
        let told = journal.is_news.then(|| {
            let found = journal.findings.iter().filter(|finding| finding.name() != "noted");
            found.take(MAX_TOLD).map(ToString::to_string).collect::<Vec<_>>()
        });
        let too_large = || StoreError::TooLarge { path: path.clone(), limit: MAX_JOURNAL };
        let mut head = journal.head();
        // Numbers that somebody has noted are not given out again.
        let noted = self.state.journal_head.map_or(0, |head| head.seq);
        let mut seq = head.map_or(noted, |head| head.seq.max(noted));
        let mut text = String::new();
        let mut add = |draft: &Draft| {
            seq = seq.checked_add(1).ok_or_else(too_large)?;
            let prev = head.map_or(Digest::zero(PcrBank::Sha256), |head| head.hash);
            let line = draft.encode(seq, &prev, sign)?;
            let hash = PcrBank::Sha256.hash(line.as_bytes());
            let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
            head = Some(JournalHead { seq, hash, begin: head.map_or(first, |head| head.begin) });
            text += &(line + "\n");
            Ok(())
        };
        if let Some(found) = &told {
            let body = json!({ "found": found, "noted": noted });
            let body = body.as_object().cloned().unwrap_or_default();
            add(&Draft { kind: Kind::Break, time: draft.time.clone(), body })?;
        }
        add(draft)?;
        let kept = journal.kept as u64;
        let is_ended =
            bytes.get(..journal.kept).is_none_or(|kept| kept.is_empty() || kept.ends_with(b"\n"));
        let end = if is_ended { "" } else { "\n" };
        if kept + (text.len() as u64) > MAX_JOURNAL {
            return Err(too_large());
        }
        extend(&path, kept, &(end.to_owned() + &text)).map_err(|e| StoreError::io(&path, &e))?;
        self.state.journal_head = head;
        self.commit()?;
        let head = head.ok_or_else(too_large)?;
        Ok((head, told.and_then(|found| found.into_iter().next())))
    }

    /// Writes the state: afterwards it is the old or the new one, whatever happens.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::TooLarge`].
    pub fn commit(&self) -> Result<(), StoreError> {
        let path = self.folder.join(STATE);
        let text = self.state.to_text();
        // What is written must be read again, by the same rules.
        State::parse(text.as_bytes())
            .map_err(|cause| StoreError::Malformed { path: path.clone(), cause })?;
        if text.len() as u64 > State::MAX_LEN {
            return Err(StoreError::TooLarge { path, limit: State::MAX_LEN });
        }
        let new = self.folder.join(NEW_STATE);
        let replaced = write_new(&new, text.as_bytes())
            .and_then(|()| fs::rename(&new, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all());
        replaced.map_err(|error| StoreError::io(&path, &error))
    }
}

fn errno(path: &Path, error: Errno) -> StoreError {
    StoreError::io(path, &error.into())
}

/// Makes the journal's bytes `kept` of the old ones, and `text`. What cannot be written whole is
/// taken back.
fn extend(path: &Path, kept: u64, text: &str) -> std::io::Result<()> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(open(path, flags, Mode::RUSR | Mode::WUSR)?);
    let is_new = file.metadata()?.len() == 0;
    if file.metadata()?.len() != kept {
        file.set_len(kept)?;
    }
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Best effort: what stays is a torn line, and cut off next time.
        let _ = file.set_len(kept);
    }
    written?;
    match path.parent().filter(|_| is_new) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(open(path, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(bytes)?;
    file.sync_all()
}

fn read_state(folder: &Path) -> Result<State, StoreError> {
    let path = folder.join(STATE);
    let Some(bytes) = read(&path, State::MAX_LEN)? else { return Ok(State::default()) };
    match State::version_of(&bytes) {
        Some(version) if version > State::VERSION => Err(StoreError::Newer { path, version }),
        _ => State::parse(&bytes).map_err(|cause| StoreError::Malformed { path, cause }),
    }
}

fn read_journal(folder: &Path) -> Result<Vec<u8>, StoreError> {
    Ok(read(&folder.join(JOURNAL), MAX_JOURNAL)?.unwrap_or_default())
}

/// A file, if there is one. A link, a pipe or a device in its place is refused.
fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(errno(path, error)),
        Ok(file) => File::from(file),
    };
    let io = |error: std::io::Error| StoreError::io(path, &error);
    if !file.metadata().map_err(io)?.is_file() {
        return Err(StoreError::Malformed { path: path.into(), cause: "it is no file".into() });
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(StoreError::TooLarge { path: path.into(), limit });
    }
    Ok(Some(bytes))
}
