//! `make bench`: digests of 100 MB as a boot wants them, beside `sha256sum` of the same files.
//!
//! Three boots: kernel and initrd by themselves (systemd-boot), with the kernel digested twice (GRUB
//! measures the file and the image), and a unified kernel image, whose bytes count for the image,
//! its sections, its kernel and its initrd.

// A benchmark is a program for the terminal, and support code of tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vmseal::artifact::Source;
use vmseal::artifact::hashing::{Recipe, digest};
use vmseal::measurement::PcrBank;

const KERNEL: u64 = 12 << 20;
const INITRD: u64 = 88 << 20;
const ROUNDS: usize = 15;

struct OnDisk(File);

impl Source for OnDisk {
    fn len(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

fn create(path: &Path, len: u64) -> OnDisk {
    let bytes: Vec<u8> = (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(path, bytes).unwrap();
    OnDisk(File::open(path).unwrap())
}

/// The median of some runs.
fn median(mut run: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    *times.get(ROUNDS / 2).unwrap()
}

/// All but a few bytes of a run, as the digest of an image has it.
fn image(source: &OnDisk, start: u64, len: u64) -> Recipe<'_> {
    let mut recipe = Recipe::range(source, start, 216);
    recipe.append(Recipe::range(source, start + 220, len - 220));
    recipe
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("kernel"), folder.path().join("initrd"));
    let together = folder.path().join("uki");
    let (kernel, initrd) = (create(&one, KERNEL), create(&two, INITRD));
    let uki = create(&together, KERNEL + INITRD);
    let mut combined = Recipe::range(&uki, KERNEL, INITRD);
    combined.append(Recipe::bytes("an archive"));

    let cases: [(&str, Vec<&Path>, Vec<Recipe<'_>>); 3] = [
        ("systemd-boot", vec![&one, &two], vec![image(&kernel, 0, KERNEL), Recipe::whole(&initrd)]),
        (
            "GRUB",
            vec![&one, &two],
            vec![image(&kernel, 0, KERNEL), Recipe::whole(&kernel), Recipe::whole(&initrd)],
        ),
        (
            "UKI",
            vec![&together],
            vec![
                image(&uki, 0, KERNEL + INITRD),
                Recipe::range(&uki, 0, KERNEL),
                image(&uki, 0, KERNEL),
                Recipe::range(&uki, KERNEL, INITRD),
                combined,
            ],
        ),
    ];
    println!("{ROUNDS} rounds, 100 MiB, medians\n");
    println!("{:<16}{:>12}{:>12}{:>8}", "", "sha256sum", "digest", "ratio");
    for (name, files, recipes) in cases {
        let by_tool = median(|| {
            let mut command = Command::new("sha256sum");
            assert!(command.args(&files).stdout(Stdio::null()).status().unwrap().success());
        });
        let ours = median(|| drop(digest(&recipes, &[PcrBank::Sha256]).unwrap()));
        let ratio = ours.as_secs_f64() / by_tool.as_secs_f64();
        println!("{name:<16}{:>9} ms{:>9} ms{ratio:>8.2}", by_tool.as_millis(), ours.as_millis());
    }
}
