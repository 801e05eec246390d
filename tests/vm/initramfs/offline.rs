//! A disk that was sealed before its machine was ever on, by a host that knows the public half of the
//! machine's storage root key and measured the boot itself.

use std::fs;

use testkit::Swtpm;
use testkit::image::PASSPHRASE;

use super::host::{Host, LIMIT, Reference};
use super::installed::Installed;
use super::kind::INITRAMFS_KERNEL;
use crate::workshop::text;

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_disk_that_was_sealed_by_its_host_opens_at_its_first_boot_ever() {
    let host = Host::new(
        Installed::new(INITRAMFS_KERNEL),
        "memory = [1024]",
        &Reference::Booted,
        "fw_cfg",
    );
    host.reference_boot(LIMIT).ok();
    let guest = &host.installed.guest;
    let srk = Swtpm::on_state(&guest.file("tpm")).make_srk(host.folder.path(), "ecc256");

    let references = host.folder.path().join("var/lib/vmseal/references/debian");
    let mut files = fs::read_dir(references).unwrap().map(|entry| entry.unwrap().path());
    let log = files.find(|file| file.extension().is_some_and(|ending| ending == "log")).unwrap();
    let [public, key_file, pins] =
        ["debian.pub", "key-file", "pins.json"].map(|name| host.folder.path().join(name));
    fs::write(&public, host.vmseal(&["authority", "export", "debian"]).ok().stdout).unwrap();
    fs::write(&key_file, PASSPHRASE).unwrap();
    let (volume, there) = (guest.volume(), ["--srk-public", text(&srk), "--eventlog", text(&log)]);
    let signed = ["--authority-public", text(&public), "--pins", text(&pins)];
    let enroll = ["enroll", text(&volume), "--unlock-key-file", text(&key_file)];
    host.vmseal(&[&enroll[..], &there, &signed].concat()).ok();

    host.reseal().ok();
    host.opens(&host.installed.hardware());
}
