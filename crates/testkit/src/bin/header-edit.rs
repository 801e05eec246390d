//! `header-edit DEVICE EDIT`: what an attacker with the disk does to its LUKS2 header.

// A tool of the tests: a wrong argument ends it with its cause.
#![allow(clippy::expect_used)]

use testkit::header_edit::named_edit;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let device = arguments.next().expect("header-edit DEVICE EDIT");
    let edit = arguments.next().expect("header-edit DEVICE EDIT");
    named_edit(device.as_ref(), edit.to_str().expect("the name of an edit"));
}
