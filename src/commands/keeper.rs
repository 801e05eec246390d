//! Keeps the journal for commands that change a volume: a line before the change, which is refused
//! where that cannot be written, and one after it.

use std::io::{IsTerminal, stderr, stdin};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use vmseal::Error;
use vmseal::authority::{Store as AuthorityStore, sign_line};
use vmseal::measurement::diff::Expected;
use vmseal::measurement::text::printable;
use vmseal::reseal::{
    Approved, Draft, Kind, Line, State, Store, StoreError, VolumeState, rfc3339, tell_syslog,
};
use vmseal::token::JournalHead;

use super::inputs;
use super::terminal::Talk;
use crate::cli::Global;

/// The journal of this system, and the volume that a command is about.
pub struct Keeper {
    scribe: Scribe,
    device: PathBuf,
    uuid: String,
}

/// What was announced.
pub struct Announced<'a> {
    keeper: &'a Keeper,
    head: JournalHead,
}

impl Keeper {
    /// The keeper for a volume of this system. `None` for an image that came from elsewhere: what is
    /// done to it belongs into the journal of the system that it is of.
    pub fn of(global: &Global, device: &Path, uuid: &str, talk: Talk) -> Option<Self> {
        inputs::is_of_system(global, device).then(|| Self {
            scribe: Scribe::of(global, talk),
            // The next to look for it may stand elsewhere.
            device: std::path::absolute(device).unwrap_or_else(|_| device.to_owned()),
            uuid: uuid.to_owned(),
        })
    }

    /// Whether a line could be written, as far as that is known before.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn check(&self) -> Result<(), Error> {
        Ok(self.scribe.store.lock().map(drop)?)
    }

    /// Whether the last line of this kind about the volume says all that `body` does.
    pub fn is_last_of_kind(&self, kind: &Kind, body: &Value) -> bool {
        let lines = self.scribe.store.read().map(|seen| seen.verify(vec![], &|_, _| None).lines);
        let is_its = |line: &&Line| {
            line.kind == *kind && line.body.get("volume") == Some(&self.uuid.as_str().into())
        };
        let lines = lines.unwrap_or_default();
        let last = lines.iter().rfind(is_its);
        let mut said = body.as_object().into_iter().flatten();
        last.is_some_and(|line| said.all(|(name, value)| line.body.get(name) == Some(value)))
    }

    /// Keeps the events of a boot that is about to be approved.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn keep_events(&self, boot: &Approved, expected: &Expected) -> Result<(), Error> {
        Ok(self.scribe.store.keep_events(boot, expected)?)
    }

    /// Writes down what is about to be done, and `change`s the state of the volume.
    ///
    /// # Errors
    /// [`Error::Store`]: then it must not be done.
    pub fn announce(
        &self,
        kind: Kind,
        body: Value,
        change: impl FnOnce(&mut VolumeState),
    ) -> Result<Announced<'_>, Error> {
        let mut about = json!({
            "by": who(), "volume": self.uuid, "device": self.device.to_string_lossy(),
        });
        if let (Some(about), Value::Object(body)) = (about.as_object_mut(), body) {
            about.extend(body);
        }
        let head = self.write(kind, about, |volume| {
            volume.device = Some(self.device.to_string_lossy().into_owned());
            change(volume);
        })?;
        Ok(Announced { keeper: self, head })
    }

    fn write(
        &self,
        kind: Kind,
        body: Value,
        change: impl FnOnce(&mut VolumeState),
    ) -> Result<JournalHead, StoreError> {
        self.scribe.write(kind, body, |State { volumes, .. }| {
            if volumes.len() >= State::MAX_VOLUMES {
                // A volume that nothing is approved for needs no place.
                volumes.retain(|uuid, volume| *uuid == self.uuid || !volume.entries.is_empty());
            }
            change(volumes.entry(self.uuid.clone()).or_default());
        })
    }
}

/// Who writes into the journal of this system, and signs where the system's own key lies.
pub struct Scribe {
    store: Store,
    root: PathBuf,
    talk: Talk,
}

impl Scribe {
    /// That of the system below the root.
    pub fn of(global: &Global, talk: Talk) -> Self {
        Self { store: Store::below(&global.root), root: global.root.clone(), talk }
    }

    /// Adds a line, and `change`s the state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write(
        &self,
        kind: Kind,
        body: Value,
        change: impl FnOnce(&mut State),
    ) -> Result<JournalHead, StoreError> {
        let body = body.as_object().cloned().unwrap_or_default();
        let mut locked = self.store.lock()?;
        change(&mut locked.state);
        // A clock before 1970 is 1970: the chain gives the order, not the time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let draft = Draft { kind, time: rfc3339(now.as_secs()), body };
        let key = AuthorityStore::new(&self.root, None).scribe();
        let sign = |message: &[u8]| key.as_ref().and_then(|key| sign_line(key, message));
        let (head, found) = locked.append(&draft, Some(&sign))?;
        if let Some(found) = found {
            self.talk.remark(format_args!(
                "WARNING: the journal was not whole, and now says so: {found}"
            ));
            tell_syslog(&self.root, &format!("the journal was not whole: {found}"));
        }
        let told = summary(&draft.kind, &draft.body);
        tell_syslog(&self.root, &format!("journal line {}: {} {told}", head.seq, draft.kind));
        Ok(head)
    }
}

/// Writes down what is about to be done, or was done, for a template of machines.
///
/// # Errors
/// [`Error::Store`]: then it must not be done.
pub fn note_template(
    global: &Global,
    kind: Kind,
    template: &str,
    body: Value,
    talk: Talk,
) -> Result<JournalHead, Error> {
    let mut about = json!({ "by": who(), "template": template });
    if let (Some(about), Value::Object(body)) = (about.as_object_mut(), body) {
        about.extend(body);
    }
    Ok(Scribe::of(global, talk).write(kind, about, |_| ())?)
}

impl Announced<'_> {
    /// Where the journal ends, for the record in the header.
    pub fn head(&self) -> JournalHead {
        self.head
    }

    /// Writes down how it ended. It is done: where that cannot be written, it is said.
    pub fn conclude(&self, kind: Kind, body: Value, change: impl FnOnce(&mut VolumeState)) {
        let mut about = json!({ "of": self.head.seq, "volume": self.keeper.uuid });
        if let (Some(about), Value::Object(body)) = (about.as_object_mut(), body) {
            about.extend(body);
        }
        if let Err(error) = self.keeper.write(kind, about, change) {
            self.keeper
                .scribe
                .talk
                .remark(format_args!("WARNING: how it ended is not in the journal: {error}"));
        }
    }

    /// Writes down that it was not done, and why.
    pub fn refuse(&self, error: &Error, change: impl FnOnce(&mut VolumeState)) {
        let body = json!({ "cause": error.to_string(), "exit": error.exit().code() });
        self.conclude(Kind::Refusal, body, change);
    }
}

/// Who runs this, and from where: what the system tells, as far as it is at hand.
pub fn who() -> Value {
    const MAX: usize = 120;
    let short = |text: &str| printable(text, MAX);
    let number = |text: String| text.trim().parse::<u32>().ok();
    let login = std::fs::read_to_string("/proc/self/loginuid").ok().and_then(number);
    let terminal = [(stdin().is_terminal(), 0), (stderr().is_terminal(), 2)];
    let terminal = terminal.into_iter().find(|(is_terminal, _)| *is_terminal);
    let terminal =
        terminal.and_then(|(_, fd)| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok());
    let ssh = std::env::var("SSH_CONNECTION").ok();
    json!({
        "uid": rustix::process::getuid().as_raw(),
        "login_uid": login.filter(|uid| *uid != u32::MAX),
        "sudo_user": std::env::var("SUDO_USER").ok().map(|name| short(&name)),
        "terminal": terminal.map(|path| short(&path.to_string_lossy())),
        "ssh": ssh.and_then(|text| text.split(' ').next().map(short)),
    })
}

/// A line's body in few words: printable and bounded, whatever is in it.
pub fn summary(kind: &Kind, body: &Map<String, Value>) -> String {
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(|text| printable(text, 100));
    let value = |name: &str| body.get(name).map(|value| printable(&value.to_string(), 60));
    let mut words: Vec<String> = vec![];
    match kind {
        Kind::Break => {
            words.extend(value("found").map(|found| format!("it was not whole: {found}")))
        }
        Kind::Refusal => words.extend(text("cause")),
        _ => {
            let template = || text("template").map(|name| format!("template {name}"));
            words.extend(text("device").or_else(|| text("volume")).or_else(template));
        }
    }
    if *kind == Kind::Rotate && body.contains_key("finished") {
        words.push("the rotation is finished".to_owned());
    }
    for name in ["policy", "keyslot", "keyslots", "token", "tokens", "proven", "of"] {
        words.extend(value(name).map(|value| format!("{name} {value}")));
    }
    if let Some(by) = body.get("by") {
        let text =
            |name: &str| by.get(name).and_then(Value::as_str).map(|text| printable(text, 60));
        let uid = by.get("uid").map_or_else(String::new, |uid| printable(&uid.to_string(), 12));
        words.push(format!("by uid {uid}"));
        words.extend(text("sudo_user").map(|user| format!("(sudo of {user})")));
        words.extend(text("terminal").map(|terminal| format!("at {terminal}")));
        words.extend(text("ssh").map(|address| format!("from {address}")));
    }
    words.join(", ")
}
