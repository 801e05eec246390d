//! Whole measured boots of a small guest: OVMF, a unified kernel image, an initramfs that runs what
//! a test asks for, a LUKS2 disk. A test breaks one thing and awaits what the console says.
//! Under `prediction`, other loaders boot it, and only its PCRs are read. Under `initramfs`, a root is
//! opened by what initramfs-tools and dracut build.
//!
//! ```text
//! Boot (script, files) ──▶ Guest (TPM, variables, disks) ── boot ──▶ Console ──▶ exits, says
//!                            rig: firmware, boot disks, KVM or not
//! ```

// Test support: what does not work ends the test, with the console printed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod console;
mod guest;
mod hardware;
mod initramfs;
mod machine;
mod prediction;
mod rig;
mod valve;
mod workshop;
mod write_log;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use console::Console;
use guest::{Boot, Guest};
use testkit::header_edit::named_edit;
use testkit::image::PASSPHRASE;

const UNLOCK: &str = "vmseal-boot unlock /dev/volume root";
const NOT_OPENED: &str = "! test -e /dev/mapper/root";
const READ_FILE: &str = "mkdir -p /mnt && mount -r /dev/mapper/root /mnt && cat /mnt/file";
const CLOSE: &str = "umount /mnt && cryptsetup close root";
const CONTENT: &str = "what the disk holds";
const SYSTEMD: &str = "systemd-cryptsetup attach root /dev/volume - tpm2-device=auto,headless";
const CRYPTSETUP: &str = "cryptsetup open --token-only /dev/volume root";
const PCR_15: &str = "cat /sys/class/tpm/tpm0/pcr-sha256/15";
/// Where a LUKS2 disk's data begin, as cryptsetup makes it.
const DATA_OFFSET: u64 = 16 << 20;
const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A machine whose disk holds a file and was enrolled in a boot of its own: made once, then copied.
fn enrolled() -> Guest {
    // Packed, for a folder in a static would never be removed.
    static ENROLLED: OnceLock<Vec<u8>> = OnceLock::new();
    let archive = ENROLLED.get_or_init(|| {
        let guest = Guest::new();
        let boot = Boot::new()
            .file("passphrase", PASSPHRASE.into())
            .run("cryptsetup open --key-file /passphrase /dev/volume root")
            .run("mke2fs -b 4096 /dev/mapper/root && mkdir /mnt && mount /dev/mapper/root /mnt")
            .run(&format!("echo {CONTENT} >/mnt/file; {CLOSE}"))
            .run("vmseal enroll /dev/volume --unlock-key-file /passphrase")
            .run("cp /etc/vmseal/pins.json /out");
        let mut console = guest.boot(boot);
        for _ in 0..3 {
            console.exits(0);
        }
        let sealed = console.exits(0);
        assert!(sealed.contains("PCRs 0+4+7+11+12+13+15 of the sha256 bank"), "{sealed}");
        console.exits(0);
        console.await_off();
        guest.keep_pins(&guest.output("pins.json"));
        guest.pack()
    });
    Guest::unpack(archive)
}

/// Awaits the output of [`PCR_15`], and that the latch shows in it.
#[track_caller]
fn is_latched(console: &mut Console<'_>) {
    let value = console.exits(0);
    assert_ne!(value.trim(), ZERO);
}

#[test]
fn the_approved_boot_opens_the_volume_and_then_nothing_more() {
    let boot = Boot::new()
        .run(PCR_15)
        .run(UNLOCK)
        .run(READ_FILE)
        .run(PCR_15)
        .run(CLOSE)
        .run(UNLOCK)
        .run("vmseal unlock /dev/volume --test")
        .run(CRYPTSETUP)
        .run(SYSTEMD)
        .run(NOT_OPENED);
    let guest = enrolled();
    let mut console = guest.boot(boot);
    assert_eq!(console.exits(0).trim(), ZERO);
    console.exits_saying(0, "vmseal: opened root");
    console.exits_saying(0, CONTENT);
    is_latched(&mut console);
    console.exits(0);
    console.exits_saying(12, "PCR 15 is not zero: this boot is latched");
    console.exits_saying(12, "PCR 15 is not zero: this boot is latched");
    console.exits(1);
    console.exits(1);
    console.exits(0);
}

/// What PCR 15 tells of an opened volume is the same, whoever opened it.
#[test]
fn systemd_measures_the_same_of_an_opened_volume() {
    let guest = enrolled();
    let [vmseal, systemd] = [UNLOCK, &format!("{SYSTEMD},tpm2-measure-pcr=yes")].map(|open| {
        let mut console = guest.boot(Boot::new().run(open).run(PCR_15));
        console.exits(0);
        let value = console.exits(0);
        console.await_off();
        value
    });
    assert_ne!(vmseal.trim(), ZERO);
    assert_eq!(vmseal, systemd);
}

#[test]
fn stock_systemd_and_cryptsetup_open_the_volume() {
    let boot = Boot::new().run(SYSTEMD).run(READ_FILE).run(CLOSE).run(CRYPTSETUP).run(READ_FILE);
    let guest = enrolled();
    let mut console = guest.boot(boot);
    console.exits(0);
    console.exits_saying(0, CONTENT);
    console.exits(0);
    console.exits(0);
    console.exits_saying(0, CONTENT);
}

#[test]
fn the_latch_alone_bars_the_tpm() {
    let latch = "vmseal-boot latch";
    let boot =
        Boot::new().run(latch).run(PCR_15).run(latch).run(PCR_15).run(UNLOCK).run(NOT_OPENED);
    let guest = enrolled();
    let mut console = guest.boot(boot);
    console.exits(0);
    let once = console.exits(0);
    assert_ne!(once.trim(), ZERO);
    console.exits(0);
    assert_eq!(console.exits(0), once, "a second latch extends nothing");
    console.exits_saying(12, "PCR 15 is not zero: this boot is latched");
    console.exits(0);
}

#[test]
fn another_command_line_is_refused_by_name() {
    let boot = Boot::new().disk("changed").run(UNLOCK).run(NOT_OPENED).run(PCR_15);
    let guest = enrolled();
    let mut console = guest.boot(boot);
    let refusal = console.exits(12);
    assert!(
        refusal.contains("vmseal: /dev/volume: this boot is not the sealed one: PCR 4+11 differs")
    );
    assert!(refusal.contains("PCR 11: section .cmdline is not what was sealed to"), "{refusal}");
    console.exits(0);
    is_latched(&mut console);
}

/// A header that an attacker edited is refused before anything is asked of the TPM.
#[track_caller]
fn is_not_the_pinned_volume(edit: &str, cause: &str) {
    let guest = enrolled();
    named_edit(&guest.volume(), edit);
    let mut console = guest.boot(Boot::new().run(UNLOCK).run(NOT_OPENED).run(PCR_15));
    console.exits_saying(17, &format!("vmseal: /dev/volume: not the pinned volume: {cause}"));
    console.exits(0);
    is_latched(&mut console);
}

#[test]
fn a_null_cipher_is_not_the_pinned_volume() {
    is_not_the_pinned_volume("cipher-null", "segment 0 encryption");
}

#[test]
fn a_linear_segment_is_not_the_pinned_volume() {
    is_not_the_pinned_volume("linear", "segment 0 type: pinned crypt, header says linear");
}

#[test]
fn a_second_segment_is_not_the_pinned_volume() {
    is_not_the_pinned_volume("two-segments", "segments: pinned 0 only, header says 0 1");
}

#[test]
fn a_foreign_digest_is_not_the_pinned_volume() {
    is_not_the_pinned_volume("foreign-digest", "digest");
}

#[test]
fn an_unknown_requirement_is_not_the_pinned_volume() {
    is_not_the_pinned_volume("unknown-requirement", "requirements: pinned none");
}

/// What the pin is for: after the same edit, a stock opener hands over what the attacker wrote.
#[test]
fn the_null_cipher_deceives_who_pins_nothing() {
    let guest = enrolled();
    named_edit(&guest.volume(), "cipher-null");
    let disk = OpenOptions::new().write(true).open(guest.volume()).unwrap();
    disk.write_all_at(b"the attacker's file system", DATA_OFFSET).unwrap();
    let boot = Boot::new().run(SYSTEMD).run("head -c 26 /dev/mapper/root; echo");
    let mut console = guest.boot(boot);
    console.exits(0);
    console.exits_saying(0, "the attacker's file system");
}
