//! Updates of an installed machine: approved before the reboot, it opens by itself; not approved, it
//! asks and says why.

use testkit::image::PASSPHRASE;

use super::installed::{Installed, LOGIN, PROMPT};
use super::kind::{DRACUT_UKI, INITRAMFS_GRUB, Kind, VOLUME_UUID};
use crate::console::Console;
use crate::guest::Boot;
use crate::machine::UKI;

/// Whatever a mini guest lacks to have a key of its own.
const IDENTITY: &str = "echo 0123456789abcdef0123456789abcdef >/etc/machine-id";
/// What a generator would write, as far as the kernel and the firmware see.
const UPDATE: &str = "for f in /boot/initrd.img-*; do cp $f /tmp/i; printf 'an update\\000\\000\\000' >>/tmp/i; cp /tmp/i $f; done";

fn enroll() -> String {
    format!(
        "vmseal enroll /dev/disk/by-uuid/{VOLUME_UUID} --policy authority --unlock-key-file /passphrase"
    )
}

/// A machine that approves its boots by its own key, after its first boot by passphrase.
pub fn enrolled(kind: Kind) -> Installed {
    let installed = Installed::new(kind);
    let boot = Boot::new().file("passphrase", PASSPHRASE.into()).run(IDENTITY).run(&enroll());
    let mut console = installed.boot(&boot);
    console.await_passphrase_prompt();
    console.enter(PASSPHRASE);
    console.await_text(LOGIN);
    console.exits(0);
    console.exits(0);
    console.await_off();
    installed
}

/// A boot in which nobody types.
pub fn opens<'a>(installed: &'a Installed, boot: &Boot) -> Console<'a> {
    let mut console = installed.boot(boot);
    assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
    console
}

/// A whole Debian after its first boot, by passphrase, in which it was prepared and enrolled.
pub fn enrolled_whole(kind: Kind, prepare: &str) -> Installed {
    let installed = Installed::new(kind);
    let mut console = installed.boot(&Boot::new());
    console.await_passphrase_prompt();
    console.enter(PASSPHRASE);
    console.await_text(kind.login());
    console.log_in();
    console.run(&format!("printf %s '{PASSPHRASE}' >/passphrase; {prepare}"));
    console.exits(0);
    console.run(&enroll());
    console.exits(0);
    console.power_off();
    installed
}

#[test]
fn an_approved_initramfs_opens_and_the_one_before_it_until_then() {
    let installed = enrolled(INITRAMFS_GRUB);
    let menu = String::from_utf8(installed.read("boot/grub/grub.cfg")).unwrap();
    let word = |line: &str| line.trim().strip_prefix("initrd").map(|path| path.trim().to_owned());
    let initrd = menu.lines().find_map(word).expect("an initrd in GRUB's menu");
    let initrd = format!("boot/{}", initrd.rsplit('/').next().unwrap());
    let before = installed.read(&initrd);

    let boot = Boot::new()
        .run("vmseal confirm")
        .run(UPDATE)
        .run("vmseal reseal --unattended")
        .run("vmseal built /boot/initrd.img-*")
        .run("vmseal reseal --unattended");
    let mut console = opens(&installed, &boot);
    console.exits_saying(0, "was opened by its TPM, as approved");
    console.exits(0);
    console.exits_saying(20, "vouched by nobody");
    console.exits(0);
    console.exits_saying(0, "approved: ");
    console.await_off();

    // Predicted is seen: else confirm would not know this boot.
    let boot = Boot::new().run("vmseal confirm").run("vmseal journal --verify");
    let mut console = opens(&installed, &boot);
    console.exits_saying(0, "withdrawn, since nothing starts it any more");
    console.exits(0);
    console.await_off();

    installed.write(&initrd, &before);
    let mut console = installed.boot(&Boot::new());
    let said = console.await_passphrase_prompt();
    assert!(said.contains("no signature covers sha256 PCR"), "{said}");
    assert!(said.contains("initrd"), "{said}");
}

/// Another unified kernel image in the place of the one that ran: what follows its sections counts for
/// the firmware.
#[test]
#[ignore = "slow: make vm-test-all"]
fn an_approved_unified_kernel_image_opens() {
    let installed = enrolled(DRACUT_UKI);
    let image = format!("/boot/efi/{}", UKI.strip_prefix("esp/").unwrap());
    let boot = Boot::new()
        .run(&format!("printf 'a change' >>{image}"))
        .run("vmseal reseal --unattended")
        .run(&format!("vmseal built {image}"))
        .run("vmseal reseal --unattended");
    let mut console = opens(&installed, &boot);
    console.exits(0);
    console.exits_saying(20, "vouched by nobody");
    console.exits(0);
    console.exits_saying(0, "approved: ");
    console.await_off();

    let mut console = opens(&installed, &Boot::new().run("vmseal confirm"));
    console.exits_saying(0, "withdrawn, since nothing starts it any more");
}
