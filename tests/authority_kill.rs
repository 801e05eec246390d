//! The authority's key after power loss: `kill -9` at each system call by which files change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::process::Stdio;

use testkit::image::PASSPHRASE;
use testkit::run::kill_everywhere;
use testkit::{Machine, System};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");

fn booted() -> System {
    System::on(Machine::booted(VMSEAL))
}

/// System calls by which files change. strace counts each of them by itself.
const CALLS: [&str; 9] =
    ["write", "fsync", "fchmod", "chmod", "mkdir", "rename", "renameat2", "link", "linkat"];

#[test]
fn init_and_rotate_may_be_killed_at_any_instant() {
    let system = booted();
    let folder = system.path("etc/vmseal");
    let init = system.vmseal(&["authority", "init"]);
    let start = || {
        let _ = fs::remove_dir_all(&folder);
    };
    let points = kill_everywhere(&init, &CALLS, start, |nth| {
        system.machine.tpm.flush();
        let is_there = system.key().exists();
        let again = system.authority(&["init"]);
        assert_eq!(again.code, Some(if is_there { 3 } else { 0 }), "{nth}: {again:#?}");
        assert_eq!(system.show()["own"], true, "{nth}");
        assert_eq!(system.names(), ["authority.pem"], "{nth}");
    });
    for call in ["write", "fsync", "fchmod", "mkdir", "renameat2"] {
        assert!(points.contains_key(call), "{points:?}");
    }

    let first = fs::read(system.key()).unwrap();
    let rotate = system.vmseal(&["authority", "rotate"]);
    let start = || {
        fs::write(system.key(), &first).unwrap();
        let _ = fs::remove_file(system.old_key());
        let _ = fs::remove_file(system.key().with_extension("pem.new"));
    };
    let points = kill_everywhere(&rotate, &CALLS, start, |nth| {
        system.machine.tpm.flush();
        let now = fs::read(system.key()).unwrap();
        assert_eq!(system.show()["own"], true, "{nth}");
        if now != first {
            assert_eq!(fs::read(system.old_key()).unwrap(), first, "{nth}");
        }
        let again = system.authority(&["rotate"]);
        assert_eq!(again.code, Some(if now == first { 0 } else { 3 }), "{nth}: {again:#?}");
        assert_ne!(fs::read(system.key()).unwrap(), first, "{nth}");
        assert_eq!(fs::read(system.old_key()).unwrap(), first, "{nth}");
        let names = system.names();
        assert_eq!(names, ["authority.pem", "authority.pem.old"], "{nth}");
    });
    for call in ["write", "fsync", "fchmod", "rename", "chmod"] {
        assert!(points.contains_key(call), "{points:?}");
    }
    assert!(points.contains_key("link") || points.contains_key("linkat"), "{points:?}");
}

#[test]
fn enroll_with_a_new_key_may_be_killed_as_it_writes_names() {
    let system = booted();
    let snapshot = system.machine.image.snapshot();
    let enroll = system.enroll_command();
    let start = || {
        system.machine.image.restore(&snapshot);
        let _ = fs::remove_dir_all(system.path("etc/vmseal"));
        let _ = fs::remove_dir_all(system.path("var"));
        let _ = fs::remove_file(system.machine.pins());
    };
    let calls = ["fsync", "rename", "renameat2"];
    let points = kill_everywhere(&enroll, &calls, start, |point| {
        system.machine.tpm.flush();
        assert!(system.machine.image.opens_with(PASSPHRASE), "{point}");
        assert!(matches!(system.machine.unlock(&["-q"]).code, Some(0 | 10 | 19)), "{point}");
        let again = system.enroll(&[]);
        assert_eq!(again.code, Some(0), "{point}: {again:#?}");
        assert_eq!(system.machine.unlock(&[]).code, Some(0), "{point}");
        assert_eq!(system.machine.image.keyslots().len(), 2, "{point}");
        assert!(system.signatures().exists(), "{point}");
        assert_eq!(system.names(), ["authority.pem"], "{point}");
    });
    assert_eq!(points.len(), calls.len(), "{points:?}");
}

#[test]
fn two_at_once_make_one_key() {
    let system = booted();
    system.authority(&["init", "--key", system.path("first.pem").to_str().unwrap()]).ok();
    let start = || {
        let mut command = system.vmseal(&["authority", "init", "--timeout", "60"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    // Each waits for the TPM, which serves one at a time.
    let ended: Vec<_> = [start(), start()].map(|mut child| child.wait().unwrap().code()).into();
    assert!(ended.contains(&Some(0)), "{ended:?}");
    assert_eq!(system.show()["own"], true);
    assert_eq!(system.names(), ["authority.pem"]);
}
