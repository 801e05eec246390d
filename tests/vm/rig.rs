//! What all guests share: firmware, boot disks, and how QEMU runs them best here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use testkit::machine::project;

use crate::guest::{Boot, Guest};

const KVM: &[&str] = &["-accel", "kvm", "-cpu", "host"];
/// OVMF does not know five-level page tables.
const TCG: &[&str] = &["-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max,la57=off"];
/// A boot under a KVM that works takes three seconds.
const KVM_LIMIT: Duration = Duration::from_secs(30);

/// The folder that `tests/vm/assemble` made of the release builds of both programs.
pub fn parts() -> &'static Path {
    static PARTS: OnceLock<PathBuf> = OnceLock::new();
    PARTS.get_or_init(|| {
        let mut assemble = Command::new(project().join("tests/vm/assemble"));
        assemble.arg(release().join("vmseal")).arg(release().join("vmseal-boot"));
        folder_of(&mut assemble)
    })
}

/// The folder with the Debian packages, as `make deb` makes them.
pub fn packages() -> &'static Path {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let folder = release().with_file_name("deb");
        folder_of(Command::new(project().join("packaging/deb")).arg(&folder));
        folder
    })
}

/// The folder of the release builds.
pub fn release() -> &'static Path {
    static RELEASE: OnceLock<PathBuf> = OnceLock::new();
    RELEASE.get_or_init(|| {
        // Apart from each other: together, vmseal's features would slip into the boot program.
        for package in ["vmseal", "vmseal-boot", "testkit"] {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--release", "--quiet", "--package", package]);
            let status = cargo.current_dir(project()).status().unwrap();
            assert!(status.success(), "{cargo:?}");
        }
        let target = Path::new(env!("CARGO_BIN_EXE_vmseal")).ancestors().nth(2).unwrap();
        target.join("release")
    })
}

/// Runs a script that prints the folder it made, the first time perhaps out of whole Debian trees.
pub fn folder_of(script: &mut Command) -> PathBuf {
    let output = script.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script:?}\n{said}");
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

/// QEMU's options for KVM if a guest comes up under it, else for emulation. That /dev/kvm is there
/// proves nothing: nested virtualization may still fail in the firmware.
pub fn accelerator() -> &'static [&'static str] {
    static CHOSEN: OnceLock<&[&str]> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let guest = Guest::new();
        let mut console = guest.boot_with(KVM, KVM_LIMIT, Boot::new().run("true"));
        match console.find("rig: up") {
            Ok(_) => KVM,
            Err(_) => TCG,
        }
    })
}
