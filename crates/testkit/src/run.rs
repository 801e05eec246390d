//! Running programs: how they ended, what they said, always within a bounded time.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// No program of a test runs longer than this.
const LIMIT: Duration = Duration::from_secs(90);

/// How a program ended and what it printed.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Wall time.
    pub took: Duration,
}

impl Ran {
    /// Asserts the exit code, showing all that was printed when it is another.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, Some(expected), "exit code; {self:#?}");
        self
    }

    /// Asserts success.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Asserts that standard error, in lower case, holds `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.to_lowercase().contains(&text.to_lowercase()), "{text:?} in {self:#?}");
        self
    }

    /// Asserts a refusal: the exit code, nothing on standard output, and on standard error one line
    /// of cause and one of remedy, in printable ASCII.
    #[track_caller]
    pub fn refused(self, code: i32) -> Self {
        let ran = self.code(code);
        assert_eq!(ran.stdout, "", "standard output of a refusal; {ran:#?}");
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "one line of cause, one of remedy; {ran:#?}");
        for line in lines {
            let text = line.strip_prefix("vmseal: ").unwrap_or_default();
            assert!(text.len() > 10 && line.len() < 400, "{ran:#?}");
            assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{ran:#?}");
        }
        ran
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// Runs a command with nothing on standard input.
pub fn run(command: &mut Command) -> Ran {
    run_with_input(command, b"")
}

/// Runs a command with `input` on standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Ran {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    // A program that ends without reading its input is no fault of the test.
    let _ = child.stdin.take().unwrap().write_all(input);
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("{command:?} did not end within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let took = start.elapsed();
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    Ran { code: status.code(), stdout, stderr, took }
}

/// Runs a tool that must succeed and returns its standard output.
#[track_caller]
pub fn tool(program: &str, args: &[&str]) -> String {
    let ran = run(Command::new(program).args(args));
    assert_eq!(ran.code, Some(0), "{program} {args:?}: {ran:#?}");
    ran.stdout
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Kills `command` as it enters the `nth` system call of this name: strace counts each name by itself.
/// Whether it was killed; else it must have ended well.
#[track_caller]
pub fn is_killed(command: &Command, call: &str, nth: usize) -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", &format!("--trace={call}")]);
    strace.arg(format!("--inject={call}:signal=KILL:when={nth}"));
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = run(strace.arg(command.get_program()).args(command.get_args()));
    assert!(matches!(ran.code, None | Some(0)), "{call} {nth}: {ran:#?}");
    ran.code.is_none()
}

/// Kills `command` at every one of these system calls in turn, each time after `prepare`, and has `check`
/// look at what is left. Returns the calls that it was killed at, with how often each.
#[track_caller]
pub fn kill_everywhere(
    command: &Command,
    calls: &[&'static str],
    prepare: impl Fn(),
    check: impl Fn(&str),
) -> BTreeMap<&'static str, usize> {
    let mut points = BTreeMap::new();
    for call in calls.iter().copied() {
        for nth in 1.. {
            prepare();
            if !is_killed(command, call, nth) {
                break;
            }
            points.insert(call, nth);
            check(&format!("{call} {nth}"));
        }
    }
    points
}
