//! Authenticode digests beside pesign's, of every EFI program of a Debian 13 tree, its kernel too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::machine::project;
use testkit::{Systemd, run};
use vmseal::artifact::Source;
use vmseal::artifact::hashing::digest;
use vmseal::artifact::pe::Pe;
use vmseal::measurement::PcrBank;

struct OnDisk(File);

impl Source for OnDisk {
    fn len(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

fn authenticode(path: &Path) -> String {
    let file = OnDisk(File::open(path).unwrap());
    let pe = Pe::parse(&file).unwrap();
    digest(&[pe.authenticode(&file)], &[PcrBank::Sha256]).unwrap()[0][0].to_string()
}

fn by_pesign(path: &Path) -> String {
    let ran = run(Command::new("pesign").arg("-h").arg("-i").arg(path)).ok();
    ran.stdout.trim().strip_prefix("hash: ").expect("a hash").to_owned()
}

#[test]
fn every_efi_program_has_the_digest_that_pesign_gives_it() {
    run(&mut Systemd::Trixie.command("true")).ok();
    let tree = project().join(".cache/trixie");
    let mut programs: Vec<PathBuf> = vec![];
    for folder in ["boot", "usr/lib/systemd/boot/efi"] {
        programs
            .extend(fs::read_dir(tree.join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    let is_program = |path: &PathBuf| fs::read(path).unwrap().starts_with(b"MZ");
    programs.retain(is_program);
    assert!(programs.len() >= 4, "{programs:?}");
    for program in programs {
        assert_eq!(authenticode(&program), by_pesign(&program), "{}", program.display());
    }
}
