//! `make bench`: a host approves the boots of 1,000 machines of a template, beside systemd-cryptenroll
//! run once for each machine's disk.
//!
//! vmseal hashes kernel and initrd once, signs for each machine, and writes one file for each; the
//! machines' headers are not touched. systemd 257 opens each header by a key file (pbkdf2, 1000
//! iterations), seals to the PCRs of its TPM, and takes the token before away: it is run for 20 disks,
//! one after the other, and the time for 1,000 is 50 times that. sha256sum of the same two files tells
//! how much of vmseal's time is hashing.

// A benchmark is a program for the terminal, and support code of tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::machine::project;
use testkit::virtual_boot::fixture_folder;
use testkit::{Image, Recording, Swtpm, Systemd, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
const BASE: &str = "direct-qemu10.0.13-ovmf2025.02/base";
const MACHINES: usize = 1_000;
const DISKS: usize = 20;
const ROUNDS: usize = 5;
/// As large as an initrd of a distribution.
const INITRD: usize = 40 << 20;

fn main() {
    let folder = TempDir::with_prefix("vmseal-bench-").unwrap();
    let (kernel, initrd) = (kernel(), folder.path().join("initrd"));
    fs::write(&initrd, vec![7; INITRD]).unwrap();
    let root = folder.path().join("root");
    write_template(&root, folder.path(), &kernel, &initrd);
    vmseal(&root, &["authority", "init", "debian"]);

    let (mut ours, mut hashing) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        // Another initrd each time, so that every machine's boot is new.
        fs::File::options().append(true).open(&initrd).unwrap().write_all(&[1; 4]).unwrap();
        hashing.push(timed(|| {
            run(Command::new("sha256sum").args([&kernel, &initrd])).ok();
        }));
        ours.push(timed(|| vmseal(&root, &["reseal", "--template", "debian", "--yes"])));
    }
    let theirs = systemd(folder.path());
    let [ours, hashing] = [ours, hashing].map(median);
    let extrapolated = theirs * (MACHINES / DISKS) as u32;
    println!("{ROUNDS} rounds, release build; medians\n");
    println!("vmseal reseal, {MACHINES} machines        {:>8.2} s", ours.as_secs_f64());
    println!("sha256sum of kernel and initrd      {:>8.2} s", hashing.as_secs_f64());
    println!("systemd-cryptenroll, {DISKS} disks       {:>8.2} s", theirs.as_secs_f64());
    println!("the same for {MACHINES}, extrapolated     {:>8.2} s", extrapolated.as_secs_f64());
    println!("\nvmseal : systemd-cryptenroll        {:>8.4}", ratio(ours, extrapolated));
    let beside = ours.saturating_sub(hashing).as_secs_f64();
    let verdict = if beside <= 2.0 { "within" } else { "OVER" };
    println!("beside hashing                      {beside:>8.2} s   {verdict} the budget of 2 s");
}

fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Debian 13's, of the tree that `make trixie` makes.
fn kernel() -> PathBuf {
    let boot = project().join(".cache/trixie/boot");
    let entries = fs::read_dir(boot).expect("run: make trixie").flatten().map(|it| it.path());
    let is_kernel =
        |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("vmlinuz-");
    entries.into_iter().find(is_kernel).expect("a kernel")
}

fn write_template(root: &Path, folder: &Path, kernel: &Path, initrd: &Path) {
    let templates = root.join("etc/vmseal/templates.d");
    fs::create_dir_all(&templates).unwrap();
    let log = fixture_folder(BASE).join("log.bin");
    let mut text = format!(
        "boot = \"kernel\"\nkernel = {kernel:?}\ninitrd = {initrd:?}\ncmdline = \"quiet\"\n\
         [[reference]]\nlog = {log:?}\n[delivery]\nkind = \"fw_cfg\"\nfolder = {:?}\n",
        folder.join("delivered"),
    );
    for number in 0..MACHINES {
        text += &format!(
            "[[vm]]\nname = \"vm{number}\"\ncmdline = \"systemd.machine_id={number:032x}\"\n"
        );
    }
    fs::write(templates.join("debian.toml"), text).unwrap();
}

fn vmseal(root: &Path, arguments: &[&str]) {
    run(Command::new(VMSEAL).args(arguments).arg("--root").arg(root)).ok();
}

/// Each disk anew, as after an update: the seal before goes.
fn systemd(folder: &Path) -> Duration {
    let tpm = Swtpm::start();
    Recording::fixture(BASE).replay_into(&mut tpm.wire());
    let images: Vec<Image> = (0..DISKS).map(|_| Image::create(folder)).collect();
    let enroll = |tpm: &Swtpm, more: &[&str]| {
        for image in &images {
            let arguments = [&["--tpm2-pcrs=0+4+7+9"], more].concat();
            Systemd::Trixie.enroll(tpm, image, &arguments).ok();
        }
    };
    enroll(&tpm, &[]);
    let took = timed(|| enroll(&tpm, &["--wipe-slot=tpm2"]));
    tpm.flush();
    took
}
