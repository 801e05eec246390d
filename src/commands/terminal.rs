//! Where words go: data to standard output, talk to standard error, secrets from the terminal.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write, stderr, stdin, stdout};
use std::os::fd::AsFd;

use rustix::fs::FileType;
use vmseal::Error;
use vmseal::prompt::read_secret_line;
use vmseal::secret::{KeyslotPassphrase, SecretBuffer, TypedPin};

use crate::cli::Global;

/// How much to say.
#[derive(Debug, Clone, Copy)]
pub struct Talk {
    /// Errors only.
    pub quiet: bool,
    /// Say what is done.
    pub verbose: u8,
    /// One JSON object on standard output instead of prose.
    pub json: bool,
}

impl From<&Global> for Talk {
    fn from(global: &Global) -> Self {
        Self { quiet: global.quiet, verbose: global.verbose, json: global.json }
    }
}

impl Talk {
    /// Data: standard output. A reader that went away is no error.
    pub fn data(self, text: impl std::fmt::Display) {
        let _ = writeln!(stdout(), "{text}");
    }

    /// Prose that a person reads and a script does not: standard output without `--json`.
    pub fn prose(self, text: impl std::fmt::Display) {
        if !self.json && !self.quiet {
            self.data(text);
        }
    }

    /// One JSON object.
    pub fn object(self, value: &serde_json::Value) {
        self.data(format_args!("{value:#}"));
    }

    /// A remark: standard error, unless quiet.
    pub fn remark(self, text: impl std::fmt::Display) {
        if !self.quiet {
            say(text);
        }
    }

    /// What is being done: standard error, with `-v`.
    pub fn detail(self, text: impl std::fmt::Display) {
        if self.verbose > 0 {
            self.remark(text);
        }
    }
}

/// Data that must not get lost: standard output, all the way.
///
/// # Errors
/// Those of writing; and a standard output that goes nowhere. One that was closed counts as such:
/// before `main` the runtime puts `/dev/null` in its place.
pub fn deliver(text: impl std::fmt::Display) -> std::io::Result<()> {
    let stat = rustix::fs::fstat(stdout())?;
    let null = rustix::fs::stat("/dev/null")?;
    if stat.st_rdev == null.st_rdev
        && FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
    {
        return Err(std::io::Error::other("standard output is closed or goes to /dev/null"));
    }
    let mut out = stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// An error and its remedy, one line each.
pub fn complain(cause: impl std::fmt::Display, hint: Option<&str>) {
    say(cause);
    if let Some(hint) = hint {
        say(hint);
    }
}

/// One line in one write, so that it stays whole beside what others write.
fn say(text: impl std::fmt::Display) {
    let _ = stderr().write_all(format!("vmseal: {text}\n").as_bytes());
}

/// Something for the eye, such as a QR code.
pub fn show(picture: impl std::fmt::Display) {
    let _ = writeln!(stderr(), "{picture}");
}

/// Whether a person sees what is written to standard error.
pub fn is_watched() -> bool {
    stderr().is_terminal()
}

/// Asks for a passphrase on the terminal, without echo.
///
/// # Errors
/// [`Error::NoPassphrase`] without a terminal, or when the user gave up.
pub fn ask_passphrase(prompt: &str) -> Result<KeyslotPassphrase, Error> {
    let refused = |cause: String| Error::NoPassphrase { cause };
    let mut terminal = open_terminal().ok_or_else(|| refused("no terminal to ask on".into()))?;
    let mut line = read_secret_line(&mut terminal, prompt).map_err(refused)?;
    Ok(KeyslotPassphrase::new(std::mem::take(&mut *line)))
}

/// Whether somebody can be asked.
pub fn can_ask() -> bool {
    stdin().is_terminal() && open_terminal().is_some()
}

/// Asks a question that is answered by `y` or `yes`; anything else is no.
///
/// # Errors
/// [`Error::NotApproved`] where nobody can be asked.
pub fn ask(question: &str) -> Result<bool, Error> {
    const MAX: u64 = 256;
    let silent = || Error::NotApproved { reasons: vec!["nobody can be asked".to_owned()] };
    let mut terminal = open_terminal().ok_or_else(silent)?;
    terminal.write_all(question.as_bytes()).map_err(|_| silent())?;
    let mut line = String::new();
    BufReader::new(terminal.take(MAX)).read_line(&mut line).map_err(|_| silent())?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// The controlling terminal, or standard input where a serial console is no controlling terminal.
fn open_terminal() -> Option<File> {
    File::options().read(true).write(true).open("/dev/tty").ok().or_else(|| {
        stdin().is_terminal().then(|| stdin().as_fd().try_clone_to_owned().ok().map(File::from))?
    })
}

/// The PIN: the first line of `file`, or asked for.
///
/// # Errors
/// [`Error::PinNeeded`].
pub fn pin(file: Option<&std::path::Path>, prompt: &str) -> Result<TypedPin, Error> {
    let refused = |error: Error| match error {
        Error::NoPassphrase { cause } => Error::PinNeeded { cause },
        other => other,
    };
    let typed = passphrase(file, prompt).map_err(refused)?;
    let line = typed.expose().split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line.is_empty() {
        return Err(Error::PinNeeded { cause: "it is empty".into() });
    }
    Ok(TypedPin::new(line.to_vec()))
}

/// A new PIN: the first line of `file`, or asked for twice.
///
/// # Errors
/// [`Error::PinNeeded`], also where it was not typed the same twice.
pub fn new_pin(file: Option<&std::path::Path>, talk: Talk) -> Result<TypedPin, Error> {
    /// A PIN is guessed at the pace that the TPM's lockout allows: a few thousand times a year.
    const SHORT: usize = 6;
    let first = pin(file, "New PIN: ")?;
    if file.is_none() && pin(None, "The same PIN again: ")?.expose() != first.expose() {
        return Err(Error::PinNeeded { cause: "the two were not the same".into() });
    }
    if first.expose().len() < SHORT {
        talk.remark("the PIN is short: only the TPM's lockout keeps it from being guessed");
    }
    Ok(first)
}

/// The passphrase of a volume: the whole content of `file`, or asked for.
///
/// # Errors
/// [`Error::NoPassphrase`].
pub fn passphrase(
    file: Option<&std::path::Path>,
    prompt: &str,
) -> Result<KeyslotPassphrase, Error> {
    /// cryptsetup's default limit for key files.
    const MAX_KEY_FILE: u64 = 8 * 1024 * 1024;
    const PIPE: u64 = 64 * 1024;
    let Some(path) = file else { return ask_passphrase(prompt) };
    let refused = |error: std::io::Error| Error::NoPassphrase {
        cause: format!("{}: {error}", path.display()),
    };
    let file = File::open(path).map_err(refused)?;
    // A pipe has no size to tell.
    let size = file.metadata().map_err(refused)?.len().clamp(PIPE, MAX_KEY_FILE);
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut bytes = SecretBuffer::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1));
    file.take(MAX_KEY_FILE).read_to_end(&mut bytes).map_err(refused)?;
    Ok(KeyslotPassphrase::new(std::mem::take(&mut *bytes)))
}
