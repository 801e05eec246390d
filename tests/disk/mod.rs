//! Disks of the recorded boots, with real loaders, modules and kernels, and the logs that their boots
//! leave: those that were recorded, with the digests of what lies on the disk.

// Each test takes what it needs.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::Disk;
use vmseal::artifact::hashing::digest;
use vmseal::artifact::pe::Pe;
use vmseal::files::FileSource;
use vmseal::measurement::{Digest, Event, EventData, EventLog, PcrBank, Tag};

use crate::guest::{fixture, kernel, replace};

/// systemd-boot with kernel and initrd as files.
pub const SDBOOT: &str = "sdboot/base";
/// GRUB that measures what it reads, before and after a kernel was installed.
pub const GRUB: &str = "grub-tpm-deb13/base";
pub const GRUB_KERNEL: &str = "grub-tpm-deb13/kernel3";
/// GRUB that measures nothing, before and after.
pub const PLAIN_GRUB: &str = "grub-real-deb13/base";
pub const PLAIN_GRUB_KERNEL: &str = "grub-real-deb13/kernel3";

pub const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";

/// A file of the Debian tree that the kernel is from.
pub fn debian(path: &str) -> PathBuf {
    kernel().parent().unwrap().join("..").join(path)
}

/// The disk of a case, its initrds of this content.
pub fn disk(case: &str, initrd: &[u8]) -> Disk {
    match case.starts_with("sdboot") {
        true => systemd_boot(case, initrd),
        false => grub(case, initrd),
    }
}

fn systemd_boot(case: &str, initrd: &[u8]) -> Disk {
    let mut disk = Disk::default();
    let mut put = |path: &str, bytes: Vec<u8>| disk.esp.insert(path.to_owned(), bytes);
    // The very one of the recorded boots.
    put(LOADER, fs::read(debian("usr/lib/systemd/boot/efi/systemd-bootx64.efi")).unwrap());
    for path in ["loader/loader.conf", "loader/entries/deb.conf"] {
        put(path, fs::read(fixture(case).join("esp").join(path)).unwrap());
    }
    put("deb/vmlinuz", fs::read(kernel()).unwrap());
    put("deb/initrd", initrd.to_vec());
    disk
}

fn grub(case: &str, initrd: &[u8]) -> Disk {
    let mut disk = Disk::default();
    let image = fs::read(debian("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")).unwrap();
    disk.esp.insert(LOADER.to_owned(), image);
    let mut put = |path: String, bytes: Vec<u8>| disk.boot.insert(path, bytes);
    let modules = "usr/lib/grub/x86_64-efi";
    for entry in fs::read_dir(debian(modules)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".mod") {
            put(format!("grub/x86_64-efi/{name}"), fs::read(&path).unwrap());
        }
    }
    put(
        "grub/fonts/unicode.pf2".to_owned(),
        fs::read(debian("usr/share/grub/unicode.pf2")).unwrap(),
    );
    let inputs = fixture(case).join("inputs/boot");
    put_tree(&inputs.join("grub"), "grub", &mut put);
    let known = fs::read(fixture(case).join("artifacts.json")).unwrap();
    let known: Value = serde_json::from_slice(&known).unwrap();
    for path in known.as_object().unwrap().keys() {
        let Some(name) = path.strip_prefix("boot/") else { continue };
        if name.starts_with("vmlinuz") {
            // Each version is another kernel.
            put(
                name.to_owned(),
                [fs::read(kernel()).unwrap(), format!("{name:>64}").into()].concat(),
            );
        } else if name.starts_with("initrd") {
            put(name.to_owned(), [initrd, name.as_bytes()].concat());
        }
    }
    disk
}

fn put_tree(from: &Path, to: &str, put: &mut impl FnMut(String, Vec<u8>) -> Option<Vec<u8>>) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{to}/{}", path.file_name().unwrap().to_str().unwrap());
        match path.is_dir() {
            true => put_tree(&path, &name, put),
            false => drop(put(name, fs::read(&path).unwrap())),
        }
    }
}

/// The log of a recorded boot, had it read this disk.
pub fn log(case: &str, disk: &Disk, path: PathBuf) -> PathBuf {
    let mut bytes = fs::read(fixture(case).join("log.bin")).unwrap();
    let log = EventLog::parse(&bytes).unwrap();
    let cmdline = fs::read_to_string(fixture(case).join("cmdline")).unwrap();
    let (kernel, initrd) = match cmdline.strip_prefix("BOOT_IMAGE=/") {
        Some(rest) => {
            let kernel = rest.split(' ').next().unwrap();
            let initrd = kernel.replace("vmlinuz", "initrd.img");
            (&disk.boot[kernel], &disk.boot[&initrd])
        }
        None => (&disk.esp["deb/vmlinuz"], &disk.esp["deb/initrd"]),
    };
    let mut done = vec![];
    for event in log.events() {
        let content = match event.data() {
            EventData::GrubFile { path } => {
                let path = path.as_str().trim_start_matches("(hd0,gpt2)").to_owned();
                disk.boot.get(path.trim_start_matches('/')).map(|it| (it, false))
            }
            data if data.has_tag(Tag::LinuxInitrd) => Some((initrd, false)),
            data => image(disk, kernel, event, &data).map(|it| (it, true)),
        };
        let Some((content, is_image)) = content else { continue };
        for old in event.known_digests() {
            let new = match is_image {
                true => authenticode(content, old.bank()),
                false => old.bank().hash(content),
            };
            // GRUB and the kernel measure the same initrd.
            if new != old && !done.contains(&old) {
                done.push(old);
                replace(&mut bytes, old, new);
            }
        }
    }
    fs::write(&path, bytes).unwrap();
    path
}

fn image<'a>(
    disk: &'a Disk,
    kernel: &'a Vec<u8>,
    event: &Event,
    data: &EventData,
) -> Option<&'a Vec<u8>> {
    let words = data.to_string();
    if event.pcr != 4 || !words.starts_with("image") {
        return None;
    }
    let is_kernel = words.contains("MemoryMapped") || words.contains("vmlinuz");
    Some(if is_kernel { kernel } else { &disk.esp[LOADER] })
}

fn authenticode(bytes: &[u8], bank: PcrBank) -> Digest {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let source = FileSource::open(file.path()).unwrap();
    let pe = Pe::parse(&source).unwrap();
    digest(&[pe.authenticode(&source)], &[bank]).unwrap()[0][0]
}
