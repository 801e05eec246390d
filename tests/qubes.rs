//! The kit for Qubes, against stand-ins for what it touches there: neither Xen nor dom0 is here. What
//! it calls of vmseal is real.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::machine::project;
use testkit::virtual_boot::fixture_folder;
use testkit::{Machine, Ran, Swtpm, run};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
const BASE: &str = "direct-qemu10.0.13-ovmf2025.02/base";
const KERNEL: &str = "direct-qemu10.0.13-ovmf2025.02/kernel";

/// A dom0 with the vmseal template `debian` of the VM `work`.
struct Dom0(TempDir);

impl Dom0 {
    fn new() -> Self {
        let dom0 = Self(TempDir::with_prefix("vmseal-dom0-").unwrap());
        fs::create_dir_all(dom0.path("root/etc/vmseal/templates.d")).unwrap();
        let root = dom0.path("root");
        dom0.program("vmseal", &format!("exec {VMSEAL} --root {} \"$@\"", root.display()));
        dom0.program("logger", "");
        // As dom0's own: prints the value, or fails.
        dom0.program("qvm-features", "[ \"$1 $2\" = 'work vmseal-template' ] && echo debian");
        dom0.vmseal(&["authority", "init", "debian"]).ok();
        dom0.template(BASE);
        dom0
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn in_dom0(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command
    }

    fn vmseal(&self, arguments: &[&str]) -> Ran {
        run(Command::new(VMSEAL).args(arguments).arg("--root").arg(self.path("root")))
    }

    fn cmdline() -> String {
        fs::read_to_string(fixture_folder(BASE).join("inputs/append")).unwrap().trim().to_owned()
    }

    fn template(&self, boot: &str) {
        let text = format!(
            "boot = \"kernel\"\nkernel = \"@{0}\"\ninitrd = \"@{0}\"\ncmdline = \"{1}\"\n\
             [[reference]]\nlog = \"{2}\"\n[[vm]]\nname = \"work\"\n\
             [delivery]\nkind = \"qubesdb\"\nfolder = \"{3}\"\n",
            fixture_folder(boot).join("artifacts.json").display(),
            Self::cmdline(),
            fixture_folder(BASE).join("log.bin").display(),
            self.path("delivered").display(),
        );
        fs::write(self.path("root/etc/vmseal/templates.d/debian.toml"), text).unwrap();
    }

    /// Starts `work` with these features.
    fn start(&self, features: &Value) -> Value {
        self.start_with(features, &Self::cmdline())
    }

    fn start_with(&self, features: &Value, cmdline: &str) -> Value {
        let vm = json!({
            "name": "work", "features": features, "cmdline": cmdline,
            "kernel": "/var/lib/qubes/vm-kernels/6.12/vmlinuz",
            "initrd": "/var/lib/qubes/vm-kernels/6.12/initramfs",
        });
        let mut python = self.in_dom0("python3");
        python.arg(project().join("tests/qubes/stand_in.py"));
        let ran = run(python.arg(project().join("qubes/dom0")).arg(vm.to_string())).ok();
        serde_json::from_str(&ran.stdout).unwrap()
    }
}

#[test]
fn a_vm_gets_its_signatures_or_is_told_of_or_is_not_started() {
    let dom0 = Dom0::new();
    let nothing = json!({ "refused": null, "log": [], "qdb": {} });
    // What dom0 did not ask for is not done.
    assert_eq!(dom0.start(&json!({})), nothing);
    assert_eq!(dom0.start(&json!({ "vmseal-refuse": "1" })), nothing);

    let locked = json!({ "vmseal-template": "debian" });
    let refuse = json!({ "vmseal-template": "debian", "vmseal-refuse": "1" });
    let started = dom0.start(&locked);
    assert!(started["log"][0].as_str().unwrap().contains("no signatures are delivered"));
    assert_eq!(
        (&started["refused"], &started["qdb"]["/vm-config/vmseal-policy"]),
        (&Value::Null, &Value::Null)
    );
    let refused = dom0.start(&refuse);
    assert!(refused["refused"].as_str().unwrap().contains("no signatures are delivered"));
    assert_eq!(refused["qdb"], json!({}));

    dom0.vmseal(&["reseal", "--template", "debian", "--yes"]).ok();
    let started = dom0.start(&refuse);
    assert_eq!((&started["refused"], &started["log"]), (&Value::Null, &json!([])), "{started}");
    let policy = started["qdb"]["/vm-config/vmseal-policy"].as_str().unwrap();
    assert_eq!(policy, fs::read_to_string(dom0.path("delivered/work.json")).unwrap());

    // What is in QubesDB opens the VM's volume, by the key that the VM gets from dom0.
    let mut rpc =
        dom0.in_dom0(project().join("qubes/dom0/qubes-rpc/vmseal.TemplateKey").to_str().unwrap());
    let key = run(rpc.env("QREXEC_REMOTE_DOMAIN", "work").env("QREXEC_SERVICE_ARGUMENT", "")).ok();
    let public = dom0.path("key.pub");
    fs::write(&public, key.stdout).unwrap();
    let machine = Machine::with_tpm(VMSEAL, Swtpm::start(), BASE);
    machine.enroll(&["--policy", "authority", "--authority-public", public.to_str().unwrap()]).ok();
    let root = machine.file("root");
    let reader = root.join("usr/bin/qubesdb-read");
    fs::create_dir_all(reader.parent().unwrap()).unwrap();
    machine.unlock(&["--root", root.to_str().unwrap()]).refused(19);
    fs::write(machine.file("policy"), policy).unwrap();
    let answer = format!(
        "[ \"$1\" = /vm-config/vmseal-policy ] && cat {}",
        machine.file("policy").display()
    );
    fs::write(&reader, format!("#!/bin/sh\n{answer}\n")).unwrap();
    fs::set_permissions(&reader, PermissionsExt::from_mode(0o755)).unwrap();
    machine.unlock(&["--root", root.to_str().unwrap()]).ok();

    // Words that its TemplateVM asked for, and another kernel that nobody approved.
    let asked = format!("{} init=/bin/sh", Dom0::cmdline());
    let refused = dom0.start_with(&refuse, &asked);
    assert!(refused["refused"].as_str().unwrap().contains("another command line"), "{refused}");
    assert_eq!(dom0.start_with(&locked, &asked)["log"].as_array().unwrap().len(), 2);
    dom0.template(KERNEL);
    assert!(dom0.start(&refuse)["refused"].as_str().unwrap().contains("not signed for"));
}

#[test]
fn trouble_in_dom0_starts_no_vm_that_must_be_covered_and_stops_no_other() {
    let dom0 = Dom0::new();
    dom0.vmseal(&["reseal", "--template", "debian", "--yes"]).ok();
    let (locked, refuse) = (
        |name: &str| json!({ "vmseal-template": name }),
        |name: &str| json!({ "vmseal-template": name, "vmseal-refuse": "1" }),
    );
    let expect = |name: &str, why: &str| {
        let refused = dom0.start(&refuse(name));
        assert!(refused["refused"].as_str().unwrap().contains(why), "{refused}");
        let started = dom0.start(&locked(name));
        assert_eq!(started["refused"], Value::Null);
        assert!(started["log"][0].as_str().unwrap().contains(why), "{started}");
    };
    expect("fedora", "there is no template");
    expect("--all", "its name is none of a template");
    let file = dom0.path("root/etc/vmseal/templates.d/debian.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"work\"", "\"other\"")).unwrap();
    expect("debian", "no template has a machine of the name work");
    fs::write(&file, "boot").unwrap();
    expect("debian", "is no template");
    fs::write(&file, text).unwrap();
    // A file that is no text, or too long, is not handed over.
    let delivered = dom0.path("delivered/work.json");
    let good = fs::read(&delivered).unwrap();
    for bytes in [vec![0xff], [good.as_slice(), &[b' '; 3072]].concat()] {
        fs::write(&delivered, bytes).unwrap();
        let started = dom0.start(&locked("debian"));
        assert_eq!(started["qdb"], json!({}), "{started}");
        assert!(!started["log"].as_array().unwrap().is_empty());
    }
    fs::remove_file(dom0.path("bin/vmseal")).unwrap();
    expect("debian", "vmseal template check");
}

#[test]
fn a_vm_is_given_the_key_of_its_own_template_only() {
    let dom0 = Dom0::new();
    let rpc = project().join("qubes/dom0/qubes-rpc/vmseal.TemplateKey");
    let call = |vm: &str, argument: &str| {
        let mut rpc = dom0.in_dom0(rpc.to_str().unwrap());
        rpc.env("QREXEC_REMOTE_DOMAIN", vm).env("QREXEC_SERVICE_ARGUMENT", argument);
        run(&mut rpc)
    };
    assert!(call("work", "").ok().stdout.starts_with("-----BEGIN PUBLIC KEY-----"));
    let refused = call("other", "").code(1).says("no vmseal-template");
    assert!(refused.stdout.is_empty());
    call("work", "fedora").code(1).says("takes no argument");
    // Whoever is not listed is denied by the last line.
    let policy = fs::read_to_string(project().join("qubes/dom0/30-vmseal.policy")).unwrap();
    let rules = policy.lines().filter(|line| !line.starts_with('#'));
    let rules: Vec<Vec<&str>> = rules.map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rules[0], ["vmseal.TemplateKey", "+", "@tag:vmseal", "@adminvm", "allow"]);
    assert_eq!(rules[1], ["vmseal.TemplateKey", "*", "@anyvm", "@anyvm", "deny"]);
    assert_eq!(rules.len(), 2);
}

#[test]
fn a_new_kernel_is_told_of_and_nothing_is_approved() {
    let dom0 = Dom0::new();
    dom0.vmseal(&["reseal", "--template", "debian", "--yes"]).ok();
    let templates = dom0.path("root/etc/vmseal/templates.d");
    let kernels = dom0.path("kernels");
    for version in ["6.12.48-1", "pvgrub2-pvh"] {
        fs::create_dir_all(kernels.join(version)).unwrap();
        fs::write(kernels.join(version).join("vmlinuz"), "").unwrap();
    }
    let updated = || {
        let mut script =
            dom0.in_dom0(project().join("qubes/dom0/qubes-kernel-updated").to_str().unwrap());
        run(script.env("VMSEAL_KERNELS", &kernels).env("VMSEAL_TEMPLATES", &templates)).ok().stdout
    };
    let said = updated();
    assert!(said.contains("no template tells of the kernel 6.12.48-1"), "{said}");
    assert!(!said.contains("pvgrub2") && !said.contains("to be approved"), "{said}");
    let before = fs::read(dom0.path("delivered/work.json")).unwrap();
    dom0.template(KERNEL);
    let said = updated();
    assert!(said.contains("PCR 4  kernel") && said.contains("vmseal reseal --all"), "{said}");
    assert_eq!(fs::read(dom0.path("delivered/work.json")).unwrap(), before);
    fs::remove_file(templates.join("debian.toml")).unwrap();
    assert_eq!(updated(), "");
}
