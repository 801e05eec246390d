//! The kit itself: a test that leans on a part that lies proves nothing.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;
use testkit::image::PASSPHRASE;
use testkit::proxy::Mode;
use testkit::wire::Wire;
use testkit::{Image, Proxy, Recording, Swtpm, machine, tool};

/// Folders of recorded boots that have a log, as `family/case`.
fn boots() -> Vec<String> {
    let top = machine::project().join("tests/fixtures/eventlogs");
    let folders = |of: PathBuf| fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path());
    let cases = folders(top.clone()).filter(|family| family.is_dir()).flat_map(folders);
    let cases = cases.filter(|case| case.join("log.bin").exists());
    cases.map(|case| case.strip_prefix(&top).unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_virtual_boot_has_the_pcrs_of_the_recorded_one() {
    let tpm = Swtpm::with_banks(&["sha1", "sha256", "sha384"]);
    let boots = boots();
    assert!(boots.len() > 20, "fixtures");
    for boot in boots {
        tpm.restart();
        Recording::fixture(&boot).replay_into(&mut tpm.wire());
        let folder = testkit::virtual_boot::fixture_folder(&boot);
        let known: Value =
            serde_json::from_slice(&fs::read(folder.join("pcrs.json")).unwrap()).unwrap();
        for (bank, pcrs) in known.as_object().unwrap() {
            for (pcr, value) in pcrs.as_object().unwrap() {
                // PCR 10 is the kernel's IMA, which logs elsewhere.
                if pcr != "10" && bank != "sha512" {
                    let replayed = tpm.pcr(bank, pcr.parse().unwrap());
                    assert_eq!(&replayed, value, "{boot}: {bank} PCR {pcr}");
                }
            }
        }
    }
}

#[test]
fn a_tpm_has_the_banks_that_were_asked_for_and_forgets_pcrs_at_restart() {
    let tpm = Swtpm::with_banks(&["sha1", "sha384"]);
    assert_eq!(tpm.pcr("sha256", 7), "", "not allocated");
    tpm.extend(7, 1);
    assert_ne!(tpm.pcr("sha384", 7), "0".repeat(96));
    assert_ne!(tpm.pcr("sha1", 7), "0".repeat(40));
    tpm.restart();
    assert_eq!(tpm.pcr("sha384", 7), "0".repeat(96));
}

#[test]
fn nv_memory_survives_a_restart_but_not_another_owner() {
    let tpm = Swtpm::start();
    let tcti = tpm.tcti();
    let folder = TempDir::new().unwrap();
    let context = folder.path().join("primary.ctx");
    let context = context.to_str().unwrap();
    tool("tpm2_createprimary", &["-T", &tcti, "-C", "o", "-G", "ecc", "-c", context, "-Q"]);
    tool("tpm2_evictcontrol", &["-T", &tcti, "-C", "o", "-c", context, "0x81000001", "-Q"]);
    tpm.restart();
    assert_eq!(tpm.wire().handles(0x8100_0000), [0x8100_0001]);
    assert_eq!(tpm.loaded(), 0);
    tpm.replace_owner();
    assert_eq!(tpm.wire().handles(0x8100_0000), [0_u32; 0]);
}

#[test]
fn a_proxy_names_and_counts_commands_and_keeps_the_bytes() {
    let tpm = Swtpm::start();
    let proxy = Proxy::before(&tpm);
    let digest = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    tool("tpm2_pcrextend", &["-T", &proxy.tcti(), &format!("7:sha256={digest}")]);
    assert_eq!(proxy.counts().get("PCR_Extend"), Some(&1), "{:?}", proxy.commands());
    let bytes: Vec<u8> = (0..16).map(|n| n * 0x11).collect();
    assert!(proxy.carried(&bytes));
    assert!(!proxy.carried(b"something else"));
}

#[test]
fn a_proxy_cuts_the_line_where_it_was_told_to() {
    let tpm = Swtpm::start();
    let proxy = Proxy::with_mode(&tpm, Mode::CutAfter(1));
    let port = proxy.tcti().rsplit_once('=').unwrap().1.parse().unwrap();
    let mut wire = Wire::connect(port);
    assert_eq!(wire.read_pcr("sha256", 0).len(), 32);
    let second = std::panic::catch_unwind(move || wire.read_pcr("sha256", 0));
    assert!(second.is_err(), "the second command got an answer");
    assert_eq!(proxy.commands(), ["PCR_Read", "PCR_Read"]);
}

#[test]
fn an_image_opens_with_its_passphrase_only_and_a_snapshot_shows_a_change() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    assert!(image.opens_with(PASSPHRASE));
    assert!(!image.opens_with("wrong"));
    assert_eq!(image.keyslots(), [0]);
    let before = image.snapshot();
    let copy = image.copy();
    image.import_token(3, &serde_json::json!({"type": "test", "keyslots": []})).ok();
    assert_eq!(image.tokens("test").len(), 1);
    assert_ne!(image.snapshot(), before);
    assert_eq!(copy.snapshot(), before);
    image.restore(&before);
    assert_eq!(image.tokens("test").len(), 0);
}

#[test]
fn an_edited_header_is_a_header_that_cryptsetup_reads() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    image.edit_metadata(|metadata| {
        metadata["tokens"]["5"] = serde_json::json!({"type": "test", "keyslots": []});
    });
    assert_eq!(image.tokens("test")[0].0, 5);
    assert!(image.opens_with(PASSPHRASE));
}
