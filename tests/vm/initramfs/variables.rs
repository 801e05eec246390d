//! Updates of Secure Boot's variables in an installed machine: approved before they are written, it
//! opens by itself; not approved, it asks, and names the variable.

use std::fs;
use std::process::Command;

use testkit::run::run;

use super::installed::{Installed, PROMPT};
use super::kind::{INITRAMFS_SIGNED_UKI, Shape};
use super::updates::{enrolled, enrolled_whole, opens};
use crate::guest::Boot;
use crate::workshop::text;

/// `EFI_IMAGE_SECURITY_DATABASE_GUID`, as text and as bytes.
const DATABASES: &str = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";
const DATABASES_BYTES: [u8; 16] = [
    0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f,
];
/// `EFI_CERT_SHA256_GUID`.
const CERT_SHA256: [u8; 16] = [
    0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28,
];
/// `EFI_CERT_TYPE_PKCS7_GUID`.
const CERT_TYPE_PKCS7: [u8; 16] = [
    0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7,
];
/// Non-volatile, seen by both, authenticated by time, appended.
const APPEND: u32 = 0x67;
/// `EFI_TIME`: the first of January 2026.
const TIME: [u8; 16] = [0xea, 7, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// ContentInfo around SignedData in DER, where both are longer than 255 bytes: two headers and
/// an object identifier.
const CONTENT_INFO: usize = 4 + 11 + 4;

/// A hash that nothing has, to be appended to dbx, with a signature by the key that is in KEK: what
/// `dbxupdate_x64.bin` is.
fn payload(installed: &Installed, hash: u8) -> Vec<u8> {
    let mut list = CERT_SHA256.to_vec();
    for word in [28 + 48, 0, 48] {
        list.extend(u32::to_le_bytes(word));
    }
    list.extend([hash; 48]);

    let signed = installed.guest.file("to-sign");
    let mut bytes: Vec<u8> = "dbx".encode_utf16().flat_map(u16::to_le_bytes).collect();
    bytes.extend(DATABASES_BYTES);
    bytes.extend(APPEND.to_le_bytes());
    bytes.extend([TIME.as_slice(), &list].concat());
    fs::write(&signed, bytes).unwrap();
    let signature = installed.guest.file("signature");
    let part = |name| installed.machine.firmware_part(name);
    let mut openssl = Command::new("openssl");
    openssl.args(["smime", "-sign", "-binary", "-noattr", "-md", "sha256", "-outform", "DER"]);
    openssl.args(["-inkey", text(&part("snakeoil.key")), "-signer", text(&part("snakeoil.pem"))]);
    run(openssl.args(["-in", text(&signed), "-out", text(&signature)])).ok();
    let signature = fs::read(signature).unwrap().split_off(CONTENT_INFO);

    let mut payload = TIME.to_vec();
    payload.extend((24 + u32::try_from(signature.len()).unwrap()).to_le_bytes());
    payload.extend([0, 2, 0xf1, 0x0e]);
    payload.extend(CERT_TYPE_PKCS7);
    payload.extend([signature, list].concat());
    payload
}

/// Has the firmware append it: attributes and payload in one write.
fn write(payload: &str) -> String {
    let file = format!("/sys/firmware/efi/efivars/dbx-{DATABASES}");
    format!(
        "[ ! -e {file} ] || chattr -i {file}; {{ printf '\\147\\000\\000\\000'; cat {payload}; }} >/tmp/write && dd if=/tmp/write of={file} bs=1M conv=notrunc"
    )
}

#[test]
fn an_approved_payload_in_dbx_opens_and_another_one_asks() {
    let installed = enrolled(INITRAMFS_SIGNED_UKI);
    let [first, second] = [0xa1, 0xb2].map(|hash| payload(&installed, hash));
    let boot = Boot::new()
        .file("payload", first)
        .run("vmseal confirm")
        .run("vmseal reseal --unattended --set dbx=/payload")
        .run("vmseal reseal --yes --set dbx=/payload")
        .run(&write("/payload"))
        .run("vmseal reseal --unattended");
    let mut console = opens(&installed, &boot);
    console.exits_saying(0, "was opened by its TPM, as approved");
    console.exits_saying(20, "dbx=/payload vouched by nobody");
    console.exits_saying(0, &format!("+ sha256 {}", "a1".repeat(32)));
    console.exits(0);
    console.exits_saying(0, "approved already");
    console.await_off();

    // Predicted is seen: else confirm would not know this boot.
    let boot = Boot::new()
        .file("payload", second)
        .run("vmseal confirm")
        .run(&write("/payload"))
        .run("vmseal reseal --unattended")
        .run("cat /run/motd.d/vmseal-next");
    let mut console = opens(&installed, &boot);
    console.exits_saying(0, "withdrawn, since nothing starts it any more");
    console.exits(0);
    console.exits_saying(20, "Secure Boot or its keys changed");
    console.exits_saying(0, "may ask for the passphrase");
    console.await_off();

    let mut console = installed.boot(&Boot::new());
    let said = console.await_passphrase_prompt();
    assert!(said.contains("PCR 7: dbx"), "{said}");
}

/// It boots from its EFI system partition alone.
const NO_BOOT: &str =
    "sed -i '/ .boot ext4/d' /etc/fstab; systemctl daemon-reload; mount /boot/efi";

/// systemd watches the variables: who logs in before the reboot is told.
#[test]
#[ignore = "slow: make vm-test-all"]
fn a_whole_debian_tells_of_a_change_before_the_reboot() {
    let kind = INITRAMFS_SIGNED_UKI.shaped(Shape::Full);
    let installed = enrolled_whole(kind, NO_BOOT);
    let logged_in = || {
        let mut console = installed.boot(&Boot::new());
        assert_eq!(console.either(PROMPT, kind.login()), kind.login());
        console.log_in();
        console
    };
    let mut console = logged_in();
    console.run("systemctl is-active vmseal-variables.path");
    console.exits_saying(0, "active");
    // A line of a terminal has 4095 bytes at most.
    for part in payload(&installed, 0xc3).chunks(400) {
        let bytes: String = part.iter().map(|byte| format!("\\{byte:03o}")).collect();
        console.run(&format!("printf '{bytes}' >>/payload"));
        console.exits(0);
    }
    console.run(&write("/payload"));
    console.exits(0);
    console.run("for i in $(seq 60); do [ -e /run/motd.d/vmseal-next ] && break; sleep 1; done; cat /run/motd.d/vmseal-next");
    console.exits_saying(0, "Secure Boot or its keys changed");
    console.run("vmseal reseal --yes && [ ! -e /run/motd.d/vmseal-next ]");
    console.exits_saying(0, "approved: ");
    console.power_off();

    let mut console = logged_in();
    console.run("journalctl -b -u vmseal-confirm");
    console.exits_saying(0, "withdrawn, since nothing starts it any more");
    console.power_off();
}
