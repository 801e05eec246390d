//! A host that gives its machines their kernel approves their boots from outside, and hands the
//! signatures over by QEMU's firmware configuration or on a disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use testkit::image::PASSPHRASE;
use testkit::{Ran, run};

use super::installed::{Installed, LOGIN, PROMPT};
use super::kind::{DRACUT_KERNEL, INITRAMFS_KERNEL, Kind, VOLUME_UUID};
use crate::guest::Boot;
use crate::machine::Machine;
use crate::workshop::{NEWER, text};

/// `vmseal` on the host whose files lie in a folder.
fn vmseal(folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
    run(command.args(arguments).arg("--root").arg(folder))
}

#[test]
fn a_host_approves_another_kernel_and_the_machine_opens_its_root() {
    opens_after_one_reseal(INITRAMFS_KERNEL, "fw_cfg");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_host_approves_another_kernel_for_dracut_too() {
    opens_after_one_reseal(DRACUT_KERNEL, "fw_cfg");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_host_hands_over_a_disk() {
    opens_after_one_reseal(INITRAMFS_KERNEL, "disk");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_host_hands_over_a_disk_for_dracut_too() {
    opens_after_one_reseal(DRACUT_KERNEL, "disk");
}

#[track_caller]
fn opens_after_one_reseal(kind: Kind, delivery: &str) {
    let installed = Installed::new(kind);
    let host = TempDir::with_prefix("vmseal-host-").unwrap();
    vmseal(host.path(), &["authority", "init", "debian"]).ok();
    let public = vmseal(host.path(), &["authority", "export", "debian"]).ok().stdout;

    // The reference is a machine that the host throws away, with another kernel and other words.
    let log = host.path().join("reference.log");
    fs::write(&log, Machine::with_kernel(NEWER, "console=ttyS0 panic=-1").record().log).unwrap();
    let [kernel, initrd] = ["kernel", "initrd"].map(|file| installed.machine.path(file));
    let template = format!(
        "boot = \"kernel\"\nkernel = \"{}\"\ninitrd = \"{}\"\ncmdline = \"{}\"\n\
         memory = [512, 1024]\n[[reference]]\nlog = \"{}\"\nmemory = 512\n\
         [[vm]]\nname = \"policy\"\n[delivery]\nkind = \"{delivery}\"\nfolder = \"{}\"\n",
        text(&kernel),
        text(&initrd),
        installed.machine.command_line.as_deref().unwrap(),
        text(&log),
        text(installed.guest.file("policy.json").parent().unwrap()),
    );
    let templates = host.path().join("etc/vmseal/templates.d");
    fs::create_dir_all(&templates).unwrap();
    fs::write(templates.join("debian.toml"), template).unwrap();

    // The machine knows the public half of the key only.
    let enroll = format!(
        "vmseal enroll /dev/disk/by-uuid/{VOLUME_UUID} --policy authority \
         --authority-public /key --unlock-key-file /passphrase"
    );
    let boot = Boot::new()
        .file("passphrase", PASSPHRASE.into())
        .file("key", public.into_bytes())
        .run(&enroll);
    let mut console = installed.boot(&boot);
    console.await_passphrase_prompt();
    console.enter(PASSPHRASE);
    console.await_text(LOGIN);
    console.exits(0);
    console.await_off();
    let reseal = || vmseal(host.path(), &["reseal", "--template", "debian", "--yes"]);
    reseal().ok();

    // Both are other files now, to the kernel the same.
    for (file, bytes) in [(&kernel, 16), (&initrd, 4)] {
        let mut content = fs::read(file).unwrap();
        content.extend(vec![0; bytes]);
        fs::write(file, content).unwrap();
    }
    let mut console = installed.boot(&Boot::new());
    let refusal = console.await_passphrase_prompt();
    assert!(refusal.contains("no signature covers sha256 PCR 0+4+7+9"), "{refusal}");
    drop(console);

    let header = |file: &Path| fs::read(file).unwrap()[..16 << 20].to_vec();
    let volume = installed.guest.volume();
    let before = header(&volume);
    reseal().ok().says("changes: PCR 4+9");
    assert!(header(&volume) == before, "the host wrote to the disk");
    let mut console = installed.boot(&Boot::new().run("cat /run/vmseal/boot.json"));
    assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
    console.exits_saying(0, "\"by\": \"tpm\"");
    console.await_off();
    assert!(header(&volume) == before, "the header was written");
}
