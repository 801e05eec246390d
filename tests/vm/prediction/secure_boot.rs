//! A signed unified kernel image under Secure Boot.

use super::{Base, COMMAND_LINE, Machine};
use crate::workshop::{Kernel, NEWER, OLDER, in_trixie, part, sign_image, text};

static BASE: Base = Base::of(|| signed(NEWER));

/// With Debian's test key as the only one in PK, KEK and db.
fn signed(kernel: Kernel) -> Machine {
    let machine = Machine::with_uki(kernel, COMMAND_LINE).with_secure_boot("secure-vars.fd");
    let [key, certificate] =
        ["snakeoil.key", "snakeoil.pem"].map(|part| machine.firmware_part(part));
    sign_image(&machine.uki(), &key, &certificate);
    machine
}

#[test]
fn signed_uki_with_another_kernel() {
    BASE.foretells(&signed(OLDER), &[4, 9, 11]);
}

#[test]
fn one_more_certificate_in_db() {
    let next = BASE.machine();
    let (before, after) = (next.firmware_part("secure-vars.fd"), next.path("variables"));
    // Debian 12's test certificate is another one.
    let certificate = part("firmware/2022.11/snakeoil.pem");
    in_trixie(&[
        "virt-fw-vars",
        "--input",
        text(&before),
        "--output",
        text(&after),
        "--add-db",
        "d0000000-0002-4000-8000-000000000002",
        text(&certificate),
    ]);
    BASE.foretells(&next, &[7]);
}
