//! The process that reads the disk of a template: one for each, without any right but to read that
//! template's files. Whatever becomes of it, it is heard out within a time and believed nothing.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use vmseal::template::wire::{self, Question};
use vmseal::template::{Forecasts, Template, TemplateError, Unread};

/// This program, whatever lies by now where it was started from.
const ITSELF: &str = "/proc/self/exe";
/// The command of it that answers.
const COMMAND: &str = "forecast";
/// How long reading and hashing a disk's boot files may take.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Has a process of its own forecast for a template.
///
/// # Errors
/// [`TemplateError::Unread`].
pub fn ask(template: &Template, question: &Question) -> Result<Forecasts, TemplateError> {
    let mut command = Command::new(ITSELF);
    command.arg(COMMAND).env_clear().current_dir("/");
    let answer = heard(&mut command, question.to_text().into_bytes(), LIMIT);
    let answer = answer.and_then(|bytes| wire::parse(template, &bytes).map_err(Unread::Nonsense));
    answer
        .and_then(|answer| answer.map_err(Unread::Refused))
        .map_err(|cause| TemplateError::Unread { template: template.name.clone(), cause })
}

/// What a command answers to `question`.
fn heard(command: &mut Command, question: Vec<u8>, limit: Duration) -> Result<Vec<u8>, Unread> {
    let unheard = |error: io::Error| Unread::NotStarted(error.to_string());
    let end = Instant::now() + limit;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Ended(command.spawn().map_err(unheard)?);
    let (stdin, stdout) = (child.0.stdin.take(), child.0.stdout.take());
    let (say, hear) = mpsc::channel();
    // Both end with the process: their pipes do.
    thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&question)));
    thread::spawn(move || {
        let mut bytes = vec![];
        let most = wire::MAX_ANSWER as u64 + 1;
        let read = stdout.map(|stdout| stdout.take(most).read_to_end(&mut bytes));
        say.send(read.transpose().map(|_| bytes))
    });
    let left = end.saturating_duration_since(Instant::now());
    let late = Unread::Late { seconds: limit.as_secs() };
    let answer = hear.recv_timeout(left).map_err(|_| late.clone())?.map_err(unheard)?;
    if answer.len() > wire::MAX_ANSWER {
        return Err(Unread::Nonsense(format!("more than {} bytes", wire::MAX_ANSWER)));
    }
    match child.wait_until(end).map_err(unheard)? {
        None => Err(late),
        Some(status) if status.success() => Ok(answer),
        Some(status) => Err(Unread::Ended(status.to_string())),
    }
}

/// A process that does not outlive its use.
struct Ended(Child);

impl Ended {
    fn wait_until(&mut self, end: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            match self.0.try_wait()? {
                None if Instant::now() < end => thread::sleep(Duration::from_millis(1)),
                ended => return Ok(ended),
            }
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether what `paths` name is read by a process of its own.
pub fn is_needed(template: &Template) -> bool {
    template.boot.cmdline().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, seconds: u64) -> Result<Vec<u8>, Unread> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        heard(&mut command, vec![b'x'; 1 << 20], Duration::from_secs(seconds))
    }

    #[test]
    fn a_process_is_heard_out_and_no_longer() {
        assert_eq!(shell("cat >/dev/null; echo answer", 30), Ok(b"answer\n".to_vec()));
        // It need not listen.
        assert_eq!(shell("echo answer", 30), Ok(b"answer\n".to_vec()));
        let start = Instant::now();
        for script in ["exec sleep 60", "echo answer; exec sleep 60", "exec >&-; exec sleep 60"] {
            assert_eq!(shell(script, 1), Err(Unread::Late { seconds: 1 }), "{script}");
        }
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn what_it_says_counts_only_where_it_ends_well() {
        for (script, how) in
            [("echo answer; exit 1", "exit"), ("echo answer; kill -SEGV $$", "signal")]
        {
            match shell(script, 30) {
                Err(Unread::Ended(status)) => assert!(status.contains(how), "{status}"),
                other => panic!("{script}: {other:?}"),
            }
        }
        assert!(matches!(shell("exec cat /dev/zero", 60), Err(Unread::Nonsense(_))));
        let mut missing = Command::new("/no/such/program");
        let heard = heard(&mut missing, vec![], LIMIT);
        assert!(matches!(heard, Err(Unread::NotStarted(_))), "{heard:?}");
    }
}
