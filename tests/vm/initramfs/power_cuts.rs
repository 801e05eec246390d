//! The machine loses power at any flush of its encrypted disk, while a boot is approved and while the
//! one before it is withdrawn. The disk as it was then boots by itself, its keyslots are what they
//! were, and running again completes what was begun.
// How many points there are shows that the test still reaches them.
#![allow(clippy::print_stdout)]

use std::fs;

use testkit::tool;

use super::installed::Installed;
use super::kind::INITRAMFS_GRUB;
use super::updates::{enrolled, opens};
use crate::console::Console;
use crate::guest::Boot;
use crate::workshop::text;
use crate::write_log::{Cut, WriteLog};

/// Stops the script until a line is typed, with all that was written on the disk.
const PAUSE: &str = "sync; echo rig: pause; read go";
const UPDATE: &str = "for f in /boot/initrd.img-*; do printf 'an update\\000\\000\\000' >>$f; done";
const TAKE_BACK: &str =
    "for f in /boot/initrd.img-*; do truncate -s $(($(stat -c %s $f) - 12)) $f; done";
const APPROVE: &str = "vmseal built /boot/initrd.img-* && vmseal reseal --unattended";
const CONFIRM: &str = "vmseal confirm";
const VERIFY: &str = "vmseal journal --verify";
/// What a cut leaves alone: the volume's keyslots, behind two copies of the metadata.
const KEYSLOTS: std::ops::Range<usize> = 32 << 10..16 << 20;

/// A switched-off machine, and what one command in its next boot would write to the encrypted disk.
struct Recorded {
    installed: Installed,
    log: WriteLog,
    cuts: Vec<Cut>,
}

impl Recorded {
    /// Runs `command` in a boot, after `before`; the boot disk is kept as `after` leaves it.
    fn new(installed: Installed, before: &str, command: &str, after: &str) -> Self {
        keep(&installed, "volume.img", "volume.kept");
        let log = installed.guest.log_writes();
        let boot = Boot::new().run(before).run(PAUSE).run(command).run(PAUSE).run(after);
        let mut console = opens(&installed, &boot);
        console.exits(0);
        let pause = |console: &mut Console<'_>| {
            console.await_text("rig: pause");
            let length = log.len();
            console.enter("");
            length
        };
        let from = pause(&mut console);
        console.exits(0);
        let to = pause(&mut console);
        console.exits(0);
        console.await_off();
        let log = log.ended();
        let cuts = log.flushes(from, to);
        keep(&installed, "disk.img", "disk.kept");
        Self { installed, log, cuts }
    }

    /// The disks as power loss leaves them.
    fn cut(&self, cut: Cut) {
        for (kept, disk) in [("volume.kept", "volume.img"), ("disk.kept", "disk.img")] {
            keep(&self.installed, kept, disk);
        }
        let volume = self.installed.guest.volume();
        let keyslots = |bytes: Vec<u8>| bytes[KEYSLOTS].to_vec();
        let before = keyslots(fs::read(&volume).unwrap());
        self.log.replay(cut, &volume);
        assert!(keyslots(fs::read(&volume).unwrap()) == before, "keyslots at {cut:?}");
    }

    /// Boots what each cut leaves, which must open by itself and run all of `commands`.
    fn boots_after_each(&self, commands: &[&str], only: impl Fn(usize) -> bool) {
        assert!(self.cuts.len() > 8, "{:?}", self.cuts);
        let boot = commands.iter().fold(Boot::new(), |boot, command| boot.run(command));
        for (number, cut) in self.cuts.iter().enumerate().filter(|(number, _)| only(*number)) {
            println!("cut {number} of {}: {cut:?}", self.cuts.len());
            self.cut(*cut);
            let mut console = opens(&self.installed, &boot);
            for _ in commands {
                console.exits(0);
            }
            console.await_off();
        }
    }
}

fn keep(installed: &Installed, from: &str, to: &str) {
    let [from, to] = [from, to].map(|name| installed.guest.file(name));
    tool("cp", &["--sparse=always", text(&from), text(&to)]);
}

/// The cuts of an approval, and those of the withdrawal after it; `only` chooses by number.
fn power_is_cut(only: impl Fn(usize) -> bool) {
    let installed = enrolled(INITRAMFS_GRUB);
    let mut console = opens(&installed, &Boot::new().run(CONFIRM));
    console.exits(0);
    console.await_off();
    let approving = Recorded::new(installed, UPDATE, APPROVE, TAKE_BACK);
    approving.boots_after_each(&[UPDATE, APPROVE, VERIFY], &only);
    // The last of them has the new initramfs in its place, approved.
    let confirming = Recorded::new(approving.installed, "true", CONFIRM, "true");
    confirming.boots_after_each(&[CONFIRM, VERIFY], &only);
}

#[test]
fn power_lost_while_a_boot_is_approved_or_withdrawn_locks_nobody_out() {
    // One in the middle of each command.
    power_is_cut(|number| number == 7);
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn power_lost_at_every_flush_locks_nobody_out() {
    power_is_cut(|_| true);
}
