//! Boots of installed machines: the initramfs is what initramfs-tools or dracut built after the
//! packages were installed, and it opens an encrypted root.
//!
//! ```text
//! Kind (release, generator, loader) ──▶ Installed ── boot ──▶ Console ──▶ prompt or LOGIN
//!        tests/vm/guest-image             │ enrolled: booted once, by passphrase
//! ```

mod attacks;
mod changes;
mod crashes;
mod installed;
mod kind;
mod shells;
mod side_by_side;
mod story;

use installed::{Installed, LOGIN, PROMPT};
use kind::{
    DRACUT_GRUB, DRACUT_UKI, DRACUT_UKI_12, INITRAMFS_GRUB, INITRAMFS_KERNEL, INITRAMFS_SHIM_12,
    Kind,
};

use crate::guest::Boot;
use crate::hardware::TpmInterface;

/// An enrolled machine opens its root without a hand on the keyboard.
#[track_caller]
fn opens_by_itself(kind: Kind) {
    let installed = Installed::enrolled(kind);
    let mut console = installed.boot(&Boot::new().run("cat /run/vmseal/boot.json"));
    assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
    console.exits_saying(0, "\"by\": \"tpm\"");
}

#[test]
fn initramfs_tools_and_grub_open_the_root() {
    opens_by_itself(INITRAMFS_GRUB);
}

#[test]
fn initramfs_tools_opens_the_root_under_a_kernel_of_the_host() {
    opens_by_itself(INITRAMFS_KERNEL);
}

#[test]
fn dracut_in_a_unified_kernel_image_opens_the_root() {
    opens_by_itself(DRACUT_UKI);
}

#[test]
fn dracut_and_grub_open_the_root() {
    opens_by_itself(DRACUT_GRUB);
}

#[test]
fn initramfs_tools_and_secured_grub_open_the_root_of_debian_12() {
    opens_by_itself(INITRAMFS_SHIM_12);
}

#[test]
fn dracut_in_a_unified_kernel_image_opens_the_root_of_debian_12() {
    opens_by_itself(DRACUT_UKI_12);
}

#[test]
fn a_tpm_with_the_other_interface_opens_the_root() {
    let mut installed = Installed::new(INITRAMFS_KERNEL);
    installed.machine.tpm = TpmInterface::Tis;
    installed.enroll();
    let mut console = installed.boot(&Boot::new());
    assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
}
