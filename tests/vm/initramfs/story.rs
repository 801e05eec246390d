//! One whole story for a person to watch: `make vm-demo`.

use std::io::Write;

use super::installed::{Installed, LOGIN, PROMPT};
use super::kind::INITRAMFS_GRUB;
use crate::guest::Boot;

/// Said between the lines of the console, which the harness does not keep to itself either.
fn tell(sentence: &str) {
    let _ = writeln!(std::io::stderr(), "\n\n\x1b[1m# {sentence}\x1b[0m\n");
}

#[test]
#[ignore = "for a person to watch"]
fn a_whole_story() {
    tell("A Debian 13 with an encrypted root, GRUB and initramfs-tools. Nothing is sealed yet.");
    let installed = Installed::new(INITRAMFS_GRUB);
    installed.enroll(INITRAMFS_GRUB);
    tell("Enrolled. The same machine again: nobody touches the keyboard.");
    let mut console = installed.boot(&Boot::new().run("vmseal status /dev/volume"));
    assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
    console.exits(0);
    console.await_off();
    tell("Somebody changes the command line in the boot menu.");
    let menu = String::from_utf8(installed.read("boot/grub/grub.cfg")).unwrap();
    let edited = menu.replace(" quiet", " quiet init=/bin/sh");
    assert_ne!(menu, edited);
    installed.write("boot/grub/grub.cfg", edited.as_bytes());
    let mut console = installed.boot(&Boot::new());
    console.await_passphrase_prompt();
    drop(console);
    tell("The disk stays closed, and the console said why. The menu is put back.");
    installed.write("boot/grub/grub.cfg", menu.as_bytes());
    let mut console = installed.boot(&Boot::new());
    assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
    tell("The approved boot opens it again. The passphrase opens it always.");
}
