//! What one unlock asks of the TPM, counted on the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// The counts are what the test shows.
#![allow(clippy::print_stdout)]

use std::io::Write;

use testkit::machine::OTHER_KERNEL;
use testkit::proxy::Mode;
use testkit::{Authority, Image, Machine, Proxy, Systemd, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
/// Most TPM commands for one unlock by literal PCRs, flushes and latch included.
const BUDGET: usize = 8;
/// The latch of an opened volume: one `PCR_Extend`, which `--test` leaves out.
const LATCH: usize = 1;

fn unlock(machine: &Machine, tcti: &str) -> testkit::Ran {
    run(machine.vmseal_with(tcti, machine.log(), &["unlock", "--test"]).arg(machine.image.path()))
}

/// Shows counts in every run: unlike `println!`, this is not captured.
fn show(counts: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "TPM commands of {counts}");
}

#[test]
fn an_unlock_stays_within_its_budget_of_commands() {
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    let proxy = Proxy::before(&machine.tpm);
    unlock(&machine, &proxy.tcti()).ok();
    let counts = proxy.counts();
    show(format_args!("one unlock: {counts:?} and PCR_Extend for the latch"));
    assert_eq!(counts.get("Unseal"), Some(&1), "{counts:?}");
    let total = proxy.commands().len() + LATCH;
    assert!(total <= BUDGET, "{total} commands: {:?}", proxy.commands());
    assert_eq!(machine.tpm.loaded(), 0, "nothing is left in the TPM");
}

#[test]
fn an_unlock_of_the_hosts_systemd_token_stays_near_it() {
    let machine = Machine::booted(VMSEAL);
    Systemd::Host.enroll(&machine.tpm, &machine.image, &["--tpm2-pcrs=7"]).ok();
    let proxy = Proxy::before(&machine.tpm);
    unlock(&machine, &proxy.tcti()).ok();
    show(format_args!("one unlock under a legacy primary: {:?}", proxy.counts()));
    // systemd 252 itself needs 12.
    assert!(proxy.commands().len() + LATCH <= 12, "{:?}", proxy.commands());
}

/// Beyond the literal policy: a key to load and to flush, its signature, the authorization, and a
/// second `PolicyPCR` for PCR 15.
#[test]
fn an_unlock_by_signature_takes_five_commands_more() {
    let machine = Machine::booted(VMSEAL);
    let authority = Authority::new(machine.folder.path(), "authority");
    let signature = machine.file("signature.json");
    let signed = authority.sign(&machine.tpm, "sha256", &[0, 4, 7, 11, 12, 13]);
    std::fs::write(&signature, signed.to_string()).unwrap();
    let public = authority.public().to_str().unwrap();
    machine.enroll(&["--policy", "authority", "--authority-public", public]).ok();
    let proxy = Proxy::before(&machine.tpm);
    let mut unlock = machine.vmseal_with(&proxy.tcti(), machine.log(), &["unlock", "--test"]);
    run(unlock.arg("--signature").arg(&signature).arg(machine.image.path())).ok();
    show(format_args!("one unlock by signature: {:?}", proxy.counts()));
    assert!(proxy.commands().len() + LATCH <= BUDGET + 5, "{:?}", proxy.commands());
}

#[test]
fn a_pcr_mismatch_costs_no_attempt() {
    let mut machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    machine.boot(OTHER_KERNEL);
    let proxy = Proxy::before(&machine.tpm);
    unlock(&machine, &proxy.tcti()).refused(12);
    let counts = proxy.counts();
    for never in ["Unseal", "Load", "StartAuthSession"] {
        assert!(!counts.contains_key(never), "{counts:?}");
    }
    assert_eq!(machine.tpm.lockout_counter(), 0);
}

#[test]
fn a_token_that_does_not_fit_costs_nothing_beside_one_that_does() {
    let mut machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    let proxy = Proxy::before(&machine.tpm);
    unlock(&machine, &proxy.tcti()).ok();
    let alone = proxy.commands();
    machine.boot(OTHER_KERNEL);
    machine.enroll(&[]).ok();
    proxy.reset();
    unlock(&machine, &proxy.tcti()).ok();
    assert_eq!(proxy.commands(), alone);
}

#[test]
fn neither_secret_nor_passphrase_passes_in_clear() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let machine = Machine::booted(VMSEAL);
    let proxy = Proxy::before(&machine.tpm);
    let mut enroll = machine.vmseal_with(&proxy.tcti(), machine.log(), &["enroll"]);
    enroll.arg("--unlock-key-file").arg(machine.key_file());
    run(enroll.arg(machine.image.path())).ok();
    unlock(&machine, &proxy.tcti()).ok();
    assert!(proxy.traffic() > 1000, "the proxy saw it all");
    assert!(proxy.counts().contains_key("Create"));

    // What was sealed, from the TPM itself by its own tools.
    let (_, token) = machine.image.tokens("systemd-tpm2").remove(0);
    let secret = unseal_by_tools(&machine, &token);
    assert!(machine.image.opens_with(&STANDARD.encode(&secret)), "the secret that was sealed");
    assert!(!proxy.carried(&secret));
    assert!(!proxy.carried(STANDARD.encode(&secret).as_bytes()));
    assert!(!proxy.carried(testkit::image::PASSPHRASE.as_bytes()));
}

/// Loads a token's object under the storage root key and unseals it with tpm2-tools.
fn unseal_by_tools(machine: &Machine, token: &serde_json::Value) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let blob = STANDARD.decode(token["tpm2-blob"].as_str().unwrap()).unwrap();
    let private = 2 + usize::from(u16::from_be_bytes([blob[0], blob[1]]));
    let file = |name: &str| machine.file(name).to_str().unwrap().to_owned();
    let (object, out) = (file("object.ctx"), file("secret"));
    std::fs::write(file("object.priv"), &blob[..private]).unwrap();
    std::fs::write(file("object.pub"), &blob[private..]).unwrap();
    let pcrs: Vec<String> =
        token["tpm2-pcrs"].as_array().unwrap().iter().map(ToString::to_string).collect();
    let policy = format!("pcr:sha256:{}", pcrs.join(","));
    let tcti = machine.tpm.tcti();
    let (public, private) = (file("object.pub"), file("object.priv"));
    let load = ["-C", "0x81000001", "-u", &public, "-r", &private, "-c", &object];
    testkit::tool("tpm2_load", &[&["-Q", "-T", &tcti], &load[..]].concat());
    machine.tpm.flush();
    testkit::tool("tpm2_unseal", &["-Q", "-T", &tcti, "-c", &object, "-p", &policy, "-o", &out]);
    machine.tpm.flush();
    std::fs::read(out).unwrap()
}

/// The line to the TPM is cut at each command of an enrolment: the volume opens as before or as
/// intended, and the next enrolment ends well and leaves no orphan.
#[test]
fn an_enrolment_that_loses_the_tpm_at_any_command_leaves_a_good_volume() {
    let machine = Machine::booted(VMSEAL);
    // So that each run below starts from a TPM that has its storage root key.
    machine.enroll(&[]).ok();
    let empty = Image::create(machine.folder.path());
    let mut cuts = 0;
    for limit in 0.. {
        let proxy = Proxy::with_mode(&machine.tpm, Mode::CutAfter(limit));
        let image = empty.copy();
        let mut enroll = machine.vmseal_with(&proxy.tcti(), machine.log(), &["enroll"]);
        enroll.arg("--unlock-key-file").arg(machine.key_file()).arg(image.path());
        let ran = run(&mut enroll);
        machine.tpm.flush();
        assert!(image.opens_with(testkit::image::PASSPHRASE));
        if ran.code == Some(0) {
            break;
        }
        cuts += 1;
        assert_eq!(image.tokens("systemd-tpm2"), [], "cut after {limit}: {ran:#?}");
        assert_eq!(image.keyslots(), [0], "cut after {limit}: an orphan keyslot");
        std::fs::remove_file(image.path()).unwrap();
    }
    assert!(cuts > 3, "{cuts} commands");
}
