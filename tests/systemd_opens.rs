//! What vmseal enrols, by kind, and that stock systemd opens it until PCR 15 is extended.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use testkit::machine::BASE;
use testkit::systemd::PIN;
use testkit::{Authority, Image, Machine, Swtpm, Systemd};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
/// What the authority signs: the PCRs that vmseal chooses for the boot of these tests, without 15.
const SIGNED: [u8; 6] = [0, 4, 7, 11, 12, 13];

#[test]
fn every_kind_that_vmseal_writes_opens_with_stock_systemd() {
    let mut machine = Machine::with_tpm(VMSEAL, Swtpm::start(), BASE);
    let authority = Authority::new(machine.folder.path(), "authority");
    let (pin, signature) = (machine.file("pin"), machine.file("signature.json"));
    std::fs::write(&pin, PIN).unwrap();
    std::fs::write(&signature, authority.sign(&machine.tpm, "sha256", &SIGNED).to_string())
        .unwrap();
    let pin = ["--pin", "--pin-file", pin.to_str().unwrap()];
    let by_authority =
        [["--policy", "authority", "--authority-public", authority.public().to_str().unwrap()]]
            .concat();
    let by_authority = [&by_authority[..], &["--signature", signature.to_str().unwrap()]].concat();
    for options in
        [&[][..], &pin, &by_authority, &[&by_authority[..], &pin].concat()].map(<[&str]>::to_vec)
    {
        machine.boot(BASE);
        machine.image = Image::create(machine.folder.path());
        let enrolled = machine.enroll(&[&options[..], &["--json"]].concat()).ok().json();
        assert_eq!(enrolled["proven"], true, "{options:?}");
        for systemd in [Systemd::Backports, Systemd::Trixie, Systemd::Forky] {
            let opens = || systemd.attaches(&machine.tpm, &machine.image, &signature);
            assert!(opens(), "{options:?}, {systemd:?}");
        }
        machine.tpm.extend(15, 1);
        for systemd in [Systemd::Backports, Systemd::Trixie, Systemd::Forky] {
            let opens = || systemd.attaches(&machine.tpm, &machine.image, &signature);
            assert!(!opens(), "{options:?}, {systemd:?} after the latch");
        }
    }
}
