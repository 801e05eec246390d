//! One thing is not as it was when the machine was enrolled. The boot asks for the passphrase, says
//! why, and the passphrase opens the root.

use testkit::image::PASSPHRASE;

use super::installed::{Installed, LOGIN};
use super::kind::{INITRAMFS_GRUB, INITRAMFS_KERNEL};
use crate::console::Console;
use crate::guest::Boot;
use crate::hardware::{Hardware, TpmInterface};

/// Whoever types the passphrase gets to the login prompt; returns what was said before.
#[track_caller]
fn opens_by_passphrase(console: &mut Console<'_>) -> String {
    let said = console.await_passphrase_prompt();
    console.enter(PASSPHRASE);
    console.await_text(LOGIN);
    said
}

/// The same TPM by its other interface is nothing that matters.
#[test]
fn another_interface_of_the_tpm_changes_nothing() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    let hardware = Hardware { tpm: TpmInterface::Tis, ..installed.hardware() };
    let mut console = installed.guest.boot_hardware(&hardware, &Boot::new());
    let said = console.await_text(LOGIN);
    assert!(!said.contains("unlock disk"), "{said}");
}

#[test]
fn a_machine_without_a_tpm_asks() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    let hardware = Hardware { tpm: TpmInterface::None, ..installed.hardware() };
    let mut console = installed.guest.boot_hardware(&hardware, &Boot::new());
    opens_by_passphrase(&mut console);
}

#[test]
fn an_edited_menu_asks_and_says_why() {
    let installed = Installed::enrolled(INITRAMFS_GRUB);
    let menu = String::from_utf8(installed.read("boot/grub/grub.cfg")).unwrap();
    assert!(menu.contains(" quiet"), "{menu}");
    installed.write("boot/grub/grub.cfg", menu.replace(" quiet", " loglevel=3").as_bytes());
    let mut console = installed.boot(&Boot::new());
    let said = opens_by_passphrase(&mut console);
    assert!(said.contains("this boot is not the sealed one: PCR 9 differs"), "{said}");
}

/// The passphrase opens the root, but nothing runs from there while the TPM could still answer.
#[test]
fn a_tpm_that_falls_silent_asks_and_then_stops_the_boot() {
    let mut installed = Installed::enrolled(INITRAMFS_KERNEL);
    let words = installed.machine.command_line.take().unwrap();
    installed.machine.command_line = Some(words.replace(" quiet", " vmseal.timeout=20"));
    let mut console = installed.boot(&Boot::new());
    console.await_text("Run /init as init process");
    console.silence_tpm();
    console.await_passphrase_prompt();
    console.enter(PASSPHRASE);
    let said = console.await_text("start the VM without its TPM device");
    assert!(!said.contains(LOGIN), "{said}");
}
