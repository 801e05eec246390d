//! Makes what machines boot: the folder of `tests/vm/boot-parts`, and Debian's own tools.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use testkit::machine::project;
use testkit::run::run;
use testkit::tool;

use crate::rig::folder_of;

/// A kernel and the initramfs for it.
#[derive(Clone, Copy)]
pub struct Kernel {
    version: &'static str,
    initrd: &'static str,
}

/// Debian 13's kernel.
pub const NEWER: Kernel = Kernel { version: "6.12", initrd: "initrd" };
/// The same kernel with another initramfs.
pub const OTHER_INITRD: Kernel = Kernel { version: "6.12", initrd: "other-initrd" };
/// Debian 12's kernel.
pub const OLDER: Kernel = Kernel { version: "6.1", initrd: "initrd" };

impl Kernel {
    pub fn image(&self) -> PathBuf {
        self.file("vmlinuz")
    }

    pub fn initrd(&self) -> PathBuf {
        self.file(self.initrd)
    }

    /// As `uname -r` has it.
    pub fn release(&self) -> String {
        std::fs::read_to_string(self.file("release")).unwrap().trim_end().to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        part("kernels").join(self.version).join(name)
    }
}

/// A file or folder of `tests/vm/boot-parts`.
pub fn part(name: &str) -> PathBuf {
    static PARTS: OnceLock<PathBuf> = OnceLock::new();
    let parts =
        PARTS.get_or_init(|| folder_of(&mut Command::new(project().join("tests/vm/boot-parts"))));
    parts.join(name)
}

/// Runs one of the scripts beside this program.
pub fn script(name: &str, arguments: &[&str]) {
    tool(text(&project().join("tests/vm").join(name)), arguments);
}

/// Runs a tool of Debian 13.
pub fn in_trixie(arguments: &[&str]) {
    let mut command = Command::new(project().join("tests/env/in-tree"));
    run(command.arg("trixie").args(arguments)).ok();
}

/// Signs a PE image in its place.
pub fn sign_image(image: &Path, key: &Path, certificate: &Path) {
    let (key, certificate, image) = (text(key), text(certificate), text(image));
    in_trixie(&["sbsign", "--key", key, "--cert", certificate, "--output", image, image]);
}

/// What a unified kernel image is made of.
pub struct UkiParts<'a> {
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    /// As `uname -r` has it.
    pub release: &'a str,
    pub command_line: &'a str,
}

/// Makes a unified kernel image with Debian 13's stub.
pub fn build_uki(kernel: Kernel, command_line: &str, uki: &Path) {
    let (image, initrd, release) = (kernel.image(), kernel.initrd(), kernel.release());
    join_uki(&UkiParts { kernel: &image, initrd: &initrd, release: &release, command_line }, uki);
}

/// Makes a unified kernel image of these parts, with Debian 13's stub.
pub fn join_uki(parts: &UkiParts<'_>, uki: &Path) {
    let mut arguments = vec!["ukify", "build", "--output", text(uki)];
    arguments.extend(["--linux", text(parts.kernel), "--initrd", text(parts.initrd)]);
    arguments.extend(["--uname", parts.release, "--cmdline", parts.command_line]);
    in_trixie(&arguments);
}

/// Makes an addon for unified kernel images.
pub fn build_addon(command_line: &str, addon: &Path) {
    in_trixie(&["ukify", "build", "--cmdline", command_line, "--output", text(addon)]);
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
