//! dom0's side of the kit for Qubes, against stand-ins for what it touches there: neither Xen nor dom0 is here. What
//! it calls of vmseal is real.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod qubes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use qubes::{MODULES, install};
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
        install("install-dom0", &dom0.path("installed"));
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
        self.start_vm(json!({ "features": features, "cmdline": cmdline }))
    }

    /// Starts `work`, of which this is told besides what a PVH has.
    fn start_vm(&self, told: Value) -> Value {
        let mut vm = json!({
            "name": "work", "cmdline": Self::cmdline(), "virt_mode": "pvh", "patience": null,
            "fails": [], "kernel": "/var/lib/qubes/vm-kernels/6.12/vmlinuz",
            "initrd": "/var/lib/qubes/vm-kernels/6.12/initramfs",
        });
        vm.as_object_mut().unwrap().extend(told.as_object().unwrap().clone());
        let mut python = self.in_dom0("python3");
        python.arg(project().join("tests/qubes/stand_in.py"));
        let ran = run(python.arg(self.path("installed").join(MODULES)).arg(vm.to_string())).ok();
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
    assert_eq!(policy, fs::read_to_string(dom0.path("delivered/work.json")).unwrap().trim_end());

    // What is in QubesDB opens the VM's volume, by the key that the VM gets from dom0.
    let mut rpc =
        dom0.in_dom0(dom0.path("installed/etc/qubes-rpc/vmseal.TemplateKey").to_str().unwrap());
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
    // As the real one: what is not printable comes as \xNN, and a line ends the value.
    let answer = format!(
        "import sys\nassert sys.argv[1:] == ['/vm-config/vmseal-policy']\n\
         value = open('{}', 'rb').read()\n\
         print(''.join(chr(c) if 32 <= c < 128 else '\\\\x%02x' % c for c in value))\n",
        machine.file("policy").display()
    );
    fs::write(&reader, format!("#!/usr/bin/env python3\n{answer}")).unwrap();
    fs::set_permissions(&reader, PermissionsExt::from_mode(0o755)).unwrap();
    machine.unlock(&["--root", root.to_str().unwrap()]).ok();

    // Words that its TemplateVM asked for, and another kernel that nobody approved.
    let asked = format!("{} init=/bin/sh", Dom0::cmdline());
    let refused = dom0.start_with(&refuse, &asked);
    assert!(refused["refused"].as_str().unwrap().contains("another command line"), "{refused}");
    assert_eq!(dom0.start_with(&locked, &asked)["log"].as_array().unwrap().len(), 1);
    // As Qubes has it, whatever is not empty is on.
    for (value, is_on) in [("", false), ("yes", true), ("0", true)] {
        let features = json!({ "vmseal-template": "debian", "vmseal-refuse": value });
        assert_eq!(dom0.start_with(&features, &asked)["refused"].is_string(), is_on, "{value}");
    }
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
    // Whatever else fails in qubesd.
    let broken = |features: Value, what: &str| {
        dom0.start_vm(json!({ "features": features, "fails": [what] }))
    };
    fs::write(&delivered, &good).unwrap();
    let started = broken(locked("debian"), "qdb");
    assert_eq!((&started["refused"], &started["qdb"]), (&Value::Null, &json!({})));
    assert!(started["log"][0].as_str().unwrap().contains("cannot hand over"), "{started}");
    assert_eq!(broken(locked("debian"), "xml")["refused"], Value::Null);
    let refused = broken(refuse("debian"), "xml");
    assert!(refused["refused"].as_str().unwrap().contains("it cannot be told: no template"));
    dom0.program("vmseal", "echo '{\"templates\": [{\"machines\": [{\"name\": \"work\"}]}]}'");
    expect("debian", "it cannot be told");
    fs::remove_file(dom0.path("bin/vmseal")).unwrap();
    expect("debian", "it cannot be told");
}

/// qubesd is one process for all VMs.
#[test]
fn a_vmseal_that_hangs_holds_up_neither_qubesd_nor_the_vm_for_ever() {
    let dom0 = Dom0::new();
    let pid = dom0.path("pid");
    dom0.program("vmseal", &format!("echo $$ > {}\nexec sleep 600", pid.display()));
    let start = |refuse: &str| {
        let features = json!({ "vmseal-template": "debian", "vmseal-refuse": refuse });
        let told = dom0.start_vm(json!({ "features": features, "patience": 1 }));
        // It is gone, and nobody's zombie.
        let pid = fs::read_to_string(&pid).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
        told
    };
    let refused = start("1");
    assert!(refused["refused"].as_str().unwrap().contains("did not end in 1 seconds"), "{refused}");
    let started = start("");
    assert_eq!(started["refused"], Value::Null);
    assert!(started["log"][0].as_str().unwrap().contains("did not end in 1 seconds"), "{started}");
}

/// Of an HVM libvirt is told the command line alone: the device model has kernel and initrd.
#[test]
fn the_kernel_of_an_hvm_is_that_of_its_properties() {
    let dom0 = Dom0::new();
    let (kernel, initrd) = (dom0.path("vmlinuz"), dom0.path("initramfs"));
    // As `vmseal template check` tells of kernels that are files.
    let found = json!({ "templates": [{ "machines": [{
        "name": "work", "file": "/nowhere", "why": [],
        "kernel": kernel, "initrd": initrd, "cmdline": null,
    }] }] });
    dom0.program("vmseal", &format!("echo '{found}'"));
    let start = |virt_mode: &str, kernel: &Path| {
        let told = dom0.start_vm(json!({
            "features": { "vmseal-template": "debian", "vmseal-refuse": "1" },
            "virt_mode": virt_mode, "kernel": kernel, "initrd": initrd,
        }));
        told["refused"].as_str().map(str::to_owned)
    };
    for virt_mode in ["pvh", "hvm"] {
        assert_eq!(start(virt_mode, &kernel), None, "{virt_mode}");
        let refused = start(virt_mode, &initrd).unwrap();
        assert!(refused.ends_with("another kernel than the template tells"), "{refused}");
    }
}

#[test]
fn a_vm_is_given_the_key_of_its_own_template_only() {
    let dom0 = Dom0::new();
    let rpc = dom0.path("installed/etc/qubes-rpc/vmseal.TemplateKey");
    let call = |vm: &str, argument: &str| {
        let mut rpc = dom0.in_dom0(rpc.to_str().unwrap());
        rpc.env("QREXEC_REMOTE_DOMAIN", vm).env("QREXEC_SERVICE_ARGUMENT", argument);
        run(&mut rpc)
    };
    assert!(call("work", "").ok().stdout.starts_with("-----BEGIN PUBLIC KEY-----"));
    let refused = call("other", "").code(1).says("no vmseal-template");
    assert!(refused.stdout.is_empty());
    call("work", "fedora").code(1).says("takes no argument");
    // Services of dom0 run as its user, who cannot read the key, and whom sudo asks for nothing.
    dom0.program("id", "echo 1000");
    let asked = dom0.path("asked");
    dom0.program("sudo", &format!("echo \"$*\" > {}\nshift 2\nexec \"$@\"", asked.display()));
    assert!(call("work", "").ok().stdout.starts_with("-----BEGIN PUBLIC KEY-----"));
    let asked = fs::read_to_string(asked).unwrap();
    assert_eq!(asked, "-n -- vmseal authority export -- debian\n");
    dom0.program("qvm-features", "echo");
    call("work", "").code(1).says("no vmseal-template");
}

/// As qrexec reads a policy: the first line that fits decides; `@anyvm` is not dom0.
#[test]
fn only_tagged_vms_get_the_key_and_from_dom0_only() {
    let policy = fs::read_to_string(project().join("qubes/dom0/30-vmseal.policy")).unwrap();
    let rules = policy.lines().filter(|line| !line.starts_with('#'));
    let rules: Vec<Vec<&str>> = rules.map(|line| line.split_whitespace().collect()).collect();
    let decide = |argument: &str, is_tagged: bool, target: &str| {
        let fits = |rule: &&Vec<&str>| {
            assert_eq!((rule.len(), rule[0]), (5, "vmseal.TemplateKey"));
            (rule[1] == "*" || rule[1] == argument)
                && (rule[2] == "@anyvm" || (rule[2] == "@tag:vmseal" && is_tagged))
                && (rule[3] == target || (rule[3] == "@anyvm" && target != "@adminvm"))
        };
        rules.iter().find(fits).unwrap()[4]
    };
    assert_eq!(decide("+", true, "@adminvm"), "allow");
    for (argument, is_tagged, target) in
        [("+", false, "@adminvm"), ("+fedora", true, "@adminvm"), ("+", true, "work")]
    {
        assert_eq!(decide(argument, is_tagged, target), "deny", "{argument} {target}");
    }
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
        let mut script = dom0
            .in_dom0(dom0.path("installed/usr/lib/vmseal/qubes-kernel-updated").to_str().unwrap());
        script.env("VMSEAL_KERNELS", &kernels).env("VMSEAL_TEMPLATES", &templates);
        let ran = run(&mut script).ok();
        // dnf 5 obeys what stands there.
        assert_eq!(ran.stdout, "");
        ran.stderr
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

/// What dnf's plugins run after a kernel for VMs came: dnf 4 of R4.2, dnf 5 of R4.3.
#[test]
fn both_dnfs_call_the_hook_for_every_kernel_of_vms() {
    let dom0 = Dom0::new();
    let only_line = |path: &str| {
        let text = fs::read_to_string(dom0.path("installed").join(path)).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 1, "{text}");
        lines[0].to_owned()
    };
    let hook = "/usr/lib/vmseal/qubes-kernel-updated";
    let action = only_line("etc/dnf/plugins/post-transaction-actions.d/vmseal.action");
    let actions = only_line("etc/dnf/libdnf5-plugins/actions.d/vmseal.actions");
    let four: Vec<_> = action.splitn(3, ':').collect();
    let five: Vec<_> = actions.splitn(5, ':').collect();
    assert_eq!(four, ["kernel*-qubes-vm", "in", hook]);
    assert_eq!(five, ["post_transaction", four[0], "in", "enabled=host-only", hook]);
    assert!(dom0.path("installed").join(&hook[1..]).exists());
    let (before, after) = four[0].split_once('*').unwrap();
    for package in ["kernel-qubes-vm", "kernel-latest-qubes-vm", "kernel-6.12-qubes-vm"] {
        assert!(package.starts_with(before) && package.ends_with(after));
    }
}
