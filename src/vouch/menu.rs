//! GRUB's menu: whether it is what this machine's own configuration makes.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::program::output_of;

/// Where program and menu lie below the root, as Debian has them.
const MKCONFIG: &str = "usr/sbin/grub-mkconfig";
const MENU: &str = "boot/grub/grub.cfg";
/// It looks for other systems on all disks.
const PATIENCE: Duration = Duration::from_secs(180);
/// Bytes of a menu.
const MAX: u64 = 1 << 20;

/// The menu, where `grub-mkconfig` makes the very same of the configuration as it is now, in the
/// language of who runs this: what it lets start was built here.
///
/// # Errors
/// Those of reading the menu.
pub fn own_menu(root: &Path) -> io::Result<Option<PathBuf>> {
    let (program, menu) = (root.join(MKCONFIG), root.join(MENU));
    if !program.is_file() || !menu.is_file() {
        return Ok(None);
    }
    let mut present = vec![];
    std::fs::File::open(&menu)?.take(MAX + 1).read_to_end(&mut present)?;
    let read = |output: std::process::ChildStdout| {
        let mut made = vec![];
        output.take(MAX + 1).read_to_end(&mut made).map(|_| made)
    };
    let made = output_of(&mut Command::new(program), PATIENCE, read);
    let is_own = made.is_some_and(|made| made == present && (made.len() as u64) <= MAX);
    Ok(is_own.then_some(menu))
}
