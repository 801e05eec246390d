//! Configurations that nobody sane writes: bounded time, no panic, an answer that is none.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vmseal::artifact::Volume;
use vmseal::artifact::grub::{
    BootFiles, Choice, Facts, Hashed, Unpredictable, entries, follow, learn, walk,
};
use vmseal::measurement::PcrBank;

use crate::fixture::{MemoryFiles, files, log};

const BANKS: &[PcrBank] = &[PcrBank::Sha256];
const BASE: &str = "grub-tpm-deb13/base";

/// What a recorded boot taught.
fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(|| {
        let base = files(BASE);
        let digests = Hashed::new(&base, BANKS);
        let boot = BootFiles { files: &base, digests: &digests, banks: BANKS };
        learn(&boot, &log(BASE)).unwrap().facts
    })
}

/// Why the boot with this configuration is not told, with the facts of a recorded boot.
fn refused(config: &str) -> Unpredictable {
    let mut hostile = files(BASE);
    hostile.put(Volume::Boot, "/grub/grub.cfg", config);
    run(&hostile, facts()).unwrap_err()
}

fn run(files: &MemoryFiles, facts: &Facts) -> Result<(), Unpredictable> {
    let started = Instant::now();
    let digests = Hashed::new(files, BANKS);
    let boot = BootFiles { files, digests: &digests, banks: BANKS };
    let walked = walk(&boot, facts, &Choice::Default);
    let _ = entries(&boot, facts);
    // And as the script that comes after one that is gone.
    let _ = follow(&boot, &log(BASE));
    // A debug build on a busy machine: what is bounded takes well under a second in release.
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    walked.boot.map(drop)
}

#[test]
fn endless_configurations_end() {
    for (config, why) in [
        ("function f {\n f\n}\nf\n".to_owned(), "nested"),
        ("function f {\n g\n}\nfunction g {\n f; f\n}\nf\n".to_owned(), "nested"),
        ("while true; do true; done\n".to_owned(), "20000"),
        ("until false; do set a=$a$a; done\n".to_owned(), "20000"),
        ("set a=aaaaaaaaaaaaaaaa\nwhile true; do set a=$a$a; done\n".to_owned(), "MiB"),
        ("for i in 1 2; do while true; do continue; done; done\n".to_owned(), "20000"),
        ("configfile $prefix/grub.cfg\n".to_owned(), "one another"),
        ("source $prefix/grub.cfg\n".to_owned(), "one another"),
        ("submenu a {\n configfile $prefix/grub.cfg\n}\n".to_owned(), ""),
        ("{".repeat(1 << 20), "syntax"),
        ("menuentry a {\n".repeat(1 << 16), "syntax"),
        ("if true; then\n".repeat(1 << 16), "syntax"),
        ("\"".to_owned(), "syntax"),
        ("echo $".to_owned(), "syntax"),
        ("set default=$unknown; linux /nowhere\n".to_owned(), "does not exist"),
        ("chainloader /EFI/x.efi\n".to_owned(), "not modelled"),
        ("menuentry a --class b {\n true\n}\n".repeat(2000), "1024"),
        ("a".repeat(3 << 20), "2 MiB"),
        (String::new(), "starts nothing"),
    ] {
        let error = refused(&config);
        let start: String = config.chars().take(40).collect();
        assert!(error.why.contains(why), "{start}: {error}");
        assert!(error.to_string().len() < 500);
    }
}

#[test]
fn loops_that_double_a_menu_are_bounded() {
    let body = "x".repeat(1 << 18);
    let config = format!("while true; do menuentry a {{ echo {body}\n }}; done\n");
    let error = refused(&config);
    assert!(error.why.contains("4 MiB"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    /// Real configurations with pieces cut out, doubled and swapped.
    #[test]
    fn mutated_configurations_are_survived(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4_u8), 1..12),
        noise in "[\\PC\n\"'${}\\\\;]{0,12}",
    ) {
        let base = files(BASE);
        let mut characters: Vec<char> = base.text(Volume::Boot, "/grub/grub.cfg").chars().collect();
        for (first, second, kind) in cuts {
            let (a, b) = (first.index(characters.len() + 1), second.index(characters.len() + 1));
            let (a, b) = (a.min(b), a.max(b).min(a.min(b) + 400));
            match kind {
                0 => drop(characters.drain(a..b)),
                1 => {
                    let piece = characters[a..b].to_vec();
                    characters.splice(a..a, piece);
                }
                2 => drop(characters.splice(a..a, noise.chars())),
                _ => characters[a..b].reverse(),
            }
        }
        let config: String = characters.into_iter().collect();
        let mut mutated = base.clone();
        mutated.put(Volume::Boot, "/grub/grub.cfg", config);
        let _ = run(&mutated, facts());
    }
}
