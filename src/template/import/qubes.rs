//! A kernel that Qubes' dom0 gives its VMs: a folder `/var/lib/qubes/vm-kernels/VERSION`.

use super::Described;
use crate::template::Template;

/// The kernel, in the folder.
pub const KERNEL: &str = "vmlinuz";
/// The initrd.
pub const INITRD: &str = "initramfs";
/// What all VMs have of the command line.
pub const CMDLINE: &str = "default-kernelopts-common.txt";

/// The VMs of a kernel, each with the words that come before those of all, where dom0 writes
/// `systemd.machine_id=`, or around [`Template::ALL`]: its `kernelopts` come after these. Without any,
/// one that stands for all.
pub fn describe(folder: &str, common: &str, vms: &[(String, String)]) -> Vec<Described> {
    let folder = folder.trim_end_matches('/');
    let one = |name: Option<&String>, own: &str| {
        let (before, after) = own.split_once(Template::ALL).unwrap_or((own, ""));
        let words: Vec<&str> =
            [before, common, after].into_iter().flat_map(str::split_ascii_whitespace).collect();
        Described {
            name: name.cloned(),
            kernel: format!("{folder}/{KERNEL}"),
            initrd: format!("{folder}/{INITRD}"),
            cmdline: words.join(" "),
            own_first: true,
            open: vec![
                "kernelopts, and boot-mode.kernelopts.* that its template asked for, are not looked \
                 at: they come after the words of all, which --vm NAME='WORDS @all WORDS' tells"
                    .to_owned(),
            ],
            ..Described::default()
        }
    };
    match vms {
        [] => vec![one(None, "")],
        vms => vms.iter().map(|(name, own)| one(Some(name), own)).collect(),
    }
}
