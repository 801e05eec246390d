//! Sealing and unsealing on real (software) TPMs, and what systemd sealed.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use testkit::image::PASSPHRASE;
use testkit::proxy::Mode;
use testkit::{Image, Proxy, Recording, Swtpm, Systemd};
use vmseal::measurement::{PcrBank, PcrIndex, PcrSelection};
use vmseal::policy::{Policy, literal_digest};
use vmseal::secret::SealedSecret;
use vmseal::token::{SealedObject, SystemdTpm2};
use vmseal::tpm::{StorageKey, Tpm, TpmError};

const PATIENCE: Duration = Duration::from_secs(10);

fn connect(tcti: &str) -> Tpm {
    Tpm::connect(&tcti.parse().unwrap(), PATIENCE).unwrap()
}

fn pcrs(bank: PcrBank, numbers: &[u64]) -> PcrSelection {
    PcrSelection::new(bank, numbers.iter().map(|number| PcrIndex::new(*number).unwrap()))
}

/// A TPM that booted the base fixture.
fn booted(banks: &[&str]) -> Swtpm {
    let tpm = Swtpm::with_banks(banks);
    Recording::fixture("uki/base").replay_into(&mut tpm.wire());
    tpm
}

/// Seals to PCRs 4, 7 and 15 of sha256 as they are.
fn seal(tpm: &Tpm) -> (StorageKey, SealedSecret, SealedObject, Policy) {
    let srk = tpm.srk(true).unwrap().unwrap();
    let parent = StorageKey::Persistent { handle: srk.handle, name: Some(srk.name) };
    let selection = pcrs(PcrBank::Sha256, &[4, 7, 15]);
    let values = tpm.read_pcrs(std::slice::from_ref(&selection)).unwrap();
    let (secret, object) = tpm.seal(&parent, literal_digest(&values[0]), None).unwrap();
    (parent, secret, object, Policy::literal(selection))
}

#[test]
fn what_was_sealed_is_released_until_one_of_its_pcrs_moves() {
    let swtpm = booted(&["sha256"]);
    let tpm = connect(&swtpm.tcti());
    let (parent, secret, object, policy) = seal(&tpm);
    let released = tpm.unseal(&parent, &object, &policy, None).unwrap();
    assert!(released.expose() == secret.expose());
    drop(tpm);
    assert_eq!(swtpm.loaded(), 0, "nothing is left in the TPM");

    swtpm.extend(3, 1);
    let tpm = connect(&swtpm.tcti());
    assert!(tpm.unseal(&parent, &object, &policy, None).is_ok(), "PCR 3 was not sealed to");
    drop(tpm);
    swtpm.extend(15, 1);
    let tpm = connect(&swtpm.tcti());
    let refused = tpm.unseal(&parent, &object, &policy, None);
    assert!(matches!(refused, Err(TpmError::PolicyFailed)), "{:?}", refused.err());
    drop(tpm);
    assert_eq!(swtpm.loaded(), 0, "nothing is left in the TPM");
    assert_eq!(swtpm.lockout_counter(), 0, "a PCR mismatch is no attempt");
}

#[test]
fn another_tpm_is_told_from_changed_pcrs() {
    let swtpm = booted(&["sha256"]);
    let (parent, _, object, policy) = seal(&connect(&swtpm.tcti()));
    let unseal = |parent: &StorageKey| {
        connect(&swtpm.tcti()).unseal(parent, &object, &policy, None).err().expect("a refusal")
    };
    swtpm.replace_owner();
    assert_eq!(unseal(&parent), TpmError::NoSrk);
    connect(&swtpm.tcti()).srk(true).unwrap();
    assert_eq!(unseal(&parent), TpmError::Foreign);
    // Even where the token's word about its parent is not there to compare with.
    let StorageKey::Persistent { handle, .. } = parent else { panic!() };
    assert_eq!(unseal(&StorageKey::Persistent { handle, name: None }), TpmError::Foreign);
}

#[test]
fn the_secret_is_never_in_clear_on_the_way() {
    let swtpm = booted(&["sha256"]);
    let proxy = Proxy::before(&swtpm);
    let tpm = connect(&proxy.tcti());
    let (parent, secret, object, policy) = seal(&tpm);
    tpm.unseal(&parent, &object, &policy, None).unwrap();
    drop(tpm);
    assert!(proxy.carried(object.private()), "the proxy sees what passes");
    assert!(!proxy.carried(secret.expose()), "the secret in clear");
    assert!(!proxy.carried(&secret.expose()[..8]), "a part of the secret in clear");
}

#[test]
fn a_tpm_that_never_answers_costs_a_bounded_time() {
    let swtpm = booted(&["sha256"]);
    for mode in [Mode::Silent, Mode::StallAfter(0), Mode::StallAfter(2)] {
        let proxy = Proxy::with_mode(&swtpm, mode);
        let start = std::time::Instant::now();
        let patience = Duration::from_secs(1);
        let outcome = Tpm::connect(&proxy.tcti().parse().unwrap(), patience)
            .and_then(|tpm| (0..4).try_for_each(|_| tpm.srk(false).map(|_| ())));
        assert_eq!(outcome, Err(TpmError::Timeout { seconds: 1 }), "{mode:?}");
        assert!(start.elapsed() < Duration::from_secs(3), "{mode:?}: {:?}", start.elapsed());
    }
}

#[test]
fn every_token_of_systemd_with_literal_pcrs_is_opened() {
    let swtpm = booted(&["sha256", "sha384"]);
    for (peer, options) in [
        (Systemd::Host, &["--tpm2-pcrs=7"][..]),
        (Systemd::Host, &["--tpm2-pcrs=4+7"]),
        (Systemd::Trixie, &["--tpm2-pcrs=7"]),
        (Systemd::Trixie, &["--tpm2-pcrs=4+7+11"]),
        (Systemd::Trixie, &["--tpm2-pcrs=7:sha384"]),
        (Systemd::Trixie, &["--tpm2-pcrs="]),
        (Systemd::Trixie, &["--tpm2-pcrs=4+7+15", "--tpm2-seal-key-handle=0x81000001"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::create(folder.path());
        let options = [options, if peer == Systemd::Host { &[] } else { &["--tpm2-public-key="] }];
        peer.enroll(&swtpm, &image, &options.concat()).ok();
        let tokens = image.tokens("systemd-tpm2");
        assert_eq!(tokens.len(), 1, "{peer:?} {options:?}");
        let token = SystemdTpm2::parse(&tokens[0].1).unwrap();
        let policies = token.policies(&[]).remove(0);
        let tpm = connect(&swtpm.tcti());
        let secret = tpm.unseal(&token.parent, &token.objects[0], &policies[0], None);
        let secret = secret.unwrap_or_else(|error| panic!("{peer:?} {options:?}: {error}"));
        let passphrase = secret.to_keyslot_passphrase();
        assert!(image.opens_with(std::str::from_utf8(passphrase.expose()).unwrap()));
        assert!(image.opens_with(PASSPHRASE));
    }
}
