//! The hook that libvirt runs when a machine starts: what it says, of which machines, and that it
//! stops none. libvirt is not there: the hook is called as its manual tells.

#![allow(clippy::unwrap_used)]

mod host;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use host::{BASE, Template};
use testkit::machine::project;

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
const KERNEL: &str = "direct-qemu10.0.13-ovmf2025.02/kernel";

/// A host with a template of the machine web1 of the fixtures.
struct Host(host::Host);

impl std::ops::Deref for Host {
    type Target = host::Host;

    fn deref(&self) -> &host::Host {
        &self.0
    }
}

impl Host {
    /// The machine is given the kernel of a recorded boot.
    fn new() -> Self {
        let host = Self(host::Host::new());
        // The programs that the hook calls, for this host.
        let root = host.path("root");
        host.program("vmseal", &format!("exec {VMSEAL} \"$@\" --root {}", root.display()));
        host.program("logger", &format!("echo \"$*\" >>{}", host.path("log").display()));
        host.authority("debian");
        host.web1_boots(BASE);
        host
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn web1_boots(&self, boot: &str) {
        let template = Template {
            cmdline: "root=/dev/mapper/root ro @own console=ttyS0".to_owned(),
            machines: "[[vm]]\nname = \"web1\"\n\
                       cmdline = \"systemd.machine_id=0123456789abcdef0123456789abcde1\"",
            ..Template::of(boot, self.delivery("debian"))
        };
        self.write("debian", &template);
    }

    fn approve(&self) {
        self.reseal(&["--template", "debian", "--yes"]).ok();
    }

    /// What the hook says when a machine starts, to libvirt and to the log.
    fn starts(&self, name: &str, operation: &[&str], xml: &str) -> String {
        let file = self.path("domain.xml");
        fs::write(&file, xml).unwrap();
        let _ = fs::remove_file(self.path("log"));
        let output = Command::new(hook())
            .arg(name)
            .args(operation)
            .arg("-")
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()))
            .stdin(Stdio::from(fs::File::open(file).unwrap()))
            .output()
            .unwrap();
        assert!(output.status.success(), "a machine was stopped: {output:?}");
        assert!(output.stdout.is_empty(), "libvirt would take it for XML: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let logged = fs::read_to_string(self.path("log")).unwrap_or_default();
        assert_eq!(logged.is_empty(), said.is_empty());
        assert!(logged.ends_with(&said), "{logged}");
        said
    }

    fn web1(&self) -> String {
        self.starts("web1", &["prepare", "begin"], &domain("web1"))
    }
}

fn hook() -> PathBuf {
    project().join("system/etc/libvirt/hooks/qemu.d/vmseal")
}

fn domain(name: &str) -> String {
    let file = Path::new("tests/fixtures/domains").join(format!("{name}.xml"));
    fs::read_to_string(project().join(file)).unwrap()
}

#[test]
fn a_machine_that_would_not_open_is_told_of_when_it_starts() {
    let host = Host::new();
    let said = host.web1();
    assert!(said.starts_with("web1 starts: vmseal: web1 of template debian would not"), "{said}");
    host.approve();
    assert_eq!(host.web1(), "");
    // The host gives another kernel, which nobody approved.
    host.web1_boots(KERNEL);
    assert!(host.web1().contains("vmseal reseal --template"), "{}", host.web1());
    assert_eq!(host.starts("web1", &["started", "begin"], &domain("web1")), "");
    assert_eq!(host.starts("web1", &["prepare", "end"], &domain("web1")), "");
    host.approve();
    assert_eq!(host.web1(), "");
    // The machine is started with other words than those that were approved.
    let other = domain("web1").replace("console=ttyS0", "console=ttyS0 init=/bin/sh");
    let said = host.starts("web1", &["prepare", "begin"], &other);
    assert!(said.contains("web1 of template debian would not open"), "{said}");
    let no_kernel = domain("disk").replace("<name>disk<", "<name>web1<");
    let said = host.starts("web1", &["prepare", "begin"], &no_kernel);
    assert!(said.contains("web1 of template debian would not open"), "{said}");
}

#[test]
fn machines_that_no_template_has_are_let_alone() {
    let host = Host::new();
    let stranger = |xml: &str| host.starts("other", &["prepare", "begin"], xml);
    // One that is to be handed signatures, and that no template has.
    assert!(stranger(&domain("web2")).contains("no template has a machine of the name web2"));
    let plain =
        domain("web2").replace("opt/org.vmseal/policy", "opt/x").replace("vmseal-templates", "x");
    assert_eq!(stranger(&plain), "");
    let own_disk =
        domain("disk").replace("opt/org.vmseal/policy", "opt/x").replace("vmseal-templates", "x");
    assert_eq!(stranger(&own_disk), "");
    assert_eq!(stranger("no XML"), "");
    assert_eq!(stranger(""), "");
    // The code says which it is: the hook only acts on it.
    let check = |xml: &str| {
        let file = host.path("other.xml");
        fs::write(&file, xml).unwrap();
        host.vmseal(&["template", "check", "--libvirt", file.to_str().unwrap()])
    };
    check(&domain("web2")).code(20).says("it is to be handed signatures").says("name it in its");
    check(&plain).refused(3).says("no template has a machine of the name web2");
    check("no XML").refused(3);
    check("no XML with opt/org.vmseal/policy").code(20).says("it is to be handed signatures");
    // Neither a broken template nor a missing program stops a machine.
    fs::write(host.file("debian"), "boot").unwrap();
    assert!(host.web1().contains("is no template"), "{}", host.web1());
    assert_eq!(stranger(&plain), "");
    // A program that fails is told of.
    host.program("vmseal", "exit 1");
    assert_eq!(host.web1(), "web1 starts: vmseal template check ended with 1\n");
    fs::remove_file(host.path("bin/vmseal")).unwrap();
    assert_eq!(host.web1(), "");
}
