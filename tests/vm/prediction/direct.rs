//! QEMU's `-kernel`, under both versions of the firmware: the older one measures the kernel as QEMU
//! changed its header, with the address of the initrd in it.

use super::{Base, COMMAND_LINE, Machine, OTHER_COMMAND_LINE};
use crate::workshop::{NEWER, OLDER, OTHER_INITRD};

static BASE: Base = Base::of(|| Machine::with_kernel(NEWER, COMMAND_LINE));
static OLD_FIRMWARE: Base =
    Base::of(|| Machine::with_kernel(NEWER, COMMAND_LINE).with_old_firmware());

#[test]
fn direct_boot_of_another_kernel() {
    BASE.foretells(&Machine::with_kernel(OLDER, COMMAND_LINE), &[4, 9]);
}

#[test]
fn direct_boot_with_another_initrd() {
    BASE.foretells(&Machine::with_kernel(OTHER_INITRD, COMMAND_LINE), &[9]);
}

#[test]
fn direct_boot_with_another_command_line() {
    BASE.foretells(&Machine::with_kernel(NEWER, OTHER_COMMAND_LINE), &[9]);
}

#[test]
fn direct_boot_of_another_kernel_under_ovmf_2022() {
    let next = Machine::with_kernel(OLDER, COMMAND_LINE).with_old_firmware();
    OLD_FIRMWARE.foretells(&next, &[4, 9]);
}

#[test]
fn direct_boot_with_another_initrd_under_ovmf_2022() {
    let next = Machine::with_kernel(OTHER_INITRD, COMMAND_LINE).with_old_firmware();
    OLD_FIRMWARE.foretells(&next, &[4, 9]);
}
