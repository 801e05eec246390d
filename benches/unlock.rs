//! `make bench`: one unlock by vmseal beside systemd and clevis, on the same TPM, in one run.
//!
//! Each contender runs once a round, so that noise of the machine meets all of them. What is timed
//! is a whole process that unseals and opens the keyslot:
//! - vmseal: `unlock --test`, on this machine's libraries, and on the Debian 13 ones that systemd 257
//!   runs on (most of an unlock's time is spent in libtss2 and libcryptsetup);
//! - systemd 257: `systemd-cryptenroll --unlock-tpm2-device=… --recovery-key` on a read-only mount:
//!   it unseals, opens the keyslot, derives one more key (pbkdf2, 1000 iterations, about a
//!   millisecond) and ends where it would begin to write;
//! - systemd 252: `systemd-cryptsetup attach`, up to the activation, which this machine refuses for
//!   want of device-mapper;
//! - clevis: `clevis luks pass`, which prints the passphrase and opens no keyslot.

// A benchmark is a program for the terminal, and support code of tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use testkit::machine::BASE;
use testkit::{Image, Machine, Proxy, Swtpm, Systemd, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
const WARM_UP: usize = 3;
const ROUNDS: usize = 40;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("--serve") => serve(&arguments[2], &arguments[3..]),
        _ => compare(),
    }
}

fn compare() {
    let machine = Machine::with_tpm(VMSEAL, Swtpm::start(), BASE);
    let modern = &machine.image;
    machine.enroll(&[]).ok();
    let legacy = Image::create(machine.folder.path());
    Systemd::Host.enroll(&machine.tpm, &legacy, &["--tpm2-pcrs=0+4+7+11+12+13+15"]).ok();
    let clevis = Image::create(machine.folder.path());
    bind_clevis(&machine, &clevis);

    let port = machine.tpm.port();
    let mut contenders = [
        Contender::vmseal("vmseal, its own token", &machine, modern),
        Contender {
            systemd: Systemd::Trixie,
            ..Contender::vmseal("vmseal, 257's libraries", &machine, modern)
        },
        Contender::systemd_257(modern),
        Contender::vmseal("vmseal, token of 252", &machine, &legacy),
        Contender::systemd_252(&legacy),
        Contender::clevis(&clevis),
    ];
    let commands: Vec<usize> =
        contenders.iter().map(|contender| contender.tpm_commands(&machine.tpm)).collect();
    let mut servers: Vec<Server> =
        contenders.iter().map(|contender| contender.serve(port)).collect();
    for round in 0..WARM_UP + ROUNDS {
        for (contender, server) in contenders.iter_mut().zip(&mut servers) {
            let took = server.time_one();
            // systemd 252 leaves a session behind, which costs the next one nothing but space.
            machine.tpm.flush();
            if round >= WARM_UP {
                contender.times.push(took);
            }
        }
    }
    println!("{ROUNDS} rounds, release build, one swtpm over TCP\n");
    println!("{:<24}{:>10}{:>20}{:>12}{:>14}", "", "median", "p10 to p90", "peak", "TPM commands");
    for ((contender, server), commands) in contenders.iter_mut().zip(&servers).zip(commands) {
        contender.times.sort_unstable();
        println!(
            "{:<24}{:>7.1} ms{:>20}{:>8.1} MiB{commands:>14}",
            contender.name,
            millis(contender.quantile(0.5)),
            format!(
                "{:.1} to {:.1} ms",
                millis(contender.quantile(0.1)),
                millis(contender.quantile(0.9))
            ),
            server.peak_kib as f64 / 1024.0,
        );
    }
    println!();
    let median = |index: usize| millis(contenders[index].quantile(0.5));
    for (what, ours, theirs, budget) in [
        ("vmseal : systemd 257, same token", 0, 2, 0.5),
        ("the same, on the same libraries", 1, 2, 0.5),
        ("vmseal : systemd 252, same token", 3, 4, 0.5),
        ("vmseal : clevis", 0, 5, 0.05),
    ] {
        let ratio = median(ours) / median(theirs);
        let verdict = if ratio <= budget { "within" } else { "OVER" };
        println!("{what:<36}{ratio:>6.3}   {verdict} the budget of {budget}");
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A way to unlock, and how long it took.
struct Contender {
    name: &'static str,
    systemd: Systemd,
    /// The command line, for a TPM on a data port.
    command: Box<dyn Fn(u16) -> Vec<String>>,
    /// What standard error says when all but the last step went well; empty for success.
    ends_with: &'static str,
    /// A folder to be mounted read-only.
    read_only: Option<String>,
    times: Vec<Duration>,
}

impl Contender {
    fn new(name: &'static str, command: impl Fn(u16) -> Vec<String> + 'static) -> Self {
        Self {
            name,
            systemd: Systemd::Host,
            command: Box::new(command),
            ends_with: "",
            read_only: None,
            times: vec![],
        }
    }

    fn vmseal(name: &'static str, machine: &Machine, image: &Image) -> Self {
        let (pins, log) = (text(&machine.pins()), text(machine.log()));
        let image = text(image.path());
        Self::new(name, move |port| {
            let tcti = testkit::swtpm::tcti(port);
            words(&[VMSEAL, "unlock", "--test", &image, "--tcti", &tcti])
                .into_iter()
                .chain(words(&["--pins", &pins, "--eventlog", &log]))
                .collect()
        })
    }

    fn systemd_257(image: &Image) -> Self {
        let folder = text(image.path().parent().unwrap());
        let image = text(image.path());
        Self {
            systemd: Systemd::Trixie,
            ends_with: "Failed to add new recovery key",
            read_only: Some(folder),
            ..Self::new("systemd 257", move |port| {
                let device = format!("--unlock-tpm2-device={}", testkit::swtpm::tcti(port));
                words(&["systemd-cryptenroll", &device, "--recovery-key", &image])
            })
        }
    }

    fn systemd_252(image: &Image) -> Self {
        let image = text(image.path());
        Self {
            ends_with: "Failed to activate with TPM2 acquired key",
            ..Self::new("systemd 252", move |port| {
                // A comma would end the option: the host is the TCTI's default.
                let options = format!("tpm2-device=swtpm:port={port},headless=true");
                let program = "/lib/systemd/systemd-cryptsetup";
                words(&[program, "attach", "vmseal-bench", &image, "-", &options])
            })
        }
    }

    fn clevis(image: &Image) -> Self {
        let image = text(image.path());
        Self::new("clevis", move |port| {
            let tcti = format!("TPM2TOOLS_TCTI={}", testkit::swtpm::tcti(port));
            words(&["env", &tcti, "clevis", "luks", "pass", "-d", &image, "-s", "1"])
        })
    }

    /// Starts the process that runs the command, on demand, beside this one.
    fn serve(&self, port: u16) -> Server {
        let this = std::env::current_exe().unwrap();
        let mut serve = match (&self.read_only, self.systemd) {
            (Some(folder), systemd) => {
                let mut shell = systemd.command("sh");
                shell.arg("-c").arg(
                    "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"",
                );
                shell.arg("sh").arg(folder).arg(this);
                shell
            }
            (None, Systemd::Host) => Command::new(this),
            (None, systemd) => systemd.command(&text(&this)),
        };
        serve.arg("--serve").arg(self.ends_with).args((self.command)(port));
        serve.env("PASSWORD", "");
        let mut child = serve.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (ask, answer) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Server { child, ask: Some(ask), answer: BufReader::new(answer), peak_kib: 0 }
    }

    /// TPM commands of one run, counted by a proxy.
    fn tpm_commands(&self, tpm: &Swtpm) -> usize {
        let proxy = Proxy::before(tpm);
        let port = proxy.tcti().rsplit_once('=').unwrap().1.parse().unwrap();
        self.serve(port).time_one();
        tpm.flush();
        proxy.commands().len()
    }

    /// A quantile of the sorted times.
    fn quantile(&self, share: f64) -> Duration {
        self.times[((self.times.len() - 1) as f64 * share).round() as usize]
    }
}

/// A process that runs one command again and again and times it.
struct Server {
    child: Child,
    ask: Option<ChildStdin>,
    answer: BufReader<ChildStdout>,
    peak_kib: u64,
}

impl Server {
    fn time_one(&mut self) -> Duration {
        writeln!(self.ask.as_mut().unwrap(), "go").unwrap();
        let mut line = String::new();
        self.answer.read_line(&mut line).unwrap();
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().unwrap());
        let took = Duration::from_nanos(numbers.next().expect("the contender's time"));
        self.peak_kib = numbers.next().unwrap();
        took
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ask = None;
        let _ = self.child.wait();
    }
}

/// The other side of [`Server`]: for each line, runs the command, checks how it ended, and prints
/// nanoseconds and the peak resident memory, in KiB, of all runs so far.
fn serve(ends_with: &str, command: &[String]) {
    for _ in std::io::stdin().lines() {
        let start = Instant::now();
        let output = Command::new(&command[0]).args(&command[1..]).output().unwrap();
        let took = start.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        let as_expected =
            if ends_with.is_empty() { output.status.success() } else { said.contains(ends_with) };
        assert!(as_expected, "{command:?}: {:?}, {said}", output.status);
        let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
        println!("{} {peak}", took.as_nanos());
    }
}

fn bind_clevis(machine: &Machine, image: &Image) {
    let config = r#"{"pcr_bank":"sha256","pcr_ids":"0,4,7,11,12,13,15"}"#;
    let mut bind = Command::new("clevis");
    bind.args(["luks", "bind", "-y", "-k"]).arg(machine.key_file()).arg("-d").arg(image.path());
    run(bind.args(["tpm2", config]).env("TPM2TOOLS_TCTI", machine.tpm.tcti())).ok();
    machine.tpm.flush();
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}
