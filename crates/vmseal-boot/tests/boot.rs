//! The boot step on a real TPM and a real image: exit codes, and the latch in every outcome. Opening
//! a volume needs device-mapper and is tested in guests.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::path::Path;

use support::Boot;
use testkit::run::run;
use vmseal::boot::LATCH_WORD;
use vmseal::measurement::{Digest, PcrBank};

#[test]
fn the_latch_extends_its_word_once_in_every_bank() {
    let boot = Boot::new();
    boot.vmseal_boot("latch", &[]).ok();
    let latched = [PcrBank::Sha1, PcrBank::Sha256, PcrBank::Sha384].map(|bank| {
        let expected = Digest::zero(bank).extended_with(bank.hash(LATCH_WORD).as_bytes());
        assert_eq!(boot.pcr15(bank), expected.to_string());
        expected.to_string()
    });
    boot.vmseal_boot("latch", &[]).ok();
    assert_eq!(boot.pcr15(PcrBank::Sha256), latched[1]);
}

#[test]
fn a_volume_without_a_pin_is_fatal_and_latched() {
    let boot = Boot::new();
    boot.unlock().code(17).says("has no pin");
    assert!(boot.is_latched());
}

#[test]
fn another_header_under_the_pinned_uuid_is_fatal_and_latched() {
    let boot = Boot::new();
    boot.enroll();
    null_cipher(&boot);
    boot.unlock().code(17).says("cipher_null-ecb");
    assert!(boot.is_latched());
}

#[test]
fn a_missing_device_is_waited_for_without_the_latch() {
    let boot = Boot::new();
    boot.vmseal_boot("unlock", &[Path::new("/dev/no-such-device"), Path::new("root")])
        .code(3)
        .says("does not exist");
    assert!(!boot.is_latched());
}

fn null_cipher(boot: &Boot) {
    boot.image.edit_metadata(|json| {
        json["segments"]["0"]["encryption"] = "cipher_null-ecb".into();
    });
}

/// Whoever owns the disk may not own the TPM: unplugging it must not lead to the passphrase prompt.
#[test]
fn another_header_is_fatal_without_a_tpm_too() {
    let boot = Boot::new();
    boot.enroll();
    null_cipher(&boot);
    let mut command = boot.command("unlock");
    command.args(["--tcti", "device:/dev/no-tpm"]);
    run(command.arg(boot.image.path()).arg("root")).code(17).says("cipher_null-ecb");
}

#[test]
fn another_header_is_fatal_beside_a_missing_device_too() {
    let boot = Boot::new();
    boot.enroll();
    null_cipher(&boot);
    let [image, root, data] = [boot.image.path(), Path::new("root"), Path::new("data")];
    let missing = Path::new("/dev/no-such-device");
    for volumes in [[image, root, missing, data], [missing, data, image, root]] {
        boot.reset();
        boot.vmseal_boot("unlock", &volumes).code(17).says("cipher_null-ecb");
        assert!(boot.is_latched());
    }
}

/// Stock tools may open what vmseal cannot read: a header that cannot be compared is fatal.
#[test]
fn a_header_that_cannot_be_compared_is_fatal_and_latched() {
    let boot = Boot::new();
    boot.enroll();
    let good = boot.image.snapshot();
    let edits: [fn(&Boot); 3] = [
        |boot| {
            boot.image.edit_metadata(|json| {
                json["keyslots"]["0"]["area"]["size"] = "9223372036854775807".into();
            });
        },
        |boot| {
            boot.image.damage(4096, &[0xff; 64]);
            boot.image.damage(0x4000 + 4096, &[0xff; 64]);
        },
        |boot| {
            boot.image.damage(0, &[0; 8]);
            boot.image.damage(0x4000, &[0; 8]);
        },
    ];
    for edit in edits {
        boot.image.restore(&good);
        boot.reset();
        edit(&boot);
        boot.unlock().code(17).says("not the pinned volume");
        assert!(boot.is_latched());
    }
}

#[test]
fn another_boot_is_refused_and_latched_and_the_next_one_is_not() {
    let boot = Boot::new();
    boot.enroll();
    boot.tpm.extend(4, 0x11);
    boot.unlock().code(12).says("PCR 4 differs").says("do not type the passphrase");
    assert!(boot.is_latched());
    boot.unlock().code(12);
    boot.reset();
    assert!(!boot.is_latched());
}

#[test]
fn after_the_latch_nothing_is_released() {
    let boot = Boot::new();
    boot.enroll();
    boot.vmseal_boot("latch", &[]).ok();
    boot.unlock().code(12).says("latched");
}

/// The key is released, and no device can be made of it. It must not come out a second time.
#[test]
fn a_release_that_leads_to_no_open_volume_is_latched() {
    let boot = Boot::new();
    boot.enroll();
    let name = Path::new("not/a/device/name");
    boot.vmseal_boot("unlock", &[boot.image.path(), name]).code(1);
    assert!(boot.is_latched());
}

#[test]
fn without_a_tpm_the_exit_code_says_so() {
    let boot = Boot::new();
    boot.enroll();
    let mut command = boot.command("unlock");
    command.args(["--tcti", "device:/dev/no-tpm"]);
    run(command.arg(boot.image.path()).arg("root")).code(11);
}
