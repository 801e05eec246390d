//! `pin-volume VMSEAL IMAGE KEY_FILE PINS`: has `vmseal enroll` pin a LUKS2 volume, on a scratch TPM,
//! and takes the seal away again. An initramfs can then be built that knows the volume.

// A tool of the tests: what does not work ends it with its cause.
#![allow(clippy::panic, clippy::expect_used)]

use std::process::Command;

use testkit::machine::BASE;
use testkit::virtual_boot::fixture_folder;
use testkit::{Recording, Swtpm, run};

fn main() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [vmseal, image, key_file, pins] = arguments.as_slice() else {
        panic!("usage: pin-volume VMSEAL IMAGE KEY_FILE PINS")
    };
    let tpm = Swtpm::start();
    Recording::fixture(BASE).replay_into(&mut tpm.wire());
    let tcti = tpm.tcti();
    let on_volume = |arguments: &[&str]| {
        let mut command = Command::new(vmseal);
        command.args(arguments).arg("--pins").arg(pins).arg(image);
        command
    };
    let mut enroll = on_volume(&["enroll", "--tcti", &tcti]);
    enroll.arg("--eventlog").arg(fixture_folder(BASE).join("log.bin"));
    run(enroll.arg("--unlock-key-file").arg(key_file)).ok();
    run(&mut on_volume(&["revoke", "--tpm"])).ok();
}
