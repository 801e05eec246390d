//! `virtual-boot LOG [--userspace-log FILE] --tcti swtpm:host=127.0.0.1,port=N`: power-cycles nothing,
//! extends a recorded boot into the PCRs of a software TPM that was just started.

// A tool of the tests and the demo: a wrong argument ends it with its cause.
#![allow(clippy::panic, clippy::expect_used)]

use std::path::PathBuf;

use testkit::Recording;
use testkit::wire::Wire;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut log, mut userspace, mut port) = (None, None, None);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value for the option");
        match argument.as_str() {
            "--userspace-log" => userspace = Some(PathBuf::from(value())),
            "--tcti" => port = value().rsplit_once("port=").and_then(|(_, n)| n.parse().ok()),
            _ => log = Some(PathBuf::from(argument)),
        }
    }
    let usage = "usage: virtual-boot LOG [--userspace-log FILE] --tcti swtpm:host=127.0.0.1,port=N";
    let (Some(log), Some(port)) = (log, port) else { panic!("{usage}") };
    let mut recording = Recording::from_event_log(&log);
    if let Some(userspace) = userspace {
        recording = recording.then_userspace_log(&userspace);
    }
    recording.replay_into(&mut Wire::connect(port));
}
