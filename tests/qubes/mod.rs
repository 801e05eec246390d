//! Where the kit for Qubes is installed.

// Each test takes what it needs.
#![allow(dead_code)]

use std::path::Path;
use std::process::Command;

use testkit::machine::project;
use testkit::run;

/// Where dom0's packages keep their modules; R4.3 has this Python.
pub const MODULES: &str = "usr/lib/python3.13/site-packages";

/// Installs what is for dom0 or for VMs into a folder.
pub fn install(target: &str, to: &Path) {
    let mut make = Command::new("make");
    make.args(["-s", "-C", "qubes", target]).current_dir(project());
    make.arg(format!("DESTDIR={}", to.display())).arg(format!("SITE_PACKAGES=/{MODULES}"));
    run(&mut make).ok();
}
