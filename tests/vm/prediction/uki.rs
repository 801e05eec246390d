//! Unified kernel images that the firmware starts.

use super::{Base, COMMAND_LINE, Machine, OTHER_COMMAND_LINE};
use crate::workshop::{NEWER, OLDER, OTHER_INITRD};

/// With two banks: every bank is predicted.
static BASE: Base = Base::of(|| Machine::with_uki(NEWER, COMMAND_LINE).with_banks("sha256,sha384"));

#[test]
fn uki_with_another_kernel() {
    let next = Machine::with_uki(OLDER, COMMAND_LINE).with_banks("sha256,sha384");
    BASE.foretells(&next, &[4, 9, 11]);
}

#[test]
fn uki_with_another_initrd() {
    let next = Machine::with_uki(OTHER_INITRD, COMMAND_LINE).with_banks("sha256,sha384");
    BASE.foretells(&next, &[4, 9, 11]);
}

#[test]
fn uki_with_another_command_line() {
    let next = Machine::with_uki(NEWER, OTHER_COMMAND_LINE).with_banks("sha256,sha384");
    let measured = BASE.foretells(&next, &[4, 9, 11]);
    assert_eq!(measured.command_line.trim_end(), OTHER_COMMAND_LINE);
}
