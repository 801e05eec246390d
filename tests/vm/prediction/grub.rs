//! GRUB with what Debian's own update-grub writes for two kernels: a submenu, and an environment
//! block that chooses.

use super::{Base, Foretold, Machine};
use crate::workshop::{Kernel, NEWER, OLDER, OTHER_INITRD, in_trixie, part, script, text};

const TREE_12: &str = "backports";
const TREE_13: &str = "trixie";
const OTHER_SETTING: &str = "GRUB_CMDLINE_LINUX=\"console=ttyS0 panic=-1 loglevel=3\"";
const SAVED: &str = "GRUB_DEFAULT=saved";
/// Sorts above both kernels, so that it becomes the first entry.
const THIRD_RELEASE: &str = "6.12.999+deb13-cloud-amd64";

/// GRUB 2.12 with the tpm module, as `grub-install --modules=tpm` makes it; the default is saved.
static TPM_MODULE: Base = Base::of(|| installed("13-tpm", NEWER).updated(TREE_13, &[SAVED]));
/// GRUB 2.12 as plain `grub-install` makes it: it measures nothing but the kernel that it loads.
static PLAIN: Base = Base::of(|| installed("13", NEWER).updated(TREE_13, &[]));
/// shim and the signed GRUB 2.12, Secure Boot off.
static UNCHECKED_SHIM: Base = Base::of(|| installed("13-shim", NEWER).updated(TREE_13, &[]));
/// shim and the signed GRUB 2.12, Secure Boot on.
static SHIM_13: Base = Base::of(|| installed("13-shim", NEWER).secured().updated(TREE_13, &[]));
/// shim and the signed GRUB 2.06, Secure Boot on: without it, that GRUB leaves no log.
static SHIM_12: Base = Base::of(|| installed("12-shim", NEWER).secured().updated(TREE_12, &[]));

/// A disk with this GRUB and two kernels, before update-grub.
fn installed(grub: &str, newer: Kernel) -> Machine {
    let machine = Machine::new();
    for folder in ["esp", "boot"] {
        machine.put(folder, &part(&format!("grub-{grub}/{folder}")));
    }
    for kernel in [newer, OLDER] {
        machine.add_kernel(kernel, &kernel.release());
    }
    machine
}

impl Machine {
    fn add_kernel(&self, kernel: Kernel, release: &str) {
        self.put(&format!("boot/vmlinuz-{release}"), &kernel.image());
        self.put(&format!("boot/initrd.img-{release}"), &kernel.initrd());
    }

    fn with_third_kernel(self) -> Self {
        self.add_kernel(OLDER, THIRD_RELEASE);
        self
    }

    /// With Microsoft's keys.
    fn secured(self) -> Self {
        self.with_secure_boot("microsoft-vars.fd")
    }

    /// Runs update-grub of a Debian tree, with lines for /etc/default/grub.
    fn updated(self, tree: &str, settings: &[&str]) -> Self {
        let boot = self.path("boot");
        let mut arguments = vec![tree, text(&boot)];
        arguments.extend(settings);
        script("update-grub", &arguments);
        self
    }

    fn with_variable(self, name: &str, value: &str) -> Self {
        let grubenv = self.path("boot/grub/grubenv");
        in_trixie(&["grub-editenv", text(&grubenv), "set", &format!("{name}={value}")]);
        self
    }
}

/// The older kernel, by the identifiers of its submenu and entry.
fn older_entry() -> String {
    let (kernel, root) = (OLDER.release(), "c0000000-0001-4000-8000-000000000001");
    format!("gnulinux-advanced-{root}>gnulinux-{kernel}-advanced-{root}")
}

#[test]
fn grub_with_another_command_line() {
    let next = installed("13-tpm", NEWER).updated(TREE_13, &[SAVED, OTHER_SETTING]);
    let measured = TPM_MODULE.foretells(&next, &[8, 9]);
    assert!(measured.command_line.contains("loglevel=3"));
}

#[test]
fn grub_with_another_initrd() {
    let next = installed("13-tpm", OTHER_INITRD).updated(TREE_13, &[SAVED]);
    TPM_MODULE.foretells(&next, &[9]);
}

#[test]
fn grub_with_a_third_kernel() {
    let next = installed("13-tpm", NEWER).with_third_kernel().updated(TREE_13, &[SAVED]);
    let measured = TPM_MODULE.foretells(&next, &[4, 8, 9]);
    assert!(measured.command_line.contains(THIRD_RELEASE));
}

#[test]
fn grub_with_a_saved_entry() {
    let next = TPM_MODULE.machine().with_variable("saved_entry", &older_entry());
    let measured = TPM_MODULE.foretells(&next, &[4, 8, 9]);
    assert!(measured.command_line.contains(&OLDER.release()));
}

/// The first boot takes `next_entry` out of the environment block, and both differ from the base.
#[test]
fn grub_with_a_next_entry_and_the_boot_after_it() {
    let next = TPM_MODULE.machine().with_variable("next_entry", &older_entry());
    let then = Foretold::by(&TPM_MODULE.machine(), TPM_MODULE.recording(), &next).then();
    let measured = TPM_MODULE.foretells(&next, &[4, 8, 9]);
    assert!(measured.command_line.contains(&OLDER.release()));

    let after = TPM_MODULE.machine();
    let left = measured.grubenv.expect("GRUB has an environment block");
    std::fs::write(after.path("boot/grub/grubenv"), left).unwrap();
    let measured = TPM_MODULE.foretells(&after, &[9]);
    assert!(measured.command_line.contains(&NEWER.release()));
    then.is(&measured);
}

#[test]
fn plain_grub_with_a_third_kernel() {
    let next = installed("13", NEWER).with_third_kernel().updated(TREE_13, &[]);
    PLAIN.foretells(&next, &[4, 9]);
}

#[test]
fn shim_and_grub_with_another_command_line() {
    let next = installed("13-shim", NEWER).updated(TREE_13, &[OTHER_SETTING]);
    UNCHECKED_SHIM.foretells(&next, &[8, 9]);
}

#[test]
fn secured_grub_with_another_default() {
    let next = installed("13-shim", NEWER).secured().updated(TREE_13, &["GRUB_DEFAULT=\"1>2\""]);
    let measured = SHIM_13.foretells(&next, &[4, 8, 9]);
    assert!(measured.command_line.contains(&OLDER.release()));
}

#[test]
fn secured_grub_2_06_with_another_command_line() {
    let next = installed("12-shim", NEWER).secured().updated(TREE_12, &[OTHER_SETTING]);
    SHIM_12.foretells(&next, &[8, 9]);
}

#[test]
fn secured_grub_2_06_with_another_default() {
    let next = installed("12-shim", NEWER).secured().updated(TREE_12, &["GRUB_DEFAULT=\"1>3\""]);
    let measured = SHIM_12.foretells(&next, &[4, 8, 9]);
    assert!(measured.command_line.contains(&OLDER.release()));
}
