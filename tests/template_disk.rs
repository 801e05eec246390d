//! `vmseal reseal --template` for machines that start from their own disk or from a unified kernel
//! image: what lies on the disk is read by a confined process, and what it tells is signed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod guest;
mod host;

use std::fs;
use std::path::PathBuf;

use guest::{fixture, kernel, replace};
use host::{Host, machine, opens};
use testkit::Disk;
use vmseal::artifact::hashing::digest;
use vmseal::artifact::pe::Pe;
use vmseal::files::FileSource;
use vmseal::measurement::{EventLog, Tag};

const SDBOOT: &str = "sdboot/base";
const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";

/// systemd-boot, which is the very one of the recorded boots.
fn systemd_boot() -> Vec<u8> {
    // The kernel's tree, which is there once it is asked for.
    let tree = kernel().parent().unwrap().join("..");
    fs::read(tree.join("usr/lib/systemd/boot/efi/systemd-bootx64.efi")).unwrap()
}

/// A disk with systemd-boot, an entry and its files.
fn sdboot(case: &str, initrd: &[u8]) -> Disk {
    let mut disk = Disk::default();
    let mut put = |path: &str, bytes: Vec<u8>| disk.esp.insert(path.to_owned(), bytes);
    put(LOADER, systemd_boot());
    for path in ["loader/loader.conf", "loader/entries/deb.conf"] {
        put(path, fs::read(fixture(case).join("esp").join(path)).unwrap());
    }
    put("deb/vmlinuz", fs::read(kernel()).unwrap());
    put("deb/initrd", initrd.to_vec());
    disk
}

/// The log of a recorded boot, had it read this kernel and this initrd.
fn log(host: &Host, case: &str, name: &str, initrd: &[u8]) -> PathBuf {
    let mut bytes = fs::read(fixture(case).join("log.bin")).unwrap();
    let log = EventLog::parse(&bytes).unwrap();
    let is_initrd = log.events().iter().find(|event| event.data().has_tag(Tag::LinuxInitrd));
    for old in is_initrd.unwrap().known_digests() {
        replace(&mut bytes, old, old.bank().hash(initrd));
    }
    let image = |event: &&vmseal::measurement::Event| {
        event.pcr == 4 && event.data().to_string().starts_with("image")
    };
    let file = FileSource::open(&kernel()).unwrap();
    let pe = Pe::parse(&file).unwrap();
    for old in log.events().iter().rfind(image).unwrap().known_digests() {
        let new = digest(&[pe.authenticode(&file)], &[old.bank()]).unwrap()[0][0];
        replace(&mut bytes, old, new);
    }
    let path = host.path(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn one_reseal_opens_every_copy_of_a_disk() {
    let host = Host::new();
    let public = host.authority("debian");
    let image = host.path("debian.img");
    let (old, new) = (b"an initrd".as_slice(), b"another initrd".as_slice());
    sdboot(SDBOOT, old).write(&image);
    let before = log(&host, SDBOOT, "before.bin", old);
    host.template_of(
        "debian",
        &format!("boot = \"disk\"\nimage = {image:?}\n"),
        &before,
        host::VMS,
    );
    let mut machines = ["a", "b", "c"].map(|name| (name, machine(&public, SDBOOT)));
    let file = |name: &str| host.delivery("debian").join(format!("{name}.json"));
    host.reseal(&["--template", "debian"]).code(20);
    assert!(!file("a").exists());
    host.reseal(&["--template", "debian", "--yes"]).ok();
    let headers = machines.each_mut().map(|(name, machine)| {
        machine.boot_log(before.clone());
        opens(machine, &file(name)).ok();
        machine.image.snapshot()
    });
    // The template's disk is updated: no copy of it opens before that is approved.
    sdboot(SDBOOT, new).write(&image);
    let after = log(&host, SDBOOT, "after.bin", new);
    for (name, machine) in &mut machines {
        machine.boot_log(after.clone());
        opens(machine, &file(name)).refused(19).says("pcr 9");
    }
    let ran = host.reseal(&["--template", "debian", "--yes"]).ok();
    assert!(ran.stderr.contains("changes of deb.conf: PCR 9\n"), "{ran:#?}");
    assert!(ran.stderr.contains("from /deb/initrd"), "{ran:#?}");
    for ((name, machine), header) in machines.iter().zip(&headers) {
        opens(machine, &file(name)).ok();
        assert!(machine.image.snapshot() == *header, "the header of {name} was written");
    }
    // A copy whose entry has other words is none.
    let other = fixture("sdboot/cmdline").join("log.bin");
    machines[2].1.boot_log(other);
    opens(&machines[2].1, &file("c")).refused(19);
    host.reseal(&["--template", "debian"]).ok();
}
