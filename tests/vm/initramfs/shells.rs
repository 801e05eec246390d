//! What whoever waits for a shell gets from it: nothing of a volume that nobody typed a passphrase for.

use testkit::image::PASSPHRASE;

use super::installed::{Installed, LOGIN};
use super::kind::{DRACUT_KERNEL, INITRAMFS_KERNEL};
use crate::guest::Boot;

const SHELL: &str = "(initramfs) ";
/// Where the data of the volume begin, and the superblock in them.
const SUPERBLOCK: u64 = (16 << 20) + 1024;

/// No word of the command line is needed: spoil the file system, whose cipher text anybody who has the
/// disk can write to, and wait.
#[test]
fn a_spoilt_file_system_leads_to_a_shell_without_the_volume() {
    use std::os::unix::fs::FileExt;

    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    let disk = std::fs::File::options().write(true).open(installed.guest.volume()).unwrap();
    disk.write_all_at(&[0x55; 4096], SUPERBLOCK).unwrap();
    let mut console = installed.boot(&Boot::new());
    let before = console.await_text(SHELL);
    assert!(!before.contains("unlock disk"), "{before}");
    console.enter("cat /run/vmseal/boot.json; echo; ls /dev/mapper; echo looked");
    let seen = console.await_text("\nlooked");
    // Nothing but device-mapper's own control device.
    assert!(seen.contains("\"by\": \"tpm\"") && seen.ends_with("}\ncontrol"), "{seen}");
}

/// A mounted root cannot be closed. Whoever typed the passphrase has the shell that the command line
/// asks for: `offer` is what it shows, `answer` goes on. The boot that asks for it is the approved one
/// here; any other is refused for its command line.
#[track_caller]
fn opens_no_shell_beside_a_mounted_root(installed: &Installed, offer: &str, answer: &str) {
    let enroll = "vmseal enroll /dev/volume --unlock-key-file /passphrase";
    let boot = Boot::new().file("passphrase", PASSPHRASE.into()).run(enroll);
    let mut console = installed.boot(&boot);
    console.await_passphrase_prompt();
    console.enter(PASSPHRASE);
    console.await_text(offer);
    console.enter(answer);
    console.await_text(LOGIN);
    console.exits(0);
    console.await_off();

    let mut console = installed.boot(&Boot::new());
    let before = console.await_text("No shell opens while it is open");
    assert!(before.contains("root opened without a passphrase and cannot be closed"), "{before}");
    assert!(!before.contains(offer), "{before}");
}

#[test]
fn a_mounted_root_keeps_the_shell_shut() {
    let installed = Installed::with_words(INITRAMFS_KERNEL, " break=bottom");
    opens_no_shell_beside_a_mounted_root(&installed, SHELL, "exit");
}

/// Before the root is switched to. Its account is locked there: Debian's dracut offers no shell but
/// goes on.
#[test]
#[ignore = "slow: make vm-test-all"]
fn the_break_of_dracut_opens_no_shell_beside_an_open_volume() {
    let installed = Installed::with_words(DRACUT_KERNEL, " rd.break");
    opens_no_shell_beside_a_mounted_root(&installed, "Press Enter to continue", "");
}
