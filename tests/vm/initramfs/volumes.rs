//! More than one volume.

use std::fs::File;
use std::process::Command;

use testkit::image::PASSPHRASE;
use testkit::run::run_with_input;

use super::REPORT;
use super::installed::{Installed, LOGIN, PROMPT};
use super::kind::{DATA_UUID, INITRAMFS_KERNEL, Shape, VOLUME_UUID};
use crate::guest::Boot;
use crate::workshop::text;

const DATA_PROMPT: &str = "Please unlock disk data";

fn enroll(uuid: &str) -> String {
    format!("vmseal enroll /dev/disk/by-uuid/{uuid} --unlock-key-file /passphrase")
}

/// One process opens both, and latches once: systemd's measurement of each is in PCR 15.
#[test]
fn two_volumes_open_in_one_boot() {
    let installed = Installed::new(INITRAMFS_KERNEL.shaped(Shape::Two));
    let boot = Boot::new().file("passphrase", PASSPHRASE.into());
    let boot = boot.run(&enroll(VOLUME_UUID)).run(&enroll(DATA_UUID));
    let mut console = installed.boot(&boot);
    for prompt in [PROMPT, DATA_PROMPT] {
        console.await_text(prompt);
        console.enter(PASSPHRASE);
    }
    console.await_text(LOGIN);
    console.exits(0);
    console.exits(0);
    console.await_off();
    let content = "mount -r /dev/mapper/data /mnt && cat /mnt/file";
    let mut console = installed.boot(&Boot::new().run(REPORT).run(content));
    let before = console.await_text(LOGIN);
    assert!(!before.contains("Please unlock"), "{before}");
    let report = console.exits(0);
    assert_eq!(report.matches("\"by\": \"tpm\"").count(), 2, "{report}");
    console.exits_saying(0, "what the second volume holds");
}

/// The encrypted root opens it, after the pivot, by a key file that nobody else can read.
#[test]
fn a_data_volume_opens_by_a_key_file_in_the_root() {
    let installed = Installed::enrolled(INITRAMFS_KERNEL);
    let data = installed.guest.file("data.img");
    File::create(&data).unwrap().set_len(32 << 20).unwrap();
    let format = ["luksFormat", "--batch-mode", "--type", "luks2", "--uuid", DATA_UUID];
    let mut cryptsetup = Command::new("cryptsetup");
    cryptsetup.args(format).args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
    let cryptsetup = cryptsetup.args(["--key-file", "-", text(&data)]);
    run_with_input(cryptsetup, PASSPHRASE.as_bytes()).ok();
    let attach = format!(
        "vmseal enroll --attach-to-root /dev/disk/by-uuid/{DATA_UUID} --name data --unlock-key-file /passphrase"
    );
    // What systemd does with the line of crypttab. No udev runs here that it could wait for.
    let open = "grep ^data /etc/crypttab | while read -r name source key options; do \
        DM_DISABLE_UDEV=1 systemd-cryptsetup attach $name /dev/disk/by-uuid/${source#UUID=} $key $options; done";
    let boot = Boot::new().file("passphrase", PASSPHRASE.into()).run(&attach);
    let boot = boot.run(open).run("test -e /dev/mapper/data").run("stat -c %a /etc/vmseal/keys/*");
    let mut console = installed.boot(&boot);
    console.await_text(LOGIN);
    console.exits(0);
    console.exits(0);
    console.exits(0);
    console.exits_saying(0, "400");
}
