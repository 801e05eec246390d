//! The serial console of a running guest.

use std::io::{Read, Write};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::guest::Guest;
use crate::valve::Valve;

/// Nothing good comes after these. The shell's name alone also stands in event logs.
const DEAD: [&str; 4] = [
    "\"EFI Internal Shell\" from",
    "Kernel panic",
    "KVM internal error",
    "BdsDxe: failed to start",
];

/// With this variable set, consoles are shown as they print, with the seconds since power on.
const SHOW: &str = "VMSEAL_SHOW_CONSOLE";

/// A running guest, seen through its serial console. Dropped, it loses power.
pub struct Console<'guest> {
    qemu: Child,
    tpm: Option<(Child, Valve)>,
    received: Receiver<String>,
    deadline: Instant,
    /// All that was printed, without carriage returns and escape sequences.
    text: String,
    /// How much of it was awaited.
    passed: usize,
    /// Its files must stay while it runs.
    _guest: &'guest Guest,
}

impl<'guest> Console<'guest> {
    /// Watches a QEMU whose standard output is the serial port, for at most `limit`.
    pub fn watch(
        _guest: &'guest Guest,
        mut qemu: Child,
        tpm: Option<(Child, Valve)>,
        limit: Duration,
    ) -> Self {
        let (sender, received) = channel();
        let (show, start) = (std::env::var_os(SHOW).is_some(), Instant::now());
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(qemu.stdout.take().unwrap()), Box::new(qemu.stderr.take().unwrap())];
        for mut stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                let mut plain = PlainText::default();
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    let text = plain.filter(&bytes[..count]);
                    if show {
                        // Not eprint, which the test harness keeps to itself.
                        let at = start.elapsed().as_secs_f32();
                        let text = text.replace('\n', &format!("\n[{at:6.2}] "));
                        let _ = std::io::stderr().write_all(text.as_bytes());
                    }
                    if sender.send(text).is_err() {
                        return;
                    }
                }
            });
        }
        let deadline = Instant::now() + limit;
        Self { qemu, tpm, received, deadline, text: String::new(), passed: 0, _guest }
    }

    /// Waits for `wanted`, which may be a prompt without a line end, and returns what was printed
    /// since the last time, up to it.
    ///
    /// # Errors
    /// Why it cannot come any more.
    pub fn find(&mut self, wanted: &str) -> Result<String, String> {
        loop {
            let fresh = &self.text[self.passed..];
            if let Some(at) = fresh.find(wanted) {
                let before = fresh[..at].to_owned();
                self.passed += at + wanted.len();
                return Ok(before);
            }
            if let Some(dead) = DEAD.iter().find(|dead| fresh.contains(*dead)) {
                return Err(format!("{dead:?} instead of {wanted:?}"));
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.received.recv_timeout(left) {
                Ok(text) => self.text.push_str(&text),
                Err(RecvTimeoutError::Timeout) => return Err(format!("{wanted:?} did not come")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the guest ended before {wanted:?}"));
                }
            }
        }
    }

    /// [`Console::find`], ending the test with all that the guest printed when it does not come.
    #[track_caller]
    pub fn await_text(&mut self, wanted: &str) -> String {
        self.find(wanted).unwrap_or_else(|problem| panic!("{problem}. Console:\n{}", self.text))
    }

    /// Waits for whichever of two comes first, and returns it.
    #[track_caller]
    pub fn either<'a>(&mut self, one: &'a str, other: &'a str) -> &'a str {
        loop {
            let fresh = &self.text[self.passed..];
            let found = [one, other].map(|text| fresh.find(text).map(|at| (at, text)));
            if let Some((at, text)) = found.into_iter().flatten().min() {
                self.passed += at + text.len();
                return text;
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.received.recv_timeout(left) {
                Ok(text) => self.text.push_str(&text),
                Err(_) => panic!("neither {one:?} nor {other:?}. Console:\n{}", self.text),
            }
        }
    }

    /// Waits for the next command of the script to end with this exit code, and returns its output.
    #[track_caller]
    pub fn exits(&mut self, expected: i32) -> String {
        self.await_text("rig: run\n");
        let output = self.await_text("rig: exit ");
        let code = self.await_text("\n");
        assert_eq!(code, expected.to_string(), "exit code. Console:\n{}", self.text);
        output
    }

    /// As [`Console::exits`], and the output holds `sentence`.
    #[track_caller]
    pub fn exits_saying(&mut self, expected: i32, sentence: &str) {
        let output = self.exits(expected);
        assert!(output.contains(sentence), "{sentence:?}. Console:\n{}", self.text);
    }

    /// Types a line.
    pub fn enter(&mut self, line: &str) {
        // A program that has just printed its prompt may not read yet, and drops what came before.
        std::thread::sleep(Duration::from_millis(300));
        self.press(&format!("{line}\r"));
    }

    /// Types keys as they are.
    pub fn press(&mut self, keys: &str) {
        let serial = self.qemu.stdin.as_mut().unwrap();
        serial.write_all(keys.as_bytes()).unwrap();
        serial.flush().unwrap();
    }

    /// From now on the TPM answers nothing.
    pub fn silence_tpm(&self) {
        self.tpm.iter().for_each(|(_, valve)| valve.shut(true));
    }

    /// The TPM answers again.
    pub fn wake_tpm(&self) {
        self.tpm.iter().for_each(|(_, valve)| valve.shut(false));
    }

    /// Waits for the guest to switch itself off.
    #[track_caller]
    pub fn await_off(mut self) {
        self.await_text("rig: off");
        self.await_end();
    }

    /// Waits for the guest to have switched itself off.
    pub fn await_end(mut self) {
        while self.received.recv_timeout(Duration::from_secs(30)).is_ok() {}
        self.qemu.wait().unwrap();
    }
}

impl Drop for Console<'_> {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        self.wake_tpm();
        let Some((swtpm, _)) = &mut self.tpm else { return };
        // It ends when QEMU hangs up, unless QEMU never called; the next boot needs its state.
        let limit = Instant::now() + Duration::from_secs(5);
        while matches!(swtpm.try_wait(), Ok(None)) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = swtpm.kill();
        let _ = swtpm.wait();
    }
}

/// Takes carriage returns and terminals' escape sequences out of a stream.
#[derive(Default)]
struct PlainText {
    /// The last byte before the next one belonged to a sequence, and which kind.
    inside: Sequence,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    /// After the escape character.
    Escape,
    /// After its bracket: parameters, then a letter.
    Control,
    /// A command to the terminal's system, up to a bell or an escape character.
    System,
}

impl PlainText {
    fn filter(&mut self, bytes: &[u8]) -> String {
        let kept: Vec<u8> = bytes.iter().copied().filter(|byte| self.keeps(*byte)).collect();
        String::from_utf8_lossy(&kept).into_owned()
    }

    fn keeps(&mut self, byte: u8) -> bool {
        let was = self.inside;
        self.inside = match (was, byte) {
            (_, 0x1b) => Sequence::Escape,
            (Sequence::Escape, b' '..=b'/') => Sequence::Escape,
            (Sequence::Escape, b'[') => Sequence::Control,
            (Sequence::Escape, b']' | b'P') => Sequence::System,
            (Sequence::Control, b'0'..=b'?' | b' '..=b'/') => Sequence::Control,
            (Sequence::System, 0x20..) => Sequence::System,
            _ => Sequence::None,
        };
        was == Sequence::None && self.inside == Sequence::None && byte != b'\r'
    }
}
