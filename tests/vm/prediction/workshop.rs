//! Makes what machines boot: the folder of `tests/vm/boot-parts`, and Debian's own tools.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use testkit::machine::project;
use testkit::run::run;
use testkit::tool;

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
    let parts = PARTS.get_or_init(|| {
        let mut command = Command::new(project().join("tests/vm/boot-parts"));
        // Not testkit's: the first time, Debian trees are built.
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}\n{said}");
        String::from_utf8(output.stdout).unwrap().trim_end().into()
    });
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

/// Makes a unified kernel image.
pub fn build_uki(kernel: Kernel, command_line: &str, uki: &Path) {
    let (image, initrd, release) = (kernel.image(), kernel.initrd(), kernel.release());
    in_trixie(&[
        "ukify",
        "build",
        "--linux",
        text(&image),
        "--initrd",
        text(&initrd),
        "--uname",
        &release,
        "--cmdline",
        command_line,
        "--output",
        text(uki),
    ]);
}

/// Makes an addon for unified kernel images.
pub fn build_addon(command_line: &str, addon: &Path) {
    in_trixie(&["ukify", "build", "--cmdline", command_line, "--output", text(addon)]);
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
