//! `vmseal reseal --template` for machines whose firmware starts a unified kernel image that the host
//! builds: one image for all, its command line in it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod guest;
mod host;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use guest::{fixture, kernel, replace};
use host::{Host, VMS, machine, opens};
use testkit::{Systemd, run};
use vmseal::artifact::Pending;
use vmseal::artifact::stub::StubBoot;
use vmseal::artifact::uki::Uki;
use vmseal::files::FileSource;
use vmseal::measurement::{Digest, Event, EventLog, PcrIndex};

const BASE: &str = "uki/base";

/// An image of these parts, by ukify.
fn ukify(host: &Host, name: &str, cmdline: &str, initrd: &[u8]) -> PathBuf {
    let (image, parts) = (host.path(name), host.path("parts"));
    fs::create_dir_all(&parts).unwrap();
    let part = |name: &str, bytes: &[u8]| {
        fs::write(parts.join(name), bytes).unwrap();
        format!("--{name}={}", parts.join(name).display())
    };
    let os_release = format!("--os-release=@{}", parts.join("osrel").display());
    fs::write(parts.join("osrel"), "ID=test\n").unwrap();
    let mut command = Systemd::Trixie.command("ukify");
    command.arg("build").arg(format!("--output={}", image.display())).arg(os_release);
    command.arg(part("initrd", initrd)).arg(format!("--cmdline={cmdline}"));
    // Debian's kernel tells its version to whoever asks.
    command.arg(part("linux", &fs::read(kernel()).unwrap()));
    run(&mut command).ok();
    image
}

/// The log of the recorded boot, had it started this image.
fn log(host: &Host, image: &Path, name: &str) -> PathBuf {
    let mut bytes = fs::read(fixture(BASE).join("log.bin")).unwrap();
    let log = EventLog::parse(&bytes).unwrap();
    let source = FileSource::open(image).unwrap();
    let image = Uki::open(&source).unwrap();
    let boot = StubBoot {
        image: &image,
        load_options: vec![],
        secure_boot: false,
        smbios_cmdline: None,
        own: vec![],
        addons: vec![],
        credentials: vec![],
        extensions: vec![],
    };
    let mut pending = vec![image.image()];
    pending.extend(boot.events().unwrap());
    let measured = Pending::measure(&pending, &log.banks()).unwrap();
    let is_image =
        |event: &Event| event.pcr == 4 && event.data().to_string().contains("BOOTX64.EFI");
    let first = log.events().iter().position(is_image).unwrap();
    let is_exit = |event: &Event| event.data().to_string().contains("Exit Boot Services");
    let last = log.events().iter().position(is_exit).unwrap();
    let mut old = BTreeMap::<u32, Vec<Digest>>::new();
    for event in &log.events()[first..last] {
        old.entry(event.pcr).or_default().extend(event.known_digests());
    }
    let mut new = BTreeMap::<u32, Vec<Digest>>::new();
    for event in &measured {
        let digests: &mut Vec<_> = new.entry(PcrIndex::get(event.pcr).into()).or_default();
        digests.extend(log.banks().iter().map(|bank| event.digest(*bank).unwrap()));
    }
    let shape = |all: &BTreeMap<u32, Vec<Digest>>| -> Vec<_> {
        all.iter().map(|(pcr, digests)| (*pcr, digests.len())).collect()
    };
    assert_eq!(shape(&old), shape(&new), "the image measures as the recorded one does");
    let changed = old.into_values().flatten().zip(new.into_values().flatten());
    let mut done = vec![];
    for (old, new) in changed {
        // Each name of a section is measured as before.
        if old != new && !done.contains(&old) {
            replace(&mut bytes, old, new);
            done.push(old);
        }
    }
    let path = host.path(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn template(host: &Host, image: &Path, log: &Path, machines: &str) {
    host.template_of("debian", &format!("boot = \"uki\"\nuki = {image:?}\n"), log, machines);
}

#[test]
fn an_image_that_replaces_the_one_that_ran_opens_once_it_is_approved() {
    let host = Host::new();
    let public = host.authority("debian");
    let old = ukify(&host, "old.efi", "root=/dev/mapper/root ro", b"an initrd");
    let reference = log(&host, &old, "reference.bin");
    template(&host, &old, &reference, VMS);
    host.reseal(&["--template", "debian", "--yes"]).ok();
    let file = |name: &str| host.delivery("debian").join(format!("{name}.json"));
    let mut machines = ["a", "b", "c"].map(|name| (name, machine(&public, BASE)));
    let headers = machines.each_mut().map(|(name, machine)| {
        machine.boot_log(reference.clone());
        opens(machine, &file(name)).ok();
        machine.image.snapshot()
    });
    let new = ukify(&host, "new.efi", "root=/dev/mapper/root ro quiet", b"another initrd");
    let updated = log(&host, &new, "updated.bin");
    template(&host, &new, &reference, VMS);
    for (name, machine) in &mut machines {
        machine.boot_log(updated.clone());
        opens(machine, &file(name)).code(19);
    }
    let ran = host.reseal(&["--template", "debian", "--yes"]).ok();
    ran.says(" -> .cmdline: root=/dev/mapper/root ro quiet ").says("PCR 11 .initrd");
    for ((name, machine), header) in machines.iter().zip(&headers) {
        opens(machine, &file(name)).ok();
        assert!(machine.image.snapshot() == *header, "the header of {name} was written");
    }
}

/// libvirt describes a machine that starts from its disk without a kernel.
#[test]
fn a_machine_of_libvirt_that_starts_its_image_is_checked_as_any_other() {
    let host = Host::new();
    host.authority("debian");
    let image = ukify(&host, "image.efi", "ro", b"an initrd");
    let reference = log(&host, &image, "reference.bin");
    template(&host, &image, &reference, VMS);
    let check = |domain: &str, name: &str| {
        let xml = fixture("../domains").join(format!("{domain}.xml"));
        let xml = fs::read_to_string(xml).unwrap();
        let xml = xml.replace(&format!("<name>{domain}<"), &format!("<name>{name}<"));
        fs::write(host.path("domain.xml"), xml).unwrap();
        let path = host.path("domain.xml");
        host.vmseal(&["template", "check", "--libvirt", path.to_str().unwrap()])
    };
    check("disk", "a").code(20).says("a of template debian would not open");
    host.reseal(&["--template", "debian", "--yes"]).ok();
    check("disk", "a").ok();
    // One that is given a kernel is not started as the template tells.
    let ran = check("web1", "a").code(20);
    assert!(ran.stdout.contains("its host gives it a kernel"), "{ran:#?}");
    check("disk", "d").code(20).says("no template has a machine of the name d");
    check("bios", "a").code(20).says("it starts with a BIOS");
}

#[test]
fn what_an_image_does_not_tell_is_refused() {
    let host = Host::new();
    host.authority("debian");
    let image = ukify(&host, "image.efi", "ro", b"an initrd");
    let reference = log(&host, &image, "reference.bin");
    let refused = |log: &Path, machines: &str, code: i32, why: &str| {
        template(&host, &image, log, machines);
        host.reseal(&["--template", "debian", "--yes"]).code(code).says(why);
        assert!(!host.delivery("debian").exists(), "{why}");
    };
    let own = "[[vm]]\nname = \"d\"\ncmdline = \"systemd.hostname=d\"\n";
    refused(&reference, own, 20, "it cannot have words of its own");
    let entry = fixture("sdboot/base").join("log.bin");
    refused(&entry, VMS, 3, "started no unified kernel image");
    // What lay beside the image in the reference boot is not told.
    let addon = fixture("sdboot-deb13/uki-addon").join("log.bin");
    refused(&addon, VMS, 20, "PCR 12 of the next boot cannot be told");
    let whole = fs::read(&image).unwrap();
    for (bytes, why) in [
        (&b"MZ"[..], "BOOTX64.EFI"),
        (&whole[..whole.len() / 2], "cannot be told"),
        (b"", "cannot be told"),
    ] {
        fs::write(&image, bytes).unwrap();
        refused(&reference, VMS, 20, why);
    }
    fs::remove_file(&image).unwrap();
    refused(&reference, VMS, 3, "image.efi: No such file");
}
