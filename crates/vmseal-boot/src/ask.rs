//! Asking for a passphrase or a PIN, by the program that the initramfs asks with.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use vmseal::Error;
use vmseal::boot::BootVolume;
use vmseal::prompt::read_secret_line;
use vmseal::secret::SecretBuffer;

/// More than any person types. A key file may come through cryptroot-unlock's pipe.
const MAX_ANSWER: usize = 64 << 10;
const CONSOLE: &str = "/dev/console";

/// How to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// On the console itself.
    Console,
    /// By a program: its words, to which the prompt is added. It writes the answer to its standard
    /// output.
    Program(Vec<String>),
}

impl From<&str> for Asker {
    fn from(text: &str) -> Self {
        match text {
            "-" => Self::Console,
            words => Self::Program(words.split_ascii_whitespace().map(String::from).collect()),
        }
    }
}

impl Asker {
    /// Asks, and gives the answer without the end of its line.
    ///
    /// # Errors
    /// [`Error::NoPassphrase`] where nobody could be asked.
    pub fn ask(
        &self,
        volume: &BootVolume,
        tried: u32,
        prompt: &str,
    ) -> Result<SecretBuffer, Error> {
        let mut answer = match self {
            Self::Console => on_console(prompt),
            Self::Program(words) => by_program(words, volume, tried, prompt),
        }
        .map_err(|cause| Error::NoPassphrase { cause })?;
        if answer.last() == Some(&b'\n') {
            answer.pop();
        }
        Ok(answer)
    }
}

fn by_program(
    words: &[String],
    volume: &BootVolume,
    tried: u32,
    prompt: &str,
) -> Result<SecretBuffer, String> {
    let (program, arguments) = words.split_first().ok_or("no program to ask with")?;
    let failed = |error: std::io::Error| format!("{program}: {error}");
    // The names under which cryptsetup-initramfs tells its own programs, and cryptroot-unlock finds
    // them.
    let mut child = Command::new(program)
        .args(arguments)
        .arg(prompt)
        .env("CRYPTTAB_NAME", &volume.name)
        .env("CRYPTTAB_SOURCE", &volume.device)
        .env("CRYPTTAB_TRIED", tried.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let answer = match child.stdout.take() {
        Some(output) => read_secret(output),
        None => Err(std::io::Error::other("it has no output")),
    };
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        return Err(format!("{program}: {status}"));
    }
    answer.map_err(failed)
}

fn read_secret(from: impl Read) -> std::io::Result<SecretBuffer> {
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut bytes = SecretBuffer::new(Vec::with_capacity(MAX_ANSWER + 1));
    from.take(MAX_ANSWER as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A line from the console.
fn on_console(prompt: &str) -> Result<SecretBuffer, String> {
    let failed = |cause: String| format!("{CONSOLE}: {cause}");
    let console = File::options().read(true).write(true).open(CONSOLE);
    let mut console = console.map_err(|error| failed(error.to_string()))?;
    read_secret_line(&mut console, prompt).map_err(failed)
}
