//! Reference boots of machines that start from a disk: what the host measured by itself is what the
//! machines measure.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use testkit::tool;

use super::host::{Host, LIMIT, Reference};
use super::installed::{ESP_OFFSET, Installed};
use super::kind::{DRACUT_UKI, INITRAMFS_GRUB, Kind};
use crate::machine::UKI;
use crate::workshop::{UkiParts, join_uki, text};

/// A host with a template of copies of this disk, as it was installed.
fn with_disk(kind: Kind) -> (Host, PathBuf) {
    let boot = |folder: &Path| {
        let image = folder.join("disk.img");
        format!("boot = \"disk\"\nimage = \"{}\"\nmemory = [1024]\n", text(&image))
    };
    let host = Host::booting(Installed::new(kind), boot, &Reference::Booted, "fw_cfg");
    let image = host.folder.path().join("disk.img");
    copy(&host.installed.guest.file("disk.img"), &image);
    (host, image)
}

fn copy(from: &Path, to: &Path) {
    tool("cp", &["--sparse=always", text(from), text(to)]);
}

/// Another kernel and another initrd, to firmware and GRUB the same.
fn update(kind: Kind, installed: &Installed) {
    let release = fs::read_to_string(kind.part("release")).unwrap();
    for (name, more) in [("vmlinuz", 16), ("initrd.img", 4)] {
        let path = format!("boot/{name}-{}", release.trim_end());
        let mut bytes = installed.read(&path);
        bytes.extend(vec![0; more]);
        installed.write(&path, &bytes);
    }
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_copy_of_a_disk_that_the_host_booted_opens_after_one_reseal() {
    let (host, image) = with_disk(INITRAMFS_GRUB);
    let before = fs::read(&image).unwrap();
    host.reference_boot(LIMIT).ok().says("reseal --template debian");
    assert!(fs::read(&image).unwrap() == before, "the disk was written");
    host.enroll();
    update(INITRAMFS_GRUB, &host.installed);
    copy(&host.installed.guest.file("disk.img"), &image);
    host.reseal().ok().says(": PCR 4+9");
    host.opens(&host.installed.hardware());
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_unified_kernel_image_that_the_host_booted_opens_after_one_reseal() {
    let installed = Installed::new(DRACUT_UKI);
    let image = installed.machine.uki();
    let boot = |_: &Path| format!("boot = \"uki\"\nuki = \"{}\"\nmemory = [1024]\n", text(&image));
    let host = Host::booting(installed, boot, &Reference::Booted, "fw_cfg");
    host.reference_boot(LIMIT).ok().says("reseal --template debian");
    host.enroll();
    let (kernel, initrd) = (&DRACUT_UKI.part("vmlinuz"), &DRACUT_UKI.part("initrd"));
    let release = fs::read_to_string(DRACUT_UKI.part("release")).unwrap();
    let command_line = &format!("{} loglevel=4", DRACUT_UKI.command_line());
    join_uki(&UkiParts { kernel, initrd, release: release.trim_end(), command_line }, &image);
    host.installed.write(UKI, &fs::read(&image).unwrap());
    host.reseal().ok().says(": PCR 4+11");
    host.opens(&host.installed.hardware());
}

/// Without the partition table around it, all that counts is measured alike.
#[test]
#[ignore = "slow: make vm-test-all"]
fn a_machine_opens_whose_efi_system_partition_the_host_booted_alone() {
    let installed = Installed::new(DRACUT_UKI);
    let disk = fs::read(installed.guest.file("disk.img")).unwrap();
    // Behind it lies the second copy of the table, which firmware would find.
    let [start, end] = [ESP_OFFSET as usize, disk.len() - (1 << 20)];
    let boot = |folder: &Path| {
        let esp = folder.join("esp.img");
        fs::write(&esp, &disk[start..end]).unwrap();
        format!("boot = \"disk\"\nesp = \"{}\"\nmemory = [1024]\n", text(&esp))
    };
    let host = Host::booting(installed, boot, &Reference::Booted, "fw_cfg");
    host.reference_boot(LIMIT).ok().says("reseal --template debian");
    host.enroll();
    host.opens(&host.installed.hardware());
}

/// What booted is the disk as it was opened, what is read is the disk that lies there by then.
#[test]
#[ignore = "slow: make vm-test-all"]
fn a_disk_that_is_replaced_while_it_boots_is_refused_by_name() {
    let (host, image) = with_disk(INITRAMFS_GRUB);
    let other = image.with_extension("new");
    update(INITRAMFS_GRUB, &host.installed);
    copy(&host.installed.guest.file("disk.img"), &other);
    let mut booting = host.to_reference_boot(LIMIT).spawn().unwrap();
    while !has_open(booting.id(), &image) {
        assert_eq!(booting.try_wait().unwrap(), None, "it ended by itself");
        sleep(Duration::from_millis(100));
    }
    fs::rename(&other, &image).unwrap();
    let ran = Host::ran(booting).refused(3);
    ran.says("do not give what its reference boot measured in PCR 4").says("names the files");
    assert!(!host.folder.path().join("var/lib/vmseal/references").exists());
}

/// Does a child of this process have the file open?
fn has_open(parent: u32, file: &Path) -> bool {
    let children = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let children = children.filter_map(|it| fs::read_to_string(it.path().join("children")).ok());
    let children = children.collect::<Vec<_>>().join(" ");
    children.split_whitespace().any(|child| {
        let open = fs::read_dir(format!("/proc/{child}/fd")).into_iter().flatten().flatten();
        open.filter_map(|it| fs::read_link(it.path()).ok()).any(|it| it == file)
    })
}
