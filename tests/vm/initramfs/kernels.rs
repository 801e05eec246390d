//! Upgrades of the kernel by the packages and hooks of a whole Debian.

use super::installed::{Installed, PROMPT};
use super::kind::{DRACUT_SYSTEMD_BOOT, INITRAMFS_GRUB, Kind, Shape};
use super::updates::enrolled_whole;
use crate::console::Console;
use crate::guest::Boot;

/// The package of the kernel after the one that runs at first.
const UPGRADE: &str = "dpkg -i /var/cache/vmseal-test/*.deb";
const NEW_RUNS: &str = "test \"$(uname -r)\" = \"$(ls /lib/modules | sort -V | tail -n 1)\"";
const OLD_RUNS: &str = "test \"$(uname -r)\" != \"$(ls /lib/modules | sort -V | tail -n 1)\"";
/// In the next boot only: the second kernel of the submenu, after the first one's recovery mode.
const OLD_ONCE: &str = "grub-reboot '1>2'";
/// Waits for the service.
const CONFIRMED: &str = "systemctl start vmseal-confirm; journalctl -b -o cat -u vmseal-confirm";

fn set_grub(words: &str) -> String {
    let settings = "GRUB_DEFAULT=saved GRUB_TIMEOUT=0 GRUB_CMDLINE_LINUX_DEFAULT=quiet";
    format!(
        "printf '%s\\n' {settings} 'GRUB_CMDLINE_LINUX=\"{words}\"' >/etc/default/grub; update-grub"
    )
}

/// A boot by the TPM alone, which was approved as it was; root has logged in. What the service said.
fn opened(installed: &Installed, kind: Kind) -> (Console<'_>, String) {
    let mut console = installed.boot(&Boot::new());
    assert_eq!(console.either(PROMPT, kind.login()), kind.login());
    console.log_in();
    console.run(CONFIRMED);
    let said = console.exits(0);
    assert!(said.contains("was opened by its TPM, as approved"), "{said}");
    (console, said)
}

/// Upgrades, and finds it approved by the configuration alone, for who vouches for it.
#[track_caller]
fn upgrade(console: &mut Console<'_>, vouchers: &[&str]) {
    console.run(UPGRADE);
    let said = console.exits(0);
    assert!(!said.contains("will ask for the passphrase"), "{said}");
    console.run("vmseal journal --json");
    let journal = console.exits(0);
    for word in vouchers.iter().chain(&["configuration"]) {
        assert!(journal.contains(word), "{word}: {journal}");
    }
}

/// Kernel, initramfs and menu by Debian's own hooks, until the old kernel is retired.
#[test]
fn a_whole_debian_upgrades_its_kernel_and_retires_the_old_one() {
    let kind = INITRAMFS_GRUB.shaped(Shape::Full);
    let installed = enrolled_whole(kind, &set_grub("console=ttyS0"));

    let (mut console, _) = opened(&installed, kind);
    upgrade(&mut console, &["vouched by package linux-image-", "built by this machine's hook"]);
    console.power_off();

    let (mut console, said) = opened(&installed, kind);
    assert!(!said.contains("withdrawn"), "{said}");
    console.run(NEW_RUNS);
    console.exits(0);
    retired(console, &installed);
}

/// What the boot of the new kernel leaves to the old one.
fn retired(mut console: Console<'_>, installed: &Installed) {
    console.run("vmseal reseal --narrow --yes");
    console.exits_saying(0, "no longer opens for ");
    console.run(&format!("{OLD_ONCE} && vmseal status"));
    console.exits_saying(0, "withdrawn still opens for whoever kept its signature");
    console.power_off();

    let mut console = installed.boot(&Boot::new());
    let said = console.await_passphrase_prompt();
    assert!(said.contains("no signature covers sha256 PCR 0+4+7+9 as they are now"), "{said}");
    assert!(said.contains("Nobody approved this boot of kernel 6."), "{said}");
    assert!(said.contains("or the approval was withdrawn"), "{said}");
}

/// The same, with the old kernel picked from the menu in between, and updates of the initramfs and of
/// the menu.
#[test]
#[ignore = "slow: make vm-test-all"]
fn a_whole_debian_goes_back_to_its_old_kernel_and_changes_its_menu() {
    let kind = INITRAMFS_GRUB.shaped(Shape::Full);
    let installed = enrolled_whole(kind, &set_grub("console=ttyS0"));

    let (mut console, _) = opened(&installed, kind);
    upgrade(&mut console, &["vouched by package linux-image-", "built by this machine's hook"]);
    console.run(OLD_ONCE);
    console.exits(0);
    console.power_off();

    let (mut console, said) = opened(&installed, kind);
    assert!(!said.contains("withdrawn"), "{said}");
    console.run(&format!("{OLD_RUNS} && echo loop >>/etc/initramfs-tools/modules"));
    console.exits(0);
    console.run("update-initramfs -u");
    let said = console.exits(0);
    assert!(!said.contains("will ask for the passphrase"), "{said}");
    // Whoever else writes the menu gets nothing approved; update-grub asks who runs it.
    console.run("sed -i 's/ ro / ro debug /' /boot/grub/grub.cfg; vmseal reseal --unattended");
    console.exits_saying(20, "the command line changed");
    console.run(&set_grub("console=ttyS0 mitigations=auto"));
    console.await_text("Approve this? [y/N] ");
    console.enter("y");
    console.await_text("approved: ");
    console.await_text("rig: exit 0\n");
    console.power_off();

    let (mut console, said) = opened(&installed, kind);
    assert!(said.contains("withdrawn, since nothing starts it any more"), "{said}");
    console.run(&format!("{NEW_RUNS} && grep mitigations=auto /proc/cmdline"));
    console.exits(0);
    retired(console, &installed);

    // Whatever keeps the hook from resealing, the kernel's package does not fail.
    let (mut console, _) = opened(&installed, kind);
    console.run(
        "echo nonsense >/etc/vmseal/reseal.conf; sed -i s/=auto/=off/ /etc/default/grub; \
         dpkg -P linux-image-$(ls /lib/modules | sort -V | head -n 1)",
    );
    console.exits_saying(0, "the boots that are new will ask for the passphrase");
    console.run("rm /etc/vmseal/reseal.conf; vmseal reseal --yes && vmseal journal --verify");
    console.exits_saying(0, "approved: ");
    console.power_off();
}

/// The image that systemd-boot starts in the next boot only.
const OLD_IMAGE_ONCE: &str =
    "bootctl set-oneshot $(cd /boot/efi/EFI/Linux && ls *.efi | sort -V | head -n 1)";

/// The same by kernel-install: dracut, ukify, systemd-boot.
#[test]
#[ignore = "slow: make vm-test-all"]
fn a_whole_debian_upgrades_its_unified_kernel_image() {
    let kind = DRACUT_SYSTEMD_BOOT.shaped(Shape::Full);
    let installed = enrolled_whole(kind, "cat /proc/cmdline >/etc/kernel/cmdline");

    let (mut console, _) = opened(&installed, kind);
    upgrade(&mut console, &["built by this machine's hook"]);
    console.power_off();

    let (mut console, said) = opened(&installed, kind);
    assert!(!said.contains("withdrawn"), "{said}");
    console.run(&format!("{NEW_RUNS} && {OLD_IMAGE_ONCE}"));
    console.exits(0);
    console.power_off();

    let (mut console, said) = opened(&installed, kind);
    assert!(!said.contains("withdrawn"), "{said}");
    console.run(OLD_RUNS);
    console.exits(0);
    // Another command line is another image, built here all the same: it is not approved unasked.
    console.run(
        "echo \"$(cat /proc/cmdline) debug\" >/etc/kernel/cmdline; release=$(ls /lib/modules | sort -V | tail -n 1); \
         kernel-install add $release /boot/vmlinuz-$release; cat /run/motd.d/vmseal-next",
    );
    console.exits_saying(0, "may ask for the passphrase");
    console.run("vmseal reseal --yes");
    console.exits_saying(0, "approved: ");
    console.power_off();

    let (mut console, _) = opened(&installed, kind);
    console.run(&format!("{NEW_RUNS} && grep debug /proc/cmdline && vmseal reseal --narrow --yes"));
    console.exits_saying(0, "no longer opens for ");
    console.run(OLD_IMAGE_ONCE);
    console.exits(0);
    console.power_off();

    let mut console = installed.boot(&Boot::new());
    let said = console.await_passphrase_prompt();
    assert!(
        said.contains("no signature covers sha256 PCR 0+4+7+11+12+13 as they are now"),
        "{said}"
    );
    assert!(said.contains("or the approval was withdrawn"), "{said}");
    drop(console);

    let (mut console, _) = opened(&installed, kind);
    console.run("dpkg -P linux-image-$(ls /lib/modules | sort -V | head -n 1)");
    let said = console.exits(0);
    assert!(!said.contains("will ask for the passphrase"), "{said}");
    console.run("ls /boot/efi/EFI/Linux | wc -l; vmseal reseal --yes && vmseal journal --verify");
    console.exits_saying(0, "approved already");
    console.power_off();
}
