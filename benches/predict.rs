//! `make bench`: a whole `vmseal predict`, beside `sha256sum` of the files that it digests: 100 MB of
//! kernel and initrd. At most 1.3 times as long.
//!
//! The kernel is Debian 13's, and its ukify makes the unified kernel image. The logs are recorded
//! ones, of boots of other files: what is timed is the reading of those to come, and with "base too"
//! also of those that ran.

// A benchmark is a program for the terminal, and support code of tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::Systemd;

const TOGETHER: u64 = 100_000_000;
const ROUNDS: usize = 11;
const BUDGET: f64 = 1.3;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let kernel = kernel();
    for (tree, seed) in [("base", 1), ("next", 2)] {
        let (deb, entries) =
            (path(tree).join("deb"), fixture("sdboot/base/esp/loader/entries/deb.conf"));
        fs::create_dir_all(&deb).unwrap();
        fs::create_dir_all(path(tree).join("loader/entries")).unwrap();
        fs::copy(entries, path(tree).join("loader/entries/deb.conf")).unwrap();
        let conf = fixture("sdboot/base/esp/loader/loader.conf");
        fs::copy(conf, path(tree).join("loader/loader.conf")).unwrap();
        fs::write(deb.join("initrd"), initrd(&kernel, seed)).unwrap();
    }
    fs::copy(&kernel, path("base/deb/vmlinuz")).unwrap();
    // An update of the initrd leaves the kernel as it is.
    fs::hard_link(path("base/deb/vmlinuz"), path("next/deb/vmlinuz")).unwrap();
    fs::create_dir_all(path("uki/EFI/BOOT")).unwrap();
    let uki = path("uki/EFI/BOOT/BOOTX64.EFI");
    let mut ukify = Systemd::Trixie.command("ukify");
    ukify.args(["build", "--cmdline=console=ttyS0"]);
    ukify.arg(format!("--linux={}", path("next/deb/vmlinuz").display()));
    ukify.arg(format!("--initrd={}", path("next/deb/initrd").display()));
    // It sums the image up in Python, which takes its time.
    let made = ukify.arg(format!("--output={}", uki.display())).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let next = ["next/deb/vmlinuz", "next/deb/initrd"].map(path);
    let all = [next.as_slice(), &[path("base/deb/initrd")]].concat();
    let cases = [
        Case { name: "systemd-boot", log: "sdboot/base", base: None, next: "next", files: &next },
        Case {
            name: "the same, base too",
            base: Some("base"),
            files: &all,
            log: "sdboot/base",
            next: "next",
        },
        Case {
            name: "UKI",
            log: "uki/base",
            base: None,
            next: "uki",
            files: std::slice::from_ref(&uki),
        },
        Case {
            name: "the same, base too",
            base: Some("uki"),
            files: std::slice::from_ref(&uki),
            log: "uki/base",
            next: "uki",
        },
    ];
    println!("{ROUNDS} rounds, medians\n");
    println!("{:<20}{:>8}{:>12}{:>12}{:>8}", "", "", "sha256sum", "predict", "ratio");
    for case in cases {
        case.compare(folder.path());
    }
}

struct Case<'a> {
    name: &'a str,
    log: &'a str,
    base: Option<&'a str>,
    next: &'a str,
    /// What has to be digested.
    files: &'a [PathBuf],
}

impl Case<'_> {
    /// Both by turns, so that noise of the machine meets both.
    fn compare(&self, folder: &Path) {
        let (mut theirs, mut ours) = (vec![], vec![]);
        for _ in 0..ROUNDS {
            theirs.push(time(Command::new("sha256sum").args(self.files)));
            let mut predict = Command::new(env!("CARGO_BIN_EXE_vmseal"));
            predict.args(["predict", "--json", "--base-log"]);
            predict.arg(fixture(self.log).join("log.bin"));
            predict.arg("--esp").arg(folder.join(self.next));
            if let Some(base) = self.base {
                predict.arg("--base-esp").arg(folder.join(base));
            }
            ours.push(time(&mut predict));
        }
        let (theirs, ours) = (median(theirs), median(ours));
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        let bytes: u64 = self.files.iter().map(|file| file.metadata().unwrap().len()).sum();
        println!(
            "{:<20}{:>5} MB{:>9} ms{:>9} ms{ratio:>8.2}",
            self.name,
            bytes / 1_000_000,
            theirs.as_millis(),
            ours.as_millis()
        );
        assert!(ratio <= BUDGET, "{}: {ratio:.2}, budget {BUDGET}", self.name);
    }
}

fn time(command: &mut Command) -> Duration {
    let start = Instant::now();
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    *times.get(ROUNDS / 2).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/eventlogs").join(name)
}

/// The kernel of the Debian 13 tree.
fn kernel() -> PathBuf {
    let boot = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/trixie/boot");
    let files = fs::read_dir(boot).expect("the tree that `make trixie` makes").flatten();
    let is_kernel = |path: &PathBuf| path.to_string_lossy().contains("/vmlinuz-");
    files.map(|entry| entry.path()).find(is_kernel).expect("a kernel in that tree")
}

/// As many bytes as are missing to 100 MB, each file with its own.
fn initrd(kernel: &Path, seed: u64) -> Vec<u8> {
    let len = TOGETHER - kernel.metadata().unwrap().len();
    (0..len).map(|at| ((at + seed).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
