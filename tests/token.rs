//! Tokens that real systemd wrote: read, and written back without loss; and hostile ones.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use testkit::machine::project;
use vmseal::boot::{Approvals, Choice};
use vmseal::measurement::Digest;
use vmseal::policy::{Pcrlock, Signatures};
use vmseal::token::{Kind, SystemdTpm2};

/// Every token of systemd 252 and 257 among the fixtures, with its file's name.
fn tokens() -> Vec<(String, Value)> {
    let folder = project().join("tests/fixtures/tokens");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &std::path::Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let tokens = files.filter(|path| {
        ["s252-", "s257-", "vm-"].iter().any(|prefix| name(path).starts_with(prefix))
    });
    tokens
        .map(|path| (name(&path), serde_json::from_slice(&fs::read(&path).unwrap()).unwrap()))
        .collect()
}

fn token(wanted: &str) -> Value {
    tokens().into_iter().find(|(name, _)| name == wanted).unwrap().1
}

#[test]
fn every_token_of_systemd_parses_and_is_written_back_without_loss() {
    let tokens = tokens();
    assert_eq!(tokens.len(), 17, "fixtures");
    for (name, json) in tokens {
        let token = SystemdTpm2::parse(&json).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(token.to_json(), json, "{name}");
        assert_eq!(json["keyslots"], json!([token.keyslot.to_string()]), "{name}");
        assert_eq!(token.pin.is_some(), name.contains("-pin"), "{name}");
        let kind = match &*name {
            "s257-pcrlock" => Kind::Pcrlock,
            signed if signed.contains("pub11") => Kind::Signed,
            _ => Kind::Literal,
        };
        assert_eq!(token.kind, kind, "{name}");
        // An authority key may have been written in two ways.
        let ways = if kind == Kind::Signed { 2 } else { 1 };
        assert_eq!(token.policies(&[]).len(), ways, "{name}");
    }
}

#[test]
fn fields_that_nobody_knows_yet_survive() {
    let mut json = token("s257-pcr7");
    json["tpm3_something"] = json!({"nested": [1, null, "x"]});
    assert_eq!(SystemdTpm2::parse(&json).unwrap().to_json(), json);
}

/// What is done to a good token, and the field that the refusal must name.
#[test]
fn a_malformed_token_is_refused_by_the_name_of_its_field() {
    let big = "A".repeat(9000);
    for (field, value) in [
        ("keyslots", json!([])),
        ("keyslots", json!(["1", "2"])),
        ("keyslots", json!([1])),
        ("keyslots", json!(["-1"])),
        ("keyslots", json!(["99999999999999999999"])),
        ("tpm2-blob", json!(17)),
        ("tpm2-blob", json!("not base64!")),
        ("tpm2-blob", json!("")),
        ("tpm2-blob", json!("AAAA")),
        ("tpm2-blob", json!([])),
        ("tpm2-blob", json!(big)),
        ("tpm2-pcrs", json!("7")),
        ("tpm2-pcrs", json!([24])),
        ("tpm2-pcrs", json!([-1])),
        ("tpm2-pcrs", json!([1e300])),
        ("tpm2-pcrs", json!([18_446_744_073_709_551_615_u64])),
        ("tpm2-pcrs", json!(vec![7; 1000])),
        ("tpm2-pcr-bank", json!("md5")),
        ("tpm2-pcr-bank", json!(null)),
        ("tpm2-policy-hash", json!("")),
        ("tpm2-policy-hash", json!("zz")),
        ("tpm2-policy-hash", json!("00".repeat(32))),
        ("tpm2-primary-alg", json!("dsa")),
        ("tpm2-pin", json!("yes")),
        ("tpm2_srk", json!("AAAA")),
        ("tpm2_pcrlock", json!(1)),
        ("tpm2_pubkey_pcrs", json!([11])),
    ] {
        let mut json = token("s257-pcr7");
        json[field] = value.clone();
        // The legacy primary's algorithm is only looked at without a storage root key.
        if field == "tpm2-primary-alg" {
            json.as_object_mut().unwrap().remove("tpm2_srk");
        }
        let error = SystemdTpm2::parse(&json).expect_err(&format!("{field} = {value:.60}"));
        let named = if field == "tpm2_pubkey_pcrs" { "tpm2_pubkey" } else { field };
        assert!(error.to_string().contains(named), "{field} = {value:.60}: {error}");
        assert!(error.to_string().len() < 200, "{error}");
    }
    for field in ["type", "keyslots", "tpm2-blob", "tpm2-pcrs", "tpm2-policy-hash"] {
        let mut json = token("s257-pcr7");
        json.as_object_mut().unwrap().remove(field);
        assert!(SystemdTpm2::parse(&json).is_err(), "without {field}");
    }
}

#[test]
fn no_truncation_and_no_changed_byte_of_a_token_panics() {
    for (_, json) in tokens() {
        let text = json.to_string();
        for end in 0..text.len() {
            parse_text(&text.as_bytes()[..end]);
        }
        for at in 0..text.len() {
            for byte in [b'0', b'"', b'}', b'A', 0xff] {
                let mut bytes = text.clone().into_bytes();
                bytes[at] = byte;
                parse_text(&bytes);
            }
        }
    }
}

/// Reads a token, and says what can be said of it.
fn parse_text(text: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(text) else { return };
    if let Ok(token) = SystemdTpm2::parse(&json) {
        assert_eq!(token.to_json(), json);
        assert!(token.summary().to_string().len() < 1000);
        let choice = Choice::among(&BTreeMap::from([(0, json)]), Approvals::default);
        let judgements = choice.judge(|bank, _| Some(Digest::zero(bank)));
        assert_eq!(judgements.len(), usize::from(token.to_json()["keyslots"] != json!([])));
    }
}

#[test]
fn no_truncation_and_no_changed_byte_of_an_approval_panics() {
    let read = |text: &[u8]| {
        if let Ok(policy) = Pcrlock::parse(text) {
            assert!(policy.policy().steps.len() <= 2 * 24 + 1);
        }
        let mut signatures = Signatures::default();
        let added = signatures.add_json(text);
        assert_eq!(added.is_err(), signatures.is_empty());
    };
    for name in ["pcrlock", "tpm2-pcr-signature", "uki-a.pcrsig"] {
        let path = format!("{}/tests/fixtures/tokens/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read(path).unwrap();
        read(&text);
        for at in 0..text.len() {
            read(&text[..at]);
            for byte in [b'0', b'"', b'}', b'A', 0xff] {
                let mut bytes = text.clone();
                bytes[at] = byte;
                read(&bytes);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_changed_blob_never_panics(at in 0..400_usize, byte: u8, cut in 0..400_usize) {
        use base64::{Engine, engine::general_purpose::STANDARD};
        for (_, mut json) in tokens() {
            let Some(text) = json["tpm2-blob"].as_str() else { continue };
            let mut blob = STANDARD.decode(text).unwrap();
            if let Some(found) = blob.get_mut(at) {
                *found = byte;
            }
            blob.truncate(cut);
            json["tpm2-blob"] = STANDARD.encode(blob).into();
            let _ = SystemdTpm2::parse(&json);
        }
    }
}
