//! What stock systemd enrols, vmseal opens; what vmseal enrols, stock systemd opens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use testkit::machine::BASE;
use testkit::{Image, Machine, Swtpm, Systemd, run, tool};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");

fn machine() -> Machine {
    Machine::with_tpm(VMSEAL, Swtpm::with_banks(&["sha256", "sha384"]), BASE)
}

#[test]
fn the_peers_are_what_the_tests_say() {
    assert!(Systemd::Host.version() >= 252);
    assert!(Systemd::Trixie.version() >= 257);
}

#[test]
fn vmseal_opens_what_the_hosts_systemd_enrolled() {
    let mut machine = machine();
    for pcrs in ["7", "4+7", "0+2+4+7+11"] {
        machine.image = Image::create(machine.folder.path());
        Systemd::Host.enroll(&machine.tpm, &machine.image, &[&format!("--tpm2-pcrs={pcrs}")]).ok();
        machine.unlock(&[]).ok();
        machine.status(&[]).ok();
    }
    machine.tpm.extend(4, 9);
    machine.unlock(&["--quiet"]).refused(12).says("PCR");
}

#[test]
fn vmseal_opens_what_systemd_257_enrolled() {
    let mut machine = machine();
    for options in [
        &["--tpm2-pcrs=7"][..],
        &["--tpm2-pcrs=4+7+11"],
        &["--tpm2-pcrs=7:sha384"],
        &["--tpm2-pcrs="],
        &["--tpm2-pcrs=4+7+15"],
        &["--tpm2-pcrs=7", "--tpm2-seal-key-handle=0x81000001"],
    ] {
        machine.image = Image::create(machine.folder.path());
        let options = [options, &["--tpm2-public-key="]].concat();
        Systemd::Trixie.enroll(&machine.tpm, &machine.image, &options).ok();
        machine.unlock(&[]).ok();
    }
}

#[test]
fn systemd_257_opens_what_vmseal_enrolled_until_pcr_15_is_extended() {
    let mut machine = machine();
    for options in [&[][..], &["--pcrs", "4+7"], &["--pcrs", "0+4+7+11", "--bank", "sha384"]] {
        machine.image = Image::create(machine.folder.path());
        let boot = if options.contains(&"sha384") { "banks/all-four" } else { BASE };
        machine.boot(boot);
        machine
            .enroll(
                &[options, &["--allow-uncovered", "firmware,loader,kernel,initrd,cmdline"]]
                    .concat(),
            )
            .ok();
        machine.boot(boot);
        Systemd::Trixie.opens(&machine.tpm, &machine.image).ok();
        machine.tpm.extend(15, 1);
        let ran = Systemd::Trixie.opens(&machine.tpm, &machine.image);
        assert_ne!(ran.code, Some(0), "opened after the latch: {ran:#?}");
    }
}

/// Keyslots of both live side by side, and neither's removal hurts the other.
#[test]
fn tokens_of_vmseal_and_systemd_share_a_volume() {
    let machine = machine();
    Systemd::Trixie
        .enroll(&machine.tpm, &machine.image, &["--tpm2-pcrs=1", "--tpm2-public-key="])
        .ok();
    machine.enroll(&[]).ok();
    assert_eq!(machine.image.tokens("systemd-tpm2").len(), 2);
    machine.unlock(&[]).ok();
    // PCR 1 moves: systemd's own token is dead, vmseal's opens for both.
    machine.tpm.extend(1, 1);
    machine.unlock(&[]).ok();
    Systemd::Trixie.opens(&machine.tpm, &machine.image).ok();
}

/// systemd before 254 falls back to an RSA primary where the TPM has no elliptic curves. No such
/// TPM is at hand, so tpm2-tools make what it would have made, and 257 confirms that it reads so.
#[test]
fn a_legacy_token_under_an_rsa_primary_opens() {
    let machine = machine();
    let tcti = machine.tpm.tcti();
    let file = |name: &str| machine.file(name).to_str().unwrap().to_owned();
    let tpm = |program: &str, args: &[&str]| {
        tool(program, &[&["-T", &tcti, "-Q"], args].concat());
        for kind in ["-t", "-l"] {
            let _ = run(std::process::Command::new("tpm2_flushcontext").args(["-T", &tcti, kind]));
        }
    };
    std::fs::write(file("secret"), [0x5a; 32]).unwrap();
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt";
    let primary = file("primary.ctx");
    let template = ["-C", "o", "-g", "sha256", "-G", "rsa2048:null:aes128cfb", "-a", attributes];
    std::fs::write(file("unique"), []).unwrap();
    tpm("tpm2_createprimary", &[&template[..], &["-c", &primary]].concat());
    let (policy, public, private) = (file("policy"), file("public"), file("private"));
    tpm("tpm2_createpolicy", &["--policy-pcr", "-l", "sha256:7", "-L", &policy]);
    let secret = file("secret");
    let object = ["-C", &primary, "-g", "sha256", "-L", &policy, "-i", &secret];
    let attributes = ["-a", "fixedtpm|fixedparent", "-u", &public, "-r", &private];
    tpm("tpm2_create", &[&object[..], &attributes].concat());

    let blob = [std::fs::read(private).unwrap(), std::fs::read(public).unwrap()].concat();
    let base64 = |bytes: &[u8]| {
        use base64::{Engine, engine::general_purpose::STANDARD};
        STANDARD.encode(bytes)
    };
    let new_key = file("new-key");
    std::fs::write(&new_key, base64(&[0x5a; 32])).unwrap();
    let key_file = file("passphrase");
    let pbkdf = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let add = ["luksAddKey", "--batch-mode", "--key-file", &key_file];
    let image = machine.image.path().to_str().unwrap();
    tool("cryptsetup", &[&add[..], &pbkdf, &[image, &new_key]].concat());
    let token = serde_json::json!({
        "type": "systemd-tpm2", "keyslots": ["1"],
        "tpm2-blob": base64(&blob), "tpm2-pcrs": [7], "tpm2-pcr-bank": "sha256",
        "tpm2-primary-alg": "rsa",
        "tpm2-policy-hash": hex::encode(std::fs::read(policy).unwrap()),
    });
    machine.image.import_token(0, &token).ok();
    Systemd::Trixie.opens(&machine.tpm, &machine.image).ok();
    machine.unlock(&[]).ok();
}
