//! What an attacker with the disk tries under a genuine boot. The key of the volume is not to be had,
//! which each test shows by trying.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use testkit::header_edit::named_edit;
use testkit::image::PASSPHRASE;
use testkit::run::run;
use testkit::tool;

use super::installed::{Installed, LOGIN};
use super::kind::{DRACUT_UKI, INITRAMFS_KERNEL, Kind, ROOT_UUID, VOLUME_UUID};
use crate::guest::Boot;
use crate::workshop::text;

const SHELL: &str = "(initramfs) ";
const IMPOSTOR: &str = "not the pinned volume";
const FATAL: &str = "Do not open it, nor type its passphrase.";
const PCR_15: &str = "cat /sys/class/tpm/tpm0/pcr-sha256/15";
const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Bytes of a LUKS2 header, as cryptsetup makes it.
const HEADER: usize = 16 << 20;
/// Whoever is in does what the boot step did.
const UNLOCK: &str =
    "/usr/lib/vmseal/vmseal-boot unlock --pins /etc/vmseal/pins.json /dev/volume loot";

/// In the shell of initramfs-tools, the TPM releases nothing.
#[track_caller]
fn finds_the_latch_closed(installed: &Installed) {
    let mut console = installed.boot(&Boot::new());
    let before = console.await_text(SHELL);
    assert!(before.contains(IMPOSTOR), "{before}");
    assert!(before.contains(FATAL), "{before}");
    assert!(!before.contains("unlock disk"), "{before}");
    console.enter(&format!("{PCR_15}; ls /dev/mapper; echo looked"));
    let seen = console.await_text("\nlooked");
    assert!(!seen.contains(ZERO) && !seen.contains("\nroot"), "{seen}");
}

#[test]
fn an_edited_header_is_neither_opened_nor_asked_for() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    named_edit(&installed.guest.volume(), "cipher-null");
    finds_the_latch_closed(&installed);
}

/// Another volume under the same UUID, with a root of the attacker's and a token that this TPM opens
/// in whatever state it is.
fn impostor(installed: &Installed) {
    let volume = installed.guest.volume();
    let length = fs::metadata(&volume).unwrap().len();
    fs::remove_file(&volume).unwrap();
    fs::File::create(&volume).unwrap().set_len(length).unwrap();
    let key = installed.guest.file("attackers-key");
    fs::write(&key, "attacker").unwrap();
    let [volume, key] = [text(&volume), text(&key)];
    let format = ["luksFormat", "--batch-mode", "--type", "luks2", "--uuid", VOLUME_UUID];
    let cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", volume, key];
    run(Command::new("cryptsetup").args(format).args(cheap)).ok();
    let swtpm = testkit::Swtpm::on_state(&installed.guest.file("tpm"));
    let mut enroll = Command::new("systemd-cryptenroll");
    enroll.env("PASSWORD", "attacker").arg(format!("--tpm2-device={}", swtpm.tcti()));
    run(enroll.args(["--tpm2-pcrs=", volume])).ok();
}

#[test]
fn a_volume_of_the_attackers_is_not_opened() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    impostor(&installed);
    finds_the_latch_closed(&installed);
}

/// In dracut, systemd's own unlocker would open it by its token.
#[test]
fn a_volume_of_the_attackers_is_not_opened_by_systemd() {
    let installed = Installed::enrolled(DRACUT_UKI);
    impostor(&installed);
    let mut console = installed.boot(&Boot::new());
    let before = console.await_text(FATAL);
    assert!(before.contains(IMPOSTOR), "{before}");
    // The stock unlocker's unit fails instead of opening it.
    let after = console.await_text("Failed to start");
    assert!(!after.contains(LOGIN), "{after}");
}

/// The root that the command line names by its file system's UUID is a plain one. Its init does what
/// it can to get at the key: a copy of the genuine header is with it.
#[test]
fn a_plain_root_under_the_same_uuid_finds_the_latch_closed() {
    let mut installed = Installed::new(INITRAMFS_KERNEL);
    let words = installed.machine.command_line.take().unwrap();
    let by_uuid = words.replace("/dev/mapper/root", &format!("UUID={ROOT_UUID}"));
    assert_ne!(words, by_uuid);
    installed.machine.command_line = Some(by_uuid);
    installed.enroll(INITRAMFS_KERNEL);
    let [volume, header] = ["volume.img", "header.img"].map(|name| installed.guest.file(name));
    let genuine = fs::read(&volume).unwrap();
    fs::write(&header, &genuine[..HEADER]).unwrap();
    fs::copy(INITRAMFS_KERNEL.part("root.img"), &volume).unwrap();
    let write = format!("write {} /genuine.img", text(&header));
    run(Command::new("debugfs").args(["-w", "-R", &write]).arg(&volume)).ok();
    let unlock = "vmseal unlock --test /genuine.img";
    let mut console = installed.boot(&Boot::new().run(PCR_15).run(unlock));
    console.await_text(LOGIN);
    assert_ne!(console.exits(0).trim(), ZERO);
    console.exits_saying(12, "PCR 15 is not zero: this boot is latched");
}

/// A shell because root is not there: the latch is closed before it opens.
#[track_caller]
fn without_its_root_a_shell_gets_nothing(kind: Kind, shell: &str) {
    let installed = Installed::enrolled(kind);
    // The same disk under another UUID is not looked for.
    let volume = installed.guest.volume();
    testkit::header_edit::edit_uuid(&volume, "c0000000-00ff-4000-8000-0000000000ff");
    let mut console = installed.boot(&Boot::new());
    console.await_text(shell);
    console.enter(&format!("{PCR_15}; echo looked"));
    let seen = console.await_text("\nlooked");
    assert!(!seen.contains(ZERO), "{seen}");
}

#[test]
fn a_shell_without_root_gets_nothing() {
    without_its_root_a_shell_gets_nothing(INITRAMFS_KERNEL, SHELL);
}

/// The image on a plain swap is looked at after the latch, when nothing is left to release.
#[test]
fn a_hibernation_image_comes_too_late() {
    let installed =
        Installed::with_words(INITRAMFS_KERNEL, " resume=/dev/disk/by-label/hibernated");
    installed.enroll(INITRAMFS_KERNEL);
    let swap = installed.guest.file("swap.img");
    fs::File::create(&swap).unwrap().set_len(64 << 20).unwrap();
    tool("mkswap", &["--label", "hibernated", text(&swap)]);
    // The mark that the kernel leaves in place of the area's own (`struct swsusp_header`).
    let file = fs::File::options().write(true).open(&swap).unwrap();
    file.write_all_at(b"S1SUSPEND\0", 4096 - 10).unwrap();
    let boot = Boot::new().run("dmesg | grep 'PM: '").run(PCR_15);
    let mut console = installed.boot(&boot);
    let before = console.await_text(LOGIN);
    assert!(before.contains("opened root"), "{before}");
    console.exits_saying(0, "PM: Image");
    assert_ne!(console.exits(0).trim(), ZERO);
}

/// Silent until the passphrase is typed, then awake: nothing runs before the latch.
#[test]
fn a_tpm_that_wakes_up_after_the_prompt_is_latched_first() {
    let mut installed = Installed::with_words(INITRAMFS_KERNEL, " vmseal.timeout=4");
    // Let the kernel say that it starts the initramfs: by then it has found its TPM.
    let words = installed.machine.command_line.take().unwrap();
    installed.machine.command_line = Some(words.replace(" quiet", ""));
    installed.enroll(INITRAMFS_KERNEL);
    let mut console = installed.boot(&Boot::new().run(PCR_15).run(UNLOCK));
    console.await_text("Run /init as init process");
    console.silence_tpm();
    console.await_passphrase_prompt();
    console.enter(PASSPHRASE);
    let before = console.await_text("Repair the TPM");
    assert!(before.contains("opened root by passphrase"), "{before}");
    console.wake_tpm();
    console.await_text(LOGIN);
    assert_ne!(console.exits(0).trim(), ZERO);
    console.exits_saying(12, "PCR 15 is not zero: this boot is latched");
}

#[test]
fn after_the_boot_root_gets_nothing_from_the_tpm() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    let systemd =
        "PASSWORD= systemd-cryptenroll --unlock-tpm2-device=auto --recovery-key /dev/volume";
    let boot = Boot::new().run("vmseal unlock --test /dev/volume").run(systemd).run(PCR_15);
    let mut console = installed.boot(&boot);
    console.await_text(LOGIN);
    console.exits_saying(12, "PCR 15 is not zero: this boot is latched");
    console.exits(1);
    assert_ne!(console.exits(0).trim(), ZERO);
}
