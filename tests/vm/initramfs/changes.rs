//! One thing changed since the boot that was sealed to: each time somebody at the console reads what
//! it was, and the passphrase still opens the root.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use testkit::header_edit::edit_header;
use testkit::image::PASSPHRASE;
use testkit::run::run_with_input;
use testkit::tool;

use super::installed::{Installed, LOGIN};
use super::kind::{INITRAMFS_GRUB, INITRAMFS_KERNEL, INITRAMFS_SHIM_12};
use crate::console::Console;
use crate::guest::Boot;
use crate::hardware::{Hardware, Start, TpmInterface};
use crate::workshop::text;

const MISMATCH: &str = "If you did not make this change, do not type the passphrase here.";
/// What the kernel prints when all of the boot is measured and it has found its TPM.
const MEASURED: &str = "Run /init as init process";
const REPAIR: &str = "Repair the TPM, or start the VM without its TPM device.";
const REPORT: &str = "cat /run/vmseal/boot.json";

/// The cause is said before the prompt, and the passphrase leads to the login.
#[track_caller]
fn asks_saying(mut console: Console<'_>, causes: &[&str]) {
    let before = console.await_passphrase_prompt();
    for cause in causes {
        assert!(before.contains(cause), "{cause:?} in {before}");
    }
    console.enter(PASSPHRASE);
    console.await_text("opened root by passphrase");
    console.await_text(LOGIN);
    console.exits_saying(0, "\"by\": \"passphrase\"");
}

/// A machine whose kernel comes from the host, with what the host gives it now.
#[track_caller]
fn with_changed_kernel(
    change: impl Fn(&Installed, &mut PathBuf, &mut PathBuf, &mut String),
    cause: &str,
) {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    let mut hardware = installed.hardware();
    let Start::Kernel { kernel, initrd, command_line } = &mut hardware.start else {
        panic!("a kernel given by the host");
    };
    change(&installed, kernel, initrd, command_line);
    let console = installed.guest.boot_hardware(&hardware, &Boot::new().run(REPORT));
    asks_saying(console, &[cause, MISMATCH]);
}

/// A copy of a file with more at its end.
fn appended(installed: &Installed, file: &PathBuf, more: &[u8]) -> PathBuf {
    let copy = installed.guest.file("appended");
    let mut bytes = fs::read(file).unwrap();
    bytes.extend_from_slice(more);
    fs::write(&copy, bytes).unwrap();
    copy
}

#[test]
fn another_command_line_asks() {
    with_changed_kernel(
        |_, _, _, line| line.push_str(" splash"),
        "PCR 9: command line that the kernel was started with is not what was sealed to",
    );
}

#[test]
fn a_longer_initrd_asks() {
    let add = |installed: &Installed, initrd: &PathBuf| {
        let mut cpio = Command::new("cpio");
        cpio.args(["--quiet", "-H", "newc", "-o"]).current_dir("/");
        let archive = run_with_input(&mut cpio, b"etc/hostname\n");
        appended(installed, initrd, archive.stdout.as_bytes())
    };
    with_changed_kernel(
        |installed, _, initrd, _| *initrd = add(installed, initrd),
        "PCR 9: initrd that the kernel loaded is not what was sealed to",
    );
}

#[test]
fn another_kernel_asks() {
    with_changed_kernel(
        |installed, kernel, _, _| *kernel = appended(installed, kernel, &[0; 8]),
        "PCR 4 differs",
    );
}

#[test]
fn another_firmware_asks() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    let hardware = Hardware {
        code: crate::workshop::part("firmware").join("2022.11/code.fd"),
        ..installed.hardware()
    };
    let console = installed.guest.boot_hardware(&hardware, &Boot::new().run(REPORT));
    asks_saying(console, &["PCR 0", MISMATCH]);
}

#[test]
fn the_tpm_of_another_machine_asks() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    let state = installed.guest.file("tpm");
    fs::remove_dir_all(&state).unwrap();
    fs::create_dir(&state).unwrap();
    tool("swtpm_setup", &["--tpm2", "--tpmstate", text(&state), "--pcr-banks", "sha256"]);
    let console = installed.boot(&Boot::new().run(REPORT));
    asks_saying(
        console,
        &["this TPM has no storage root key", "If you did not replace this machine's TPM"],
    );
}

#[test]
fn a_machine_without_a_tpm_asks() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    let hardware = Hardware { tpm: TpmInterface::None, ..installed.hardware() };
    let console = installed.guest.boot_hardware(&hardware, &Boot::new().run(REPORT));
    asks_saying(console, &["the firmware shows none"]);
}

#[test]
fn a_garbled_token_asks() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    edit_header(&installed.guest.volume(), |json| {
        let tokens = json["tokens"].as_object_mut().unwrap();
        for token in tokens.values_mut().filter(|token| token["type"] == "systemd-tpm2") {
            token["tpm2-blob"] = "bm90aGluZyBvZiBhIFRQTQ==".into();
        }
    });
    let console = installed.boot(&Boot::new().run(REPORT));
    asks_saying(console, &["token 1 is malformed"]);
}

/// The prompt comes, the passphrase opens the root, and the gate lets nothing follow: a TPM that wakes
/// up later would release the key to whatever runs then.
#[test]
fn a_tpm_that_never_answers_asks_and_stops_the_boot_at_the_gate() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    let mut hardware = installed.hardware();
    let Start::Kernel { command_line, .. } = &mut hardware.start else {
        panic!("a kernel given by the host");
    };
    *command_line = command_line.replace(" quiet", " vmseal.timeout=4");
    let mut console = installed.guest.boot_hardware(&hardware, &Boot::new());
    console.await_text(MEASURED);
    console.silence_tpm();
    console.await_passphrase_prompt();
    console.enter(PASSPHRASE);
    console.await_text("opened root by passphrase");
    let before = console.await_text(REPAIR);
    assert!(before.contains("cannot latch"), "{before}");
    // Said again as long as it is so.
    let between = console.await_text(REPAIR);
    assert!(!between.contains(LOGIN), "{between}");
}

#[test]
fn an_entry_edited_in_the_menu_for_a_shell_asks() {
    let installed = Installed::enrolled(INITRAMFS_GRUB);
    // What the menu's editor hands to the kernel is measured by the kernel, as any command line is.
    let menu = String::from_utf8(installed.read("boot/grub/grub.cfg")).unwrap();
    let edited = menu.replace(" ro ", " ro init=/bin/sh ");
    assert_ne!(menu, edited);
    installed.write("boot/grub/grub.cfg", edited.as_bytes());
    let mut console = installed.boot(&Boot::new());
    let before = console.await_passphrase_prompt();
    assert!(before.contains("PCR 9: command line"), "{before}");
    assert!(before.contains(MISMATCH), "{before}");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn secure_boot_switched_off_asks() {
    let installed = Installed::enrolled(INITRAMFS_SHIM_12);
    fs::copy(installed.machine.firmware_part("vars.fd"), installed.guest.file("vars.fd")).unwrap();
    let console = installed.boot(&Boot::new().run(REPORT));
    asks_saying(console, &["PCR", "7", MISMATCH]);
}
