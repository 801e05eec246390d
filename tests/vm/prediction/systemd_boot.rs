//! systemd-boot with type 1 entries, and with unified kernel images and addons.

use super::{Base, COMMAND_LINE, Machine, OTHER_COMMAND_LINE};
use crate::workshop::{Kernel, NEWER, OLDER, OTHER_INITRD, build_addon, build_uki, part};

static TYPE_1: Base = Base::of(|| type_1(NEWER, COMMAND_LINE, "newer.conf"));
static UKIS: Base = Base::of(|| ukis(NEWER, "newer.efi"));
static WITHOUT_CONFIG: Base = Base::of(without_config);

fn without_config() -> Machine {
    let machine = Machine::new();
    machine.put("esp/EFI/BOOT/BOOTX64.EFI", &part("systemd-boot.efi"));
    build_uki(NEWER, COMMAND_LINE, &machine.path("esp/EFI/Linux/debian-1.efi"));
    machine
}

fn loader(default: &str) -> Machine {
    let machine = Machine::new();
    machine.put("esp/EFI/BOOT/BOOTX64.EFI", &part("systemd-boot.efi"));
    machine.write("esp/loader/loader.conf", &format!("timeout 0\ndefault {default}\n"));
    machine
}

fn add_entry(machine: &Machine, name: &str, kernel: Kernel, command_line: &str) {
    machine.put(&format!("esp/{name}/vmlinuz"), &kernel.image());
    machine.put(&format!("esp/{name}/initrd"), &kernel.initrd());
    let entry = format!(
        "title Debian {name}\nlinux /{name}/vmlinuz\ninitrd /{name}/initrd\noptions {command_line}\n"
    );
    machine.write(&format!("esp/loader/entries/{name}.conf"), &entry);
}

/// Two entries; what may change is the first one.
fn type_1(kernel: Kernel, command_line: &str, default: &str) -> Machine {
    let machine = loader(default);
    add_entry(&machine, "newer", kernel, command_line);
    add_entry(&machine, "older", OLDER, COMMAND_LINE);
    machine
}

/// Two images; what may change is the first one.
fn ukis(kernel: Kernel, default: &str) -> Machine {
    let machine = loader(default);
    build_uki(kernel, COMMAND_LINE, &machine.path("esp/EFI/Linux/newer.efi"));
    build_uki(OLDER, COMMAND_LINE, &machine.path("esp/EFI/Linux/older.efi"));
    machine
}

#[test]
fn type_1_entry_with_another_kernel() {
    TYPE_1.foretells(&type_1(OLDER, COMMAND_LINE, "newer.conf"), &[4, 9]);
}

#[test]
fn type_1_entry_with_another_initrd() {
    TYPE_1.foretells(&type_1(OTHER_INITRD, COMMAND_LINE, "newer.conf"), &[9]);
}

#[test]
fn type_1_entry_with_another_command_line() {
    TYPE_1.foretells(&type_1(NEWER, OTHER_COMMAND_LINE, "newer.conf"), &[9, 12]);
}

/// loader.conf itself is in PCR 5.
#[test]
fn another_type_1_entry_as_default() {
    TYPE_1.foretells(&type_1(NEWER, COMMAND_LINE, "older.conf"), &[4, 5, 9, 12]);
}

#[test]
fn systemd_boots_uki_with_another_kernel() {
    UKIS.foretells(&ukis(OLDER, "newer.efi"), &[4, 9, 11]);
}

#[test]
fn another_uki_as_default() {
    UKIS.foretells(&ukis(NEWER, "older.efi"), &[4, 5, 9, 11]);
}

#[test]
fn an_addon_for_a_uki() {
    let next = ukis(NEWER, "newer.efi");
    build_addon("loglevel=3", &next.path("esp/EFI/Linux/newer.efi.extra.d/quiet.addon.efi"));
    let measured = UKIS.foretells(&next, &[4, 9, 12]);
    assert_eq!(measured.command_line.trim_end(), OTHER_COMMAND_LINE);
}

/// Nothing in the log is systemd-boot's own word then.
#[test]
fn systemd_boot_without_its_configuration_starts_the_newest_uki() {
    let next = without_config();
    build_uki(OLDER, COMMAND_LINE, &next.path("esp/EFI/Linux/debian-2.efi"));
    WITHOUT_CONFIG.foretells(&next, &[4, 9, 11]);
}
