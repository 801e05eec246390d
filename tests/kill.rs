//! Power loss at any instant: `kill -9` at each system call by which `enroll`, `adopt` and `revoke` write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// The number of points shows that the test still reaches them.
#![allow(clippy::print_stdout)]

use std::process::Command;

use testkit::image::PASSPHRASE;
use testkit::{Machine, Ran, Systemd, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
/// System calls by which file content and names change. strace counts the calls of each name by
/// itself: of several names at once, it would kill at the first one alone.
const WRITES: [&str; 9] = [
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fallocate",
];
/// Those that only files other than the disk see, and only the main thread makes.
const RENAMES: [&str; 10] = [
    "fsync",
    "fdatasync",
    "fchmod",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
];
/// No command writes more often than this.
const MOST: usize = 400;

/// Which system calls count.
#[derive(Debug, Clone, Copy)]
enum At {
    /// [`WRITES`] to the disk.
    Disk,
    /// [`RENAMES`], of any file.
    Names,
}

impl At {
    fn calls(self) -> &'static [&'static str] {
        match self {
            Self::Disk => &WRITES,
            Self::Names => &RENAMES,
        }
    }

    /// `command` under strace, which looks at these calls.
    fn traced(self, machine: &Machine, command: &Command, calls: &str, inject: &[String]) -> Ran {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o"]).arg(machine.file("strace"));
        if let Self::Disk = self {
            // Only calls on this file: the TPM's socket is written to as well, by another thread.
            strace.arg("-P").arg(machine.image.path());
        }
        strace.arg(format!("--trace={calls}")).args(inject);
        run(strace.arg(command.get_program()).args(command.get_args()))
    }

    /// Those calls that `command` makes.
    fn made_by(self, machine: &Machine, command: &Command) -> Vec<&'static str> {
        self.traced(machine, command, &self.calls().join(","), &[]).ok();
        let trace = std::fs::read_to_string(machine.file("strace")).unwrap();
        let is_made = |call: &&&str| trace.contains(&format!(" {call}("));
        self.calls().iter().filter(is_made).copied().collect()
    }
}

/// Runs `command` and kills it as it enters `call` for the `nth` time. Returns `None` when it was
/// killed.
fn run_killed(
    machine: &Machine,
    command: &Command,
    (at, call): (At, &str),
    nth: usize,
) -> Option<Ran> {
    let inject = format!("--inject={call}:signal=KILL:when={nth}");
    let ran = at.traced(machine, command, call, &[inject]);
    ran.code.is_some().then_some(ran)
}

/// Kills `command` at every point in turn, each time from `before`, and lets `check` judge what is
/// left, until it ends by itself, with success.
fn kill_everywhere(
    machine: &Machine,
    command: &Command,
    before: &testkit::image::Snapshot,
    pins: Option<&[u8]>,
    check: impl Fn(&str),
) {
    for at in [At::Disk, At::Names] {
        let prepare = || {
            machine.image.restore(before);
            match pins {
                Some(pins) => std::fs::write(machine.pins(), pins).unwrap(),
                None => drop(std::fs::remove_file(machine.pins())),
            }
        };
        prepare();
        let mut points = 0;
        for call in at.made_by(machine, command) {
            for nth in 1..MOST {
                prepare();
                let ended = run_killed(machine, command, (at, call), nth);
                // As the kernel's resource manager does for a process that is gone.
                machine.tpm.flush();
                if let Some(ran) = ended {
                    ran.ok();
                    break;
                }
                points += 1;
                check(&format!("killed at {at:?} {call} {nth}"));
            }
        }
        println!("{:?}: killed at {points} points ({at:?})", command.get_args().next().unwrap());
        assert!((2..MOST - 1).contains(&points), "{points} points for {at:?}");
    }
}

/// What holds at every instant: the passphrase opens, the pins are whole, status tells.
fn check_sound(machine: &Machine, point: &str) {
    assert!(machine.image.opens_with(PASSPHRASE), "{point}: the passphrase");
    if let Some(pins) = machine.pins_bytes() {
        let pins = serde_json::from_slice::<serde_json::Value>(&pins);
        assert!(pins.is_ok(), "{point}: {pins:?}");
    }
    let status = machine.status(&[]);
    assert_eq!(status.code, Some(0), "{point}: {status:#?}");
}

fn enroll_command(machine: &Machine) -> Command {
    let mut command = machine.vmseal(&["enroll"]);
    command.arg("--unlock-key-file").arg(machine.key_file()).arg(machine.image.path());
    command
}

/// The next enrolment ends well and leaves one keyslot for the passphrase and one for the TPM.
fn check_enrolls(machine: &Machine, point: &str) {
    let ran = machine.enroll(&[]);
    assert_eq!(ran.code, Some(0), "{point}: the next enrolment; {ran:#?}");
    let ran = machine.unlock(&[]);
    assert_eq!(ran.code, Some(0), "{point}: after the next enrolment; {ran:#?}");
    assert_eq!(machine.image.keyslots().len(), 2, "{point}: an orphan keyslot");
    assert_eq!(machine.image.tokens("systemd-tpm2").len(), 1, "{point}");
    assert!(machine.image.opens_with(PASSPHRASE), "{point}");
}

#[test]
fn enroll() {
    let machine = Machine::booted(VMSEAL);
    // The storage root key is there, so that each run takes the same steps.
    machine.enroll(&[]).ok();
    machine.revoke(&["--tpm"]).ok();
    let before = machine.image.snapshot();
    kill_everywhere(&machine, &enroll_command(&machine), &before, None, |point| {
        check_sound(&machine, point);
        let ran = machine.unlock(&[]);
        assert!(matches!(ran.code, Some(0 | 10)), "{point}: before or after; {ran:#?}");
        check_enrolls(&machine, point);
    });
}

#[test]
fn enroll_where_one_token_opens_already() {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    let (before, pins) = (machine.image.snapshot(), machine.pins_bytes());
    kill_everywhere(&machine, &enroll_command(&machine), &before, pins.as_deref(), |point| {
        check_sound(&machine, point);
        let ran = machine.unlock(&[]);
        assert_eq!(ran.code, Some(0), "{point}: it opened before; {ran:#?}");
        check_enrolls(&machine, point);
    });
}

#[test]
fn enroll_with_a_recovery_key() {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine.revoke(&["--tpm"]).ok();
    let before = machine.image.snapshot();
    let mut command = enroll_command(&machine);
    command.arg("--recovery-key");
    kill_everywhere(&machine, &command, &before, None, |point| {
        check_sound(&machine, point);
        let ran = machine.enroll(&[]);
        assert_eq!(ran.code, Some(0), "{point}: the next enrolment; {ran:#?}");
        // A recovery keyslot stays where somebody may have seen its key, and then a token tells.
        let kinds = ["systemd-tpm2", "systemd-recovery", "vmseal-recovery-unseen"];
        let tokens = kinds.iter().map(|kind| machine.image.tokens(kind).len()).sum::<usize>();
        assert_eq!(machine.image.keyslots().len(), 1 + tokens, "{point}: an orphan keyslot");
        assert_eq!(machine.image.tokens("systemd-tpm2").len(), 1, "{point}");
    });
}

#[test]
fn adopt() {
    let machine = Machine::booted(VMSEAL);
    let options = ["--tpm2-pcrs=4+7", "--tpm2-public-key="];
    Systemd::Trixie.enroll(&machine.tpm, &machine.image, &options).ok();
    let before = machine.image.snapshot();
    let tokens = machine.image.tokens("systemd-tpm2");
    let adopt = || {
        let mut command = machine.vmseal(&["adopt"]);
        command.arg("--unlock-key-file").arg(machine.key_file()).arg(machine.image.path());
        command
    };
    kill_everywhere(&machine, &adopt(), &before, None, |point| {
        check_sound(&machine, point);
        assert_eq!(machine.image.tokens("systemd-tpm2"), tokens, "{point}");
        let ran = machine.unlock(&[]);
        assert_eq!(ran.code, Some(0), "{point}: it opened before; {ran:#?}");
        let ran = run(&mut adopt());
        assert_eq!(ran.code, Some(0), "{point}: adopting again; {ran:#?}");
        assert_eq!(machine.image.tokens("vmseal-record").len(), 1, "{point}");
    });
}

#[test]
fn revoke() {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    let (before, pins) = (machine.image.snapshot(), machine.pins_bytes());
    let mut command = machine.vmseal(&["revoke", "--tpm"]);
    command.arg(machine.image.path());
    kill_everywhere(&machine, &command, &before, pins.as_deref(), |point| {
        check_sound(&machine, point);
        let ran = machine.unlock(&[]);
        // The keyslot goes first, so that what is revoked stops opening at once: its area (16), its
        // entry (15: a token of no keyslot), then the token (10).
        assert!(matches!(ran.code, Some(0 | 10 | 15 | 16)), "{point}: before or after; {ran:#?}");
        let ran = machine.revoke(&["--tpm"]);
        assert!(matches!(ran.code, Some(0 | 3)), "{point}: revoking again; {ran:#?}");
        assert_eq!(machine.image.keyslots(), [0], "{point}: an orphan keyslot");
        assert_eq!(machine.image.tokens("systemd-tpm2"), [], "{point}");
        check_enrolls(&machine, point);
    });
}
