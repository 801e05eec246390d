//! Boots of installed machines: the initramfs is what initramfs-tools or dracut built after the
//! packages were installed, and it opens an encrypted root.
//!
//! ```text
//! Kind (release, generator, loader) ──▶ Installed ── boot ──▶ Console ──▶ prompt or LOGIN
//!        tests/vm/guest-image             │ enrolled: booted once, by passphrase
//! ```

mod attacks;
mod changes;
mod clones;
mod copies;
mod crashes;
mod host;
mod installed;
mod kernels;
mod kind;
mod offline;
mod power_cuts;
mod references;
mod shells;
mod side_by_side;
mod stock;
mod story;
mod updates;
mod variables;
mod volumes;

use installed::{Installed, LOGIN, PROMPT};
use kind::{
    DRACUT_GRUB, DRACUT_UKI, DRACUT_UKI_12, INITRAMFS_GRUB, INITRAMFS_KERNEL, INITRAMFS_SHIM_12,
    Kind, Shape,
};

use crate::guest::Boot;
use crate::hardware::{Hardware, TpmInterface};

const REPORT: &str = "cat /run/vmseal/boot.json";

/// An enrolled machine opens its root without a hand on the keyboard.
#[track_caller]
fn opens_by_itself(kind: Kind) {
    let installed = Installed::enrolled(kind);
    let mut console = installed.boot(&Boot::new().run(REPORT));
    assert_eq!(console.either(PROMPT, kind.login()), kind.login());
    if kind.shape == Shape::Full {
        console.log_in();
        console.run(REPORT);
    }
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
#[ignore = "slow: make vm-test-all"]
fn dracut_and_grub_open_the_root() {
    opens_by_itself(DRACUT_GRUB);
}

#[test]
fn initramfs_tools_and_secured_grub_open_the_root_of_debian_12() {
    opens_by_itself(INITRAMFS_SHIM_12);
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn dracut_in_a_unified_kernel_image_opens_the_root_of_debian_12() {
    opens_by_itself(DRACUT_UKI_12);
}

#[test]
fn another_interface_of_the_tpm_changes_nothing() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    let hardware = Hardware { tpm: TpmInterface::Tis, ..installed.hardware() };
    let mut console = installed.guest.boot_hardware(&hardware, &Boot::new());
    assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
}

#[test]
fn initramfs_tools_opens_a_root_on_lvm() {
    opens_by_itself(INITRAMFS_KERNEL.shaped(Shape::OnLvm));
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn initramfs_tools_opens_a_root_with_lvm_in_it() {
    opens_by_itself(INITRAMFS_KERNEL.shaped(Shape::InLvm));
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn dracut_opens_a_root_on_lvm() {
    opens_by_itself(DRACUT_UKI.shaped(Shape::OnLvm));
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn dracut_opens_a_root_with_lvm_in_it() {
    opens_by_itself(DRACUT_UKI.shaped(Shape::InLvm));
}

/// In CI the upgrade of its kernel begins so.
#[test]
#[ignore = "slow: make vm-test-all"]
fn a_whole_debian_with_initramfs_tools_and_grub_opens_its_root() {
    opens_by_itself(INITRAMFS_GRUB.shaped(Shape::Full));
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_whole_debian_with_dracut_in_a_unified_kernel_image_opens_its_root() {
    opens_by_itself(DRACUT_UKI.shaped(Shape::Full));
}
