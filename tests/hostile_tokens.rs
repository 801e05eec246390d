//! Tokens that somebody edited, on a real TPM: whatever they say, the answer is a refusal with its
//! exit code, in bounded time, and the TPM is asked for no release that cannot succeed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::machine::BASE;
use testkit::systemd::PIN;
use testkit::{Machine, Proxy, Swtpm, Systemd, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
/// What a refusal of a token may end with.
const REFUSALS: [i32; 9] = [3, 10, 12, 13, 15, 16, 18, 19, 20];

/// Values of every JSON type, and of sizes that nobody expects.
fn odd_values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(u64::MAX),
        json!(""),
        json!("A".repeat(3000)),
        json!([]),
        json!([[[]]]),
        json!({}),
    ]
}

/// A machine with one token, made by systemd 257 with `options`, and a PIN where they ask for one.
fn enrolled(options: &[&str]) -> (Machine, Value) {
    let machine = Machine::with_tpm(VMSEAL, Swtpm::start(), BASE);
    Systemd::Trixie.enroll(&machine.tpm, &machine.image, options).ok();
    std::fs::write(machine.file("pin"), PIN).unwrap();
    let token = machine.image.tokens("systemd-tpm2")[0].1.clone();
    (machine, token)
}

fn unlock(machine: &Machine, tcti: &str) -> testkit::Ran {
    let mut unlock = machine.vmseal_with(tcti, machine.log(), &["unlock", "--test"]);
    run(unlock.arg("--pin-file").arg(machine.file("pin")).arg(machine.image.path()))
}

/// Every field replaced by odd values, and every field gone.
#[track_caller]
fn no_edit_gets_more_than_one_try(options: &[&str]) {
    let (machine, token) = enrolled(options);
    let proxy = Proxy::before(&machine.tpm);
    unlock(&machine, &proxy.tcti()).ok();
    let fields: Vec<String> = token.as_object().unwrap().keys().cloned().collect();
    for field in fields.iter().filter(|field| *field != "type" && *field != "keyslots") {
        let edits = odd_values().into_iter().map(Some).chain([None]);
        for edit in edits {
            let mut edited = token.clone();
            match &edit {
                Some(value) => edited[field] = value.clone(),
                None => drop(edited.as_object_mut().unwrap().remove(field)),
            }
            machine.image.edit_metadata(|metadata| metadata["tokens"]["0"] = edited.clone());
            proxy.reset();
            let before = machine.tpm.lockout_counter();
            let start = Instant::now();
            let ran = unlock(&machine, &proxy.tcti());
            let what = format!("{field} = {edit:?}: {ran:#?}");
            let code = ran.code.expect("no signal");
            assert!(start.elapsed() < Duration::from_secs(20), "{what}");
            assert!(code == 0 || REFUSALS.contains(&code), "{what}");
            let tries = proxy.counts().get("Unseal").copied().unwrap_or(0);
            // What the edit left whole still opens, and what it spoilt is not tried at all: only the
            // keyslot and a PIN's salt are beyond what a digest tells.
            let may_try = matches!(code, 0 | 16 | 18);
            assert_eq!(tries > 0, may_try, "{tries} tries; {what}");
            // A TPM has the first use of a guessable object submitted twice (`TPM_RC_RETRY`).
            assert!(tries <= 2, "{tries} tries; {what}");
            assert!(machine.tpm.lockout_counter() <= before + 1, "{what}");
            assert_eq!(machine.tpm.loaded(), 0, "{what}");
        }
        machine.tpm.restart();
        machine.tpm.reset_lockout();
        testkit::Recording::from_event_log(machine.log()).replay_into(&mut machine.tpm.wire());
    }
}

#[test]
fn a_token_of_literal_pcrs() {
    no_edit_gets_more_than_one_try(&["--tpm2-pcrs=4+7", "--tpm2-public-key="]);
}

#[test]
fn a_token_with_a_pin() {
    no_edit_gets_more_than_one_try(&[
        "--tpm2-pcrs=4+7",
        "--tpm2-public-key=",
        "--tpm2-with-pin=yes",
    ]);
}

/// Bytes of the sealed object, changed one at a time: the TPM's own check of the object tells, before
/// anything is tried.
#[test]
fn no_changed_byte_of_a_sealed_object_is_tried() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let options = ["--tpm2-pcrs=4+7", "--tpm2-public-key=", "--tpm2-with-pin=yes"];
    let (machine, token) = enrolled(&options);
    let proxy = Proxy::before(&machine.tpm);
    let blob = STANDARD.decode(token["tpm2-blob"].as_str().unwrap()).unwrap();
    // A prime stride: every part of the structure is hit, in a fifth of the time.
    for at in (0..blob.len()).step_by(5) {
        let mut edited = blob.clone();
        edited[at] ^= 0x41;
        let edited = STANDARD.encode(edited);
        machine
            .image
            .edit_metadata(|json| json["tokens"]["0"]["tpm2-blob"] = edited.clone().into());
        proxy.reset();
        let ran = unlock(&machine, &proxy.tcti());
        let what = format!("byte {at}: {ran:#?}");
        assert!(matches!(ran.code, Some(13 | 15)), "{what}");
        assert_eq!(proxy.counts().get("Unseal"), None, "{what}");
        assert_eq!(machine.tpm.loaded(), 0, "{what}");
    }
    assert_eq!(machine.tpm.lockout_counter(), 0);
}
