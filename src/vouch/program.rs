//! Programs of the system whose output is believed: read while they run, in bounded time.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

const POLL: Duration = Duration::from_millis(5);

/// Runs a program, and gives what `read` makes of its output. `None` where it fails or does not end
/// in time: half of an output is no answer.
pub(super) fn output_of<T: Send + 'static>(
    command: &mut Command,
    patience: Duration,
    read: impl FnOnce(ChildStdout) -> io::Result<T> + Send + 'static,
) -> Option<T> {
    let give_up = Instant::now() + patience;
    let mut child = command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Of its own, to be ended with all that it started.
        .process_group(0)
        .spawn()
        .ok()?;
    let read = child.stdout.take().and_then(|output| read_until(output, give_up, read));
    match read.and_then(|read| Some((exit_status(&mut child, give_up)?, read))) {
        Some((status, read)) => status.success().then_some(read),
        None => {
            end(&mut child);
            None
        }
    }
}

/// A read that does not end must not keep this one waiting.
fn read_until<T: Send + 'static>(
    output: ChildStdout,
    give_up: Instant,
    read: impl FnOnce(ChildStdout) -> io::Result<T> + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = sync_channel(1);
    // Sending fails only if nobody waits any more.
    let reading = move || drop(sender.send(read(output)));
    thread::Builder::new().spawn(reading).ok()?;
    receiver.recv_timeout(give_up.saturating_duration_since(Instant::now())).ok()?.ok()
}

/// How it ended; `None` where it did not in time, and is still to be waited for.
fn exit_status(child: &mut Child, give_up: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < give_up => sleep(POLL),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Ends it and all that it started. Nobody has waited for it: its number is nobody else's yet.
fn end(child: &mut Child) {
    // Fails only if all are gone.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.wait();
}
