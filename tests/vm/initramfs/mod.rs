//! Boots of installed machines: the initramfs is what initramfs-tools or dracut built after the
//! packages were installed, and it opens an encrypted root.
//!
//! ```text
//! Kind (release, generator, loader) ──▶ Installed ── boot ──▶ Console ──▶ prompt or LOGIN
//!        tests/vm/guest-image             │ enrolled: booted once, by passphrase
//! ```

mod installed;
mod kind;
mod refused;
mod shells;

use installed::{Installed, LOGIN};
use kind::{
    DRACUT_GRUB, DRACUT_UKI, DRACUT_UKI_12, INITRAMFS_GRUB, INITRAMFS_KERNEL, INITRAMFS_SHIM_12,
    Kind, Shape,
};

use testkit::image::PASSPHRASE;

use crate::guest::Boot;

/// An enrolled machine opens its root without a hand on the keyboard.
#[track_caller]
fn opens_by_itself(kind: Kind) {
    let installed = Installed::enrolled(kind);
    let mut console = installed.boot(&Boot::new().run("cat /run/vmseal/boot.json"));
    let before = console.await_text(kind.login());
    assert!(!before.contains("unlock disk"), "{before}");
    if kind.shape == Shape::Full {
        console.log_in();
        console.run("cat /run/vmseal/boot.json");
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
fn two_volumes_are_opened_in_one_boot() {
    // Only the root is enrolled: the second volume is still opened by passphrase.
    let installed = Installed::enrolled(INITRAMFS_KERNEL.shaped(Shape::Two));
    let mut console = installed.boot(&Boot::new().run("ls /dev/mapper"));
    console.await_text("Please unlock disk data");
    console.enter(PASSPHRASE);
    console.await_text(LOGIN);
    console.exits_saying(0, "data");
}

#[test]
fn initramfs_tools_opens_a_root_on_lvm() {
    opens_by_itself(INITRAMFS_KERNEL.shaped(Shape::OnLvm));
}

#[test]
fn initramfs_tools_opens_a_root_with_lvm_in_it() {
    opens_by_itself(INITRAMFS_KERNEL.shaped(Shape::InLvm));
}

#[test]
fn dracut_opens_a_root_on_lvm() {
    opens_by_itself(DRACUT_UKI.shaped(Shape::OnLvm));
}

#[test]
fn dracut_opens_a_root_with_lvm_in_it() {
    opens_by_itself(DRACUT_UKI.shaped(Shape::InLvm));
}

#[test]
fn a_whole_debian_with_initramfs_tools_and_grub_opens_its_root() {
    opens_by_itself(INITRAMFS_GRUB.shaped(Shape::Full));
}

#[test]
fn a_whole_debian_with_dracut_in_a_unified_kernel_image_opens_its_root() {
    opens_by_itself(DRACUT_UKI.shaped(Shape::Full));
}
