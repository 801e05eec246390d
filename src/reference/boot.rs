//! A reference boot: a throw-away QEMU and a scratch TPM, up to the seal point.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::boot_disk;
use super::error::{ReferenceError, Seen};
use super::fit::{Fitted, fit};
use super::inherited::Inherited;
use super::memory::GuestMemory;
use super::qemu::{Accelerator, Kept, QemuLine, Size};
use super::relay::{Passed, Relay, SealPoint};
use super::scratch::Scratch;
use super::users::Users;
use crate::coverage::{BootPath, Coverage};
use crate::ffi::child::die_with_parent;
use crate::measurement::replay::{differences, replay};
use crate::measurement::{PcrBank, PcrValues};
use crate::template::{Boot, Disk, Template};

/// How long a boot may take to its first extend, where there is another way to run it. That
/// `/dev/kvm` is there proves nothing: nested virtualization may fail in the firmware.
const BEGIN: Duration = Duration::from_secs(20);
/// The kernel's way to run a processor.
pub(super) const KVM: &str = "/dev/kvm";
/// How often QEMU is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// As much of the console is kept.
const TAIL: usize = 4096;

const FOLDER: &str = "is a folder, which no firmware starts from";
const GRUB: &str =
    "starts GRUB, which measures the numbers of partitions, and the template tells none";

/// What a reference boot measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its logs, each digest of which the TPM saw.
    pub logs: Fitted,
    /// The PCRs at the seal point, by the TPM itself.
    pub values: PcrValues,
    /// How often the TPM was extended.
    pub extends: usize,
    /// How the processor was run.
    pub accelerator: Accelerator,
}

/// Boots a machine of a template in the first of these ways in which it comes up.
///
/// # Errors
/// [`ReferenceError`].
pub fn record(
    template: &Template,
    size: Size,
    ways: &[Accelerator],
    limit: Duration,
) -> Result<Recorded, ReferenceError> {
    let (last, others) = ways.split_last().unwrap_or((&Accelerator::Tcg, &[]));
    for way in others {
        match boot(template, size, *way, (BEGIN.min(limit), limit)) {
            Err(
                ReferenceError::Ended { seen: Seen { extends: 0, .. } }
                | ReferenceError::NotLatched { seen: Seen { extends: 0, .. }, .. },
            ) => {}
            done => return done,
        }
    }
    boot(template, size, *last, (limit, limit))
}

fn boot(
    template: &Template,
    size: Size,
    accelerator: Accelerator,
    (begin, limit): (Duration, Duration),
) -> Result<Recorded, ReferenceError> {
    let scratch = Scratch::new()?;
    let users = Users::new();
    let (tpm, _swtpm) = start_tpm(scratch.path(), template.bank, users.swtpm)?;
    let refused =
        |error: std::io::Error| ReferenceError::io(Path::new("the guest's memory"), &error);
    let memory = GuestMemory::new(size.memory.saturating_mul(1 << 20)).map_err(refused)?;
    let (mut copies, mut disks) = (vec![], vec![]);
    let mut line = {
        let mut place = |kept, path: &Path| {
            if kept == Kept::Disk && path.is_dir() {
                let (name, path) = (template.name.clone(), path.to_owned());
                return Err(ReferenceError::NoDisk { name, path, cause: FOLDER });
            }
            let copy = match kept {
                Kept::File => Inherited::copy_of(path),
                Kept::Disk => Inherited::read_only(path),
                Kept::Program => boot_disk::with_program(path),
            };
            let copy = copy.map_err(|error| ReferenceError::io(path, &error))?;
            let place = match kept {
                Kept::File | Kept::Program => copy.path(),
                Kept::Disk => {
                    disks.push(copy.number());
                    format!("/dev/fdset/{}", disks.len())
                }
            };
            copies.push(copy);
            Ok(place)
        };
        QemuLine::new(template, size, accelerator, &memory.inherited_path(), &mut place)?
    };
    // What is not a copy cannot be opened once more by who is nobody: it is handed over open.
    for (set, number) in (1..).zip(disks) {
        let handed = format!("fd={number},set={set}");
        line.arguments.splice(0..0, ["-add-fd".to_owned(), handed]);
    }
    let ((ours, control), (console, serial)) = (pair()?, pair()?);
    let mut qemu = Command::new(&line.program);
    qemu.args(&line.arguments).stdin(OwnedFd::from(control)).stdout(OwnedFd::from(serial));
    let mut qemu = Running::start(qemu, users.qemu)?;
    // What it has inherited stays with it alone.
    drop(copies);
    let said = qemu.listen(console);
    let relay = Relay::between(ours, tpm, template.bank)
        .map_err(|error| ReferenceError::io(Path::new("the line to the TPM"), &error))?;
    let seal_point = watch(&mut qemu, &relay, (begin, limit), &said)?;
    // From here on the guest does nothing more; its memory stays.
    drop(qemu);
    let logs = memory.logs().map_err(refused)?;
    drop(memory);
    let SealPoint { extends, values } = seal_point;
    let logs = fit(logs, &extends, template.bank).map_err(ReferenceError::Unfit)?;
    require_replay(&logs, &values)?;
    require_whole_disk(template, &logs)?;
    Ok(Recorded { logs, values, extends: extends.len(), accelerator })
}

/// Waits for the seal point.
fn watch(
    qemu: &mut Running,
    relay: &Relay,
    (begin, limit): (Duration, Duration),
    said: &dyn Fn() -> String,
) -> Result<SealPoint, ReferenceError> {
    let start = Instant::now();
    let mut within = begin;
    let seen = || {
        let extends = relay.extends();
        Seen { extends: extends.len(), last: extends.last().map(|it| it.pcr), said: said() }
    };
    loop {
        match relay.next(LOOK) {
            Some(Passed::Began) => within = limit,
            Some(Passed::SealPoint(point)) => return Ok(point),
            Some(Passed::Broken(error)) => return Err(ReferenceError::Stream(error)),
            Some(Passed::Mute) => return Err(ReferenceError::Mute),
            None if qemu.has_ended() => {
                // What it said last may still be on its way.
                thread::sleep(LOOK);
                return Err(ReferenceError::Ended { seen: seen() });
            }
            None => {}
        }
        if start.elapsed() >= within {
            return Err(ReferenceError::NotLatched { seconds: within.as_secs(), seen: seen() });
        }
    }
}

/// The log must give what the TPM holds: it also tells where PCR 0 starts.
fn require_replay(logs: &Fitted, values: &PcrValues) -> Result<(), ReferenceError> {
    let replayed = replay(&logs.log, Some(&logs.userspace)).remove(&values.bank());
    let replayed = replayed.unwrap_or_else(|| PcrValues::after_reset(values.bank()));
    let differing = differences(&replayed, values);
    match differing.iter().find(|it| !it.pcr.is_resettable()) {
        None => Ok(()),
        Some(difference) => Err(ReferenceError::Disagrees { pcr: difference.pcr }),
    }
}

/// GRUB finds and measures partitions by number, and a file system that is booted alone is in none.
fn require_whole_disk(template: &Template, logs: &Fitted) -> Result<(), ReferenceError> {
    let Boot::Disk { disk: Disk::Volumes { esp, .. }, .. } = &template.boot else { return Ok(()) };
    match Coverage::of(&logs.log).boot_path() {
        BootPath::Grub | BootPath::GrubMeasured => {
            let (name, path) = (template.name.clone(), esp.clone());
            Err(ReferenceError::NoDisk { name, path, cause: GRUB })
        }
        _ => Ok(()),
    }
}

/// A new TPM with one bank, and its control channel, with which it ends.
pub(super) fn start_tpm(
    folder: &Path,
    bank: PcrBank,
    user: Option<u32>,
) -> Result<(UnixStream, Running), ReferenceError> {
    let mut setup = Command::new("swtpm_setup");
    setup.args(["--tpm2", "--pcr-banks", bank.name(), "--tpmstate"]).arg(folder);
    let output = setup.stdin(Stdio::null()).output();
    let output = output.map_err(|error| no_program(&setup, &error))?;
    if !output.status.success() {
        let said = [output.stderr, output.stdout].concat();
        let cause = last_line(&said).unwrap_or_else(|| output.status.to_string());
        return Err(ReferenceError::Program { program: "swtpm_setup".into(), cause });
    }
    if let Some(user) = user {
        give(folder, user).map_err(|error| ReferenceError::io(folder, &error))?;
    }
    let (ours, theirs) = pair()?;
    let mut swtpm = Command::new("swtpm");
    swtpm.args(["socket", "--tpm2", "--terminate", "--ctrl", "type=unixio,clientfd=0"]);
    swtpm.arg("--tpmstate").arg(format!("dir={}", folder.display()));
    swtpm.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
    let mut swtpm = Running::start(swtpm, user)?;
    // It must never wait for somebody to read what it says.
    let errors = swtpm.0.stderr.take();
    thread::spawn(move || errors.map(|errors| keep_tail(errors, &Mutex::default())));
    Ok((ours, swtpm))
}

fn give(folder: &Path, user: u32) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        chown(entry?.path(), Some(user), Some(user))?;
    }
    chown(folder, Some(user), Some(user))
}

fn pair() -> Result<(UnixStream, UnixStream), ReferenceError> {
    UnixStream::pair().map_err(|error| ReferenceError::io(Path::new("a socket"), &error))
}

fn no_program(command: &Command, error: &std::io::Error) -> ReferenceError {
    let cause = match error.kind() {
        std::io::ErrorKind::NotFound => "it is not installed".to_owned(),
        _ => error.to_string(),
    };
    ReferenceError::Program { program: command.get_program().into(), cause }
}

/// A program that ends with the value.
pub(super) struct Running(Child);

impl Running {
    fn start(mut command: Command, user: Option<u32>) -> Result<Self, ReferenceError> {
        command.stderr(Stdio::piped());
        if let Some(user) = user {
            // The group of /dev/kvm may use that.
            let kvm = fs::metadata(KVM).map(|kvm| kvm.gid());
            command.uid(user).gid(kvm.unwrap_or(user));
        }
        die_with_parent(&mut command);
        command.spawn().map(Self).map_err(|error| no_program(&command, &error))
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Reads what the program and the console of its guest say, so that neither ever waits for that,
    /// and tells the last line: of its own errors, else of the console.
    fn listen(&mut self, console: UnixStream) -> impl Fn() -> String + use<> {
        let [output, errors] = [Arc::<Mutex<Vec<u8>>>::default(), Arc::default()];
        let streams: [(Option<Box<dyn Read + Send>>, _); 2] = [
            (Some(Box::new(console) as Box<_>), output.clone()),
            (self.0.stderr.take().map(|it| Box::new(it) as Box<_>), errors.clone()),
        ];
        for (stream, tail) in streams {
            if let Some(stream) = stream {
                thread::spawn(move || keep_tail(stream, &tail));
            }
        }
        move || {
            let line = |tail: &Mutex<Vec<u8>>| {
                last_line(&tail.lock().unwrap_or_else(PoisonError::into_inner))
            };
            line(&errors).or_else(|| line(&output)).unwrap_or_default()
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn keep_tail(mut stream: impl Read, tail: &Mutex<Vec<u8>>) {
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(bytes.get(..count).unwrap_or_default());
        let more = tail.len().saturating_sub(TAIL);
        tail.drain(..more);
    }
}

/// The last line that says something, without the escape sequences of a terminal.
fn last_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::new();
    for (index, part) in text.split('\u{1b}').enumerate() {
        match index {
            0 => plain.push_str(part),
            _ => plain
                .push_str(part.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |it| it.1)),
        }
    }
    let mut lines = plain.lines().map(str::trim).rev();
    lines.find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_told_without_what_moves_the_cursor() {
        let text = b"first\r\n\x1b[2J\x1b[01;01HPlease unlock disk root: \x1b[0m\r\n\n";
        assert_eq!(last_line(text).unwrap(), "Please unlock disk root:");
        assert_eq!(last_line(b"\n \n"), None);
    }
}
