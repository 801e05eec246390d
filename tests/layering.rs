//! Keeps the rooms apart: who may name what.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Words that only some rooms may use, and those rooms (paths below the repository's root).
const RULES: &[(&[&str], &[&str])] = &[
    (&["tss_esapi"], &["src/tpm/", "src/ffi/"]),
    (&["libcryptsetup_rs"], &["src/luks/", "src/ffi/"]),
    (&["clap::", "clap_complete", "anyhow"], &["src/main.rs", "src/cli", "src/commands/"]),
    (&["openssl::"], &["src/policy/signing.rs", "src/tpm/elsewhere/wrap.rs"]),
    (&["allow(unsafe_code)", "unsafe {"], &["src/ffi/"]),
];

/// Rooms without device, clock or environment.
const PURE: &[&str] = &[
    "src/measurement/",
    "src/artifact/",
    "src/prediction",
    "src/coverage",
    "src/policy/",
    "src/token/",
    "src/reference/command_stream.rs",
    "src/reference/compare.rs",
    "src/reference/fit.rs",
    "src/reference/partition_table.rs",
    "src/reference/pcr_read.rs",
    "src/reference/qemu.rs",
    "src/reseal/approval.rs",
    "src/reseal/change.rs",
    "src/reseal/journal.rs",
    "src/reseal/journal/",
    "src/reseal/line.rs",
    "src/reseal/plan.rs",
    "src/reseal/state.rs",
    "src/reseal/time.rs",
    "src/template/account.rs",
    "src/template/definition.rs",
    "src/template/delivery.rs",
    "src/template/forecast.rs",
    "src/template/forecasts.rs",
    "src/template/hardware.rs",
    "src/template/import/",
    "src/template/plan.rs",
    "src/template/text.rs",
    "src/template/wire.rs",
    "src/recovery.rs",
    "src/exit.rs",
    "src/error.rs",
];
const IMPURE: &[&str] =
    &["std::fs", "std::env", "std::time", "std::net", "std::process", "rustix::"];

fn sources(below: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The lines of product code: unit tests may reach further.
fn product_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let product = text.split("#[cfg(test)]\nmod ").next().unwrap();
    product.lines().filter(|line| !line.trim_start().starts_with("//")).map(String::from).collect()
}

fn violations() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [root.join("src"), root.join("crates/vmseal-boot/src")];
    let mut found = vec![];
    for path in files.iter().flat_map(|folder| sources(folder)) {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let lines = product_lines(&path);
        let uses = |word: &&str| lines.iter().any(|line| line.contains(word));
        for (words, rooms) in RULES {
            if !rooms.iter().any(|room| name.starts_with(room)) {
                found.extend(words.iter().filter(|w| uses(w)).map(|w| format!("{name}: {w}")));
            }
        }
        if PURE.iter().any(|room| name.starts_with(room)) {
            found.extend(IMPURE.iter().filter(|w| uses(w)).map(|w| format!("{name}: {w}")));
        }
    }
    found
}

#[test]
fn rooms_keep_apart() {
    assert_eq!(violations(), Vec::<String>::new());
}

/// A rule about a room that does not exist would never fail.
#[test]
fn rules_name_real_rooms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for room in RULES.iter().flat_map(|(_, rooms)| *rooms).chain(PURE) {
        let path = root.join(room);
        assert!(path.exists() || path.with_extension("rs").exists(), "{room}");
    }
}
