//! The machine loses power at a bad moment. Its root opens at the next boot, by the TPM or by the
//! passphrase, and enrolling again ends well.

use std::time::Duration;

use testkit::image::PASSPHRASE;

use super::installed::{Installed, LOGIN, PROMPT};
use super::kind::INITRAMFS_KERNEL;
use crate::guest::Boot;

/// Milliseconds into `vmseal enroll`; it takes about one second under emulation.
const MOMENTS: [u64; 4] = [150, 400, 700, 1100];

#[test]
#[ignore = "slow: make vm-test-all"]
fn power_lost_while_enrolling_locks_nobody_out() {
    let installed = Installed::new(INITRAMFS_KERNEL);
    let enroll = "vmseal enroll /dev/volume --unlock-key-file /passphrase";
    let boot = Boot::new().file("passphrase", PASSPHRASE.into()).run(enroll);
    for moment in MOMENTS {
        let mut console = installed.boot(&boot);
        if console.either(PROMPT, LOGIN) == PROMPT {
            console.enter(PASSPHRASE);
            console.await_text(LOGIN);
        }
        console.await_text("rig: run\n");
        std::thread::sleep(Duration::from_millis(moment));
        drop(console);
    }
    let mut console = installed.boot(&boot);
    if console.either(PROMPT, LOGIN) == PROMPT {
        console.enter(PASSPHRASE);
        console.await_text(LOGIN);
    }
    console.exits(0);
    console.await_off();
    let mut console = installed.boot(&Boot::new());
    assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
}

#[test]
fn power_lost_in_the_first_sealed_boot_changes_nothing() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    for moment in ["opened root", LOGIN] {
        let mut console = installed.boot(&Boot::new());
        console.await_text(moment);
        drop(console);
    }
    let mut console = installed.boot(&Boot::new());
    assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
}
