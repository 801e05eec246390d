//! The same disk in an initrd without vmseal: stock systemd-cryptsetup opens what vmseal sealed.

use std::fs;
use std::path::Path;

use testkit::image::PASSPHRASE;
use testkit::tool;

use super::installed::{Installed, LOGIN};
use super::kind::{DRACUT_KERNEL, Kind, Unlocker};
use crate::guest::Boot;
use crate::workshop::text;

const STOCK_PROMPT: &str = "Please enter passphrase for disk";
const WORDS: &str = " rd.luks.options=tpm2-device=auto";

/// Each of the two boots has a keyslot of its own, enrolled from inside itself, and opens after the
/// other was enrolled too.
#[test]
fn a_disk_opens_with_vmseal_and_with_stock_systemd() {
    let vmseal = Installed::enrolled(DRACUT_KERNEL);
    let stock = Installed::with_words(Kind { unlocker: Unlocker::Systemd, ..DRACUT_KERNEL }, WORDS);
    give(&vmseal, &stock);
    let enroll = "vmseal enroll /dev/volume --this-boot --unlock-key-file /passphrase";
    let boot = Boot::new().file("passphrase", PASSPHRASE.into()).run(enroll);
    let mut console = stock.boot(&boot.run("test -e /run/vmseal/boot.json"));
    console.await_text(STOCK_PROMPT);
    console.enter(PASSPHRASE);
    console.await_text(LOGIN);
    console.exits_saying(0, "kept keyslot 1");
    console.exits(1);
    console.await_off();

    let mut console = stock.boot(&Boot::new());
    assert_eq!(console.either(STOCK_PROMPT, LOGIN), LOGIN);
    drop(console);
    give(&stock, &vmseal);
    let mut console = vmseal.boot(&Boot::new());
    assert_eq!(console.either("Please unlock disk", LOGIN), LOGIN);
}

/// The disk and the TPM of a machine that is off, in the place of another's.
fn give(from: &Installed, to: &Installed) {
    fs::copy(from.guest.volume(), to.guest.volume()).unwrap();
    let [old, new]: [&Path; 2] = [&to.guest.file("tpm"), &from.guest.file("tpm")];
    fs::remove_dir_all(old).unwrap();
    tool("cp", &["-a", text(new), text(old)]);
}
