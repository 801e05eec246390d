//! `vmseal template check`: what is wrong with a template, and which machines open with what is
//! delivered. It writes nothing.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod host;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use host::{BASE, Template};
use testkit::Ran;
use testkit::virtual_boot::fixture_folder;

const KERNEL: &str = "direct-qemu10.0.13-ovmf2025.02/kernel";

/// A host with the template `debian` of the machines a and b, and copies of all that it names.
struct Host(host::Host);

impl std::ops::Deref for Host {
    type Target = host::Host;

    fn deref(&self) -> &host::Host {
        &self.0
    }
}

impl Host {
    fn new() -> Self {
        let host = Self(host::Host::new());
        fs::copy(fixture_folder(BASE).join("log.bin"), host.path("log.bin")).unwrap();
        host.boot(BASE);
        host.machines("debian", "");
        host.authority("debian");
        host
    }

    fn check(&self, arguments: &[&str]) -> Ran {
        self.vmseal(&[&["template", "check"], arguments].concat())
    }

    /// The host gives its machines the kernel of this boot.
    fn boot(&self, boot: &str) {
        let list = fixture_folder(boot).join("artifacts.json");
        fs::copy(list, self.path("artifacts.json")).unwrap();
    }

    /// Writes a template of a, b and further machines.
    fn machines(&self, name: &str, more: &str) {
        let machines = format!("[[vm]]\nname = \"a\"\n[[vm]]\nname = \"b\"\n{more}");
        let template = Template {
            artifacts: self.path("artifacts.json"),
            log: self.path("log.bin"),
            machines: &machines,
            ..Template::of(BASE, self.delivery(name))
        };
        self.write(name, &template);
    }

    fn delivered(&self, vm: &str) -> PathBuf {
        self.delivery("debian").join(format!("{vm}.json"))
    }

    /// What is there, and when it was written.
    fn snapshot(&self) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
        fn all(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>, std::time::SystemTime)>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let written = fs::metadata(&path).unwrap().modified().unwrap();
                match path.is_dir() {
                    true => all(&path, found),
                    false => found.push((path.clone(), fs::read(&path).unwrap(), written)),
                }
            }
        }
        let mut found = vec![];
        all(&self.path(""), &mut found);
        found.sort();
        found
    }
}

#[test]
fn machines_open_with_what_is_delivered_or_are_named() {
    let host = Host::new();
    let before = host.snapshot();
    let ran = host.check(&["debian"]).code(20).says("2 machines would not open by themselves");
    assert!(ran.stdout.contains("0 of 2 machines"), "{ran:#?}");
    assert!(ran.stdout.contains("  a does not open: no signatures are delivered"), "{ran:#?}");
    assert_eq!(host.snapshot(), before);

    host.vmseal(&["reseal", "--template", "debian", "--yes"]).ok();
    let before = host.snapshot();
    let ran = host.check(&["--all"]).ok();
    assert!(ran.stdout.contains("template debian: ok, 2 of 2 machines"), "{ran:#?}");
    assert_eq!(host.snapshot(), before);

    // Another kernel: what is on file is of the one before.
    host.boot(KERNEL);
    let ran = host.check(&["debian"]).code(20);
    assert!(ran.stdout.contains("a does not open: its boot is not signed for"), "{ran:#?}");
    host.boot(BASE);
    host.check(&["debian"]).ok();

    // One machine's file is lost, or has what another template's key signed.
    fs::write(host.delivered("b"), "{}").unwrap();
    let ran = host.check(&["debian", "--json"]).code(20).says("b of template debian");
    let json = ran.json();
    let machines = json["templates"][0]["machines"].as_array().unwrap();
    assert_eq!((&machines[0]["covered"], &machines[1]["covered"]), (&true.into(), &false.into()));
    assert_eq!(machines[1]["file"], host.delivered("b").to_str().unwrap());
    host.check(&["--vm", "a"]).ok();
    host.check(&["--vm", "b"]).code(20);
    host.check(&["--vm", "a", "--vm", "b"]).code(20);
    host.check(&["--vm", "c"]).refused(3).says("no template has a machine of the name c");
    host.vmseal(&["authority", "init", "fedora"]).ok();
    let text = fs::read_to_string(host.file("debian")).unwrap();
    fs::write(host.file("fedora"), text.replace("delivered/debian", "delivered/fedora")).unwrap();
    host.vmseal(&["reseal", "--template", "fedora", "--yes"]).ok();
    fs::copy(host.path("delivered/fedora/b.json"), host.delivered("b")).unwrap();
    host.check(&["debian"]).code(20).says("b of template debian");
    host.check(&["fedora"]).ok();
}

#[test]
fn each_fault_of_a_template_is_named() {
    let host = Host::new();
    host.vmseal(&["reseal", "--template", "debian", "--yes"]).ok();
    let (log, list) = (host.path("log.bin"), host.path("artifacts.json"));
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let wrong = |says: &str| {
        let ran = host.check(&["debian"]).code(3).says(says);
        assert!(ran.stdout.starts_with("template debian: wrong\n"), "{ran:#?}");
    };
    // Who may write a file, and whose it is.
    for path in [&log, &list, &host.file("debian")] {
        mode(path, 0o664);
        wrong("others than its owner may write");
        mode(path, 0o644);
        chown(path, Some(65534), None).unwrap();
        wrong("belongs to neither root nor whoever runs this: its owner is 65534");
        host.vmseal(&["reseal", "--template", "debian"]).refused(3).says("its owner is 65534");
        chown(path, Some(0), None).unwrap();
    }
    mode(&host.path("delivered/debian"), 0o777);
    wrong("others than its owner may write");
    mode(&host.path("delivered/debian"), 0o755);
    host.check(&["debian"]).ok();

    // What is not there, or no file: both are named at once.
    let (kept, key) = (host.path("kept"), host.path("root/etc/vmseal/authorities/debian.pem"));
    fs::rename(&log, &kept).unwrap();
    fs::create_dir(&log).unwrap();
    mode(&list, 0o666);
    let ran = host.check(&["debian"]).code(3).says("2 faults");
    assert!(ran.stdout.contains("log.bin: it is no file"), "{ran:#?}");
    mode(&list, 0o644);
    fs::remove_dir(&log).unwrap();
    wrong("No such file");
    fs::write(&log, "no log").unwrap();
    wrong("log.bin");
    // A log of a boot that measured no kernel tells nothing of one.
    fs::copy(fixture_folder("uki/base").join("log.bin"), &log).unwrap();
    wrong("was not given its kernel by the host");
    fs::rename(&kept, &log).unwrap();
    fs::rename(&key, &kept).unwrap();
    wrong("debian.pem");
    fs::rename(&kept, &key).unwrap();
    fs::rename(host.path("delivered"), &kept).unwrap();
    fs::write(host.path("delivered"), "").unwrap();
    wrong("it is no folder");
    fs::remove_file(host.path("delivered")).unwrap();
    host.check(&["debian"]).code(20);
    fs::rename(&kept, host.path("delivered")).unwrap();
    host.check(&["debian"]).ok();

    // The firmware's code, which a reference boot would run.
    let (whole, code) = (fs::read_to_string(host.file("debian")).unwrap(), host.path("code.fd"));
    let machine = format!("{whole}[machine]\nfirmware = \"{}\"\n", code.display());
    fs::write(host.file("debian"), machine).unwrap();
    wrong("code.fd: No such file");
    fs::write(&code, "code").unwrap();
    host.check(&["debian"]).ok();
    mode(&code, 0o666);
    wrong("others than its owner may write");
    fs::write(host.file("debian"), whole).unwrap();

    // A machine that the template itself does not cover is no fault of its files.
    host.machines("debian", "[[vm]]\nname = \"c\"\ncmdline = \"init=/bin/sh\"\n");
    let ran = host.check(&["debian"]).code(20);
    assert!(ran.stdout.contains("c does not open: init=/bin/sh is no word"), "{ran:#?}");
    // Two templates that write the same files take each other's signatures away.
    fs::copy(host.file("debian"), host.file("fedora")).unwrap();
    host.vmseal(&["authority", "init", "fedora"]).ok();
    host.check(&["--all"]).code(3).says("of template fedora: two templates would write");
    fs::write(host.file("fedora"), "boot = \"floppy\"\n").unwrap();
    let ran = host.check(&["--all"]).code(3).says("is no template");
    assert!(ran.stdout.contains("template debian: 2 of 3"), "{ran:#?}");
    // Of a machine that is found, it does not matter.
    host.check(&["--vm", "a"]).ok();
    host.check(&["--vm", "d"]).code(3).says("is no template");
    host.check(&["ubuntu"]).code(3).says("there is no template");
    host.check(&[]).code(2);
    host.check(&["debian", "--all"]).code(2);
}
