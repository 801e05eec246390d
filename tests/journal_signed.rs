//! The journal where the machine has a key of its own: its lines are signed, and stay checked after
//! the key was replaced.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;

use serde_json::Value;
use sha2::{Digest, Sha256};
use testkit::{Machine, Ran, System, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");

fn enrolled() -> System {
    let system = System::on(Machine::booted(VMSEAL));
    system.enroll(&[]).ok();
    system
}

fn journal(system: &System, options: &[&str]) -> Ran {
    run(system.vmseal(&["journal"]).args(options))
}

fn lines(system: &System) -> Vec<Value> {
    journal(system, &["--json"]).ok().json()["lines"].as_array().unwrap().clone()
}

fn file(system: &System) -> std::path::PathBuf {
    system.path("var/lib/vmseal/journal.jsonl")
}

/// Whoever can write all of it: the chain is made anew, and the state notes its end.
fn forge(system: &System, change: impl Fn(usize, &mut Value)) {
    let text = fs::read_to_string(file(system)).unwrap();
    let state = system.path("var/lib/vmseal/state.json");
    let mut lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let (mut prev, mut forged) = ("0".repeat(64), String::new());
    for (number, line) in lines.iter_mut().enumerate() {
        change(number, line);
        line["prev"] = prev.into();
        let text = line.to_string();
        prev = hex::encode(Sha256::digest(&text));
        forged += &(text + "\n");
    }
    fs::write(file(system), forged).unwrap();
    let mut noted: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    noted.as_object_mut().unwrap().remove("journal_head");
    fs::write(state, noted.to_string()).unwrap();
}

#[test]
fn lines_are_signed_by_the_machine_s_own_key() {
    let system = enrolled();
    let signer = system.show()["pkfp"].clone();
    let lines = lines(&system);
    assert!(lines.len() >= 2, "{lines:?}");
    assert!(lines.iter().all(|line| line["signed_by"] == signer), "{lines:?}");
    journal(&system, &["--verify"]).ok();
    let text = fs::read_to_string(file(&system)).unwrap();
    fs::write(file(&system), text.replacen("\"uid\":0", "\"uid\":7", 1)).unwrap();
    let ran = journal(&system, &["--verify"]).code(3);
    assert!(ran.stdout.contains("signature"), "{ran:#?}");
}

/// A chain that fits together again does not make up for the signatures.
#[test]
fn a_journal_that_was_written_anew_is_named() {
    let system = enrolled();
    forge(&system, |number, line| {
        if number == 0 {
            line["body"]["by"]["uid"] = 7.into();
        }
    });
    let ran = journal(&system, &["--verify"]).code(3);
    assert!(ran.stdout.contains("the signature of line 1 is not genuine"), "{ran:#?}");
    // One that is left out is told of.
    forge(&system, |number, line| {
        if number == 1 {
            line.as_object_mut().unwrap().remove("signature");
        }
    });
    let ran = journal(&system, &["--verify"]).code(3);
    assert!(
        ran.stderr.contains("1 line is not signed, though one before it is: line 2"),
        "{ran:#?}"
    );
}

#[test]
fn what_replaced_keys_signed_is_still_checked() {
    let system = enrolled();
    let first = system.show()["pkfp"].clone();
    for _ in 0..2 {
        system.authority(&["rotate"]).ok();
        system.enroll(&[]).ok();
        let old = system.old_key();
        assert!(!old.exists(), "nothing carries the old key any more");
    }
    let signers: Vec<_> = lines(&system).iter().map(|line| line["signed_by"].clone()).collect();
    assert_eq!(signers[0], first);
    assert_ne!(signers.last(), Some(&first));
    let kinds: Vec<_> = lines(&system).iter().map(|line| line["kind"].clone()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "rotate").count(), 2, "{kinds:?}");
    let ran = journal(&system, &["--verify"]).ok();
    assert!(!ran.stderr.contains("not checked"), "{ran:#?}");

    let text = fs::read_to_string(file(&system)).unwrap();
    fs::write(file(&system), text.replacen("\"uid\":0", "\"uid\":7", 1)).unwrap();
    let ran = journal(&system, &["--verify"]).code(3);
    assert!(ran.stdout.contains("signature of line 1"), "{ran:#?}");
}

/// A clone has the key, and must not speak in the name of the machine that it was made of.
#[test]
fn a_clone_signs_nothing_until_it_has_a_key_of_its_own() {
    let system = enrolled();
    system.put("etc/machine-id", "ffffffffffffffffffffffffffffffff\n");
    system.authority(&["rotate"]).ok();
    let signers: Vec<_> = lines(&system).iter().map(|line| line["signed_by"].clone()).collect();
    let rotate = signers.len() - 2;
    assert_eq!(signers[rotate], Value::Null);
    assert_eq!(signers[rotate + 1], system.show()["pkfp"]);
    let ran = journal(&system, &["--verify"]).ok();
    assert!(!ran.stderr.contains("not checked"), "{ran:#?}");
}
