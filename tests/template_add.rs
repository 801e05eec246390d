//! `vmseal template add`: templates from what libvirt, QEMU and Qubes have of machines. The domains
//! are what libvirt 9.0 printed of machines that it had taken.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tempfile::TempDir;
use testkit::{Ran, run};
use vmseal::template::import::{Described, Draft, ImportError, libvirt, qemu, qubes};
use vmseal::template::{Boot, DeliveryKind, Material, Template, TpmInterface};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
const LINE: &str = "root=/dev/mapper/root ro systemd.machine_id=0123456789abcdef0123456789abcde";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/domains").join(name)
}

fn domain(name: &str) -> String {
    fs::read_to_string(fixture(&format!("{name}.xml"))).unwrap()
}

struct Host(TempDir);

impl Host {
    fn new() -> Self {
        Self(TempDir::with_prefix("vmseal-add-").unwrap())
    }

    fn add(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(VMSEAL);
        command.args(["template", "add"]).args(arguments).arg("--root").arg(self.0.path());
        run(&mut command)
    }

    /// Adds machines that libvirt has.
    fn add_domains(&self, domains: &[&str], more: &[&str]) -> Ran {
        let files: Vec<String> = domains
            .iter()
            .map(|name| fixture(&format!("{name}.xml")).display().to_string())
            .collect();
        let files = files.iter().map(String::as_str);
        let arguments: Vec<&str> = ["debian-13", "--libvirt"].into_iter().chain(files).collect();
        self.add(&[&arguments, more].concat())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("etc/vmseal/templates.d/debian-13.toml")
    }

    fn template(&self) -> Template {
        Template::parse("debian-13", &fs::read_to_string(self.file()).unwrap()).unwrap()
    }
}

fn boots(template: &Template) -> (&Path, &Path) {
    match &template.boot {
        Boot::Kernel { kernel: Material::File(kernel), initrd: Material::File(initrd), .. } => {
            (kernel, initrd)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn domains_that_boot_alike_become_one_template_with_the_words_they_differ_in() {
    let host = Host::new();
    let ran = host.add_domains(&["web1", "web2", "web3"], &[]).ok();
    assert!(ran.stderr.contains("vmseal reference-boot debian-13"), "{ran:#?}");
    let template = host.template();
    let machine = &template.hardware;
    assert_eq!(machine.kind, "pc-q35-10.0");
    assert_eq!(machine.firmware.as_deref(), Some(Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd")));
    assert_eq!((machine.tpm, machine.secure_boot), (TpmInterface::Crb, false));
    let (kernel, initrd) = boots(&template);
    assert_eq!(kernel, Path::new("/srv/debian-13/vmlinuz"));
    assert_eq!(initrd, Path::new("/srv/debian-13/initrd.img"));
    assert_eq!((template.memory.as_slice(), template.cpus.as_slice()), (&[2048][..], &[2][..]));
    assert_eq!(template.delivery.kind, DeliveryKind::FwCfg);
    for (index, vm) in template.vms.iter().enumerate() {
        let number = index + 1;
        assert_eq!(vm.name, format!("web{number}"));
        assert_eq!(template.cmdline(&vm.cmdline), format!("{LINE}{number} console=ttyS0"));
        assert_eq!(template.stranger(vm), None);
    }
    assert_eq!(template.vms.len(), 3);

    // A template is what somebody looked at: none is overwritten unasked.
    fs::write(host.file(), "mine").unwrap();
    host.add_domains(&["web1"], &[]).refused(3).says("is there already").says("--replace");
    assert_eq!(fs::read_to_string(host.file()).unwrap(), "mine");
    let ran = host.add_domains(&["web1"], &["--dry-run"]).ok();
    assert!(Template::parse("debian-13", &ran.stdout).is_ok(), "{ran:#?}");
    assert_eq!(fs::read_to_string(host.file()).unwrap(), "mine");
    host.add_domains(&["web1"], &["--replace"]).ok();
    assert_eq!(host.template().vms.len(), 1);
    let left = fs::read_dir(host.file().parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "something was left beside the template");
}

#[test]
fn a_running_machine_is_told_by_the_command_line_that_libvirt_made_of_it() {
    let of_xml = libvirt::describe(&domain("web1")).unwrap();
    let line = fs::read_to_string(fixture("web1.argv")).unwrap();
    let of_line = qemu::describe(&line).unwrap();
    assert_eq!(of_line, of_xml);
    // As the kernel shows it of a process: a shell splits the words.
    let printed = Command::new("sh")
        .args(["-c", &format!("printf '%s\\0' {}", line.trim())])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert_eq!(qemu::describe(&String::from_utf8(printed.stdout).unwrap()).unwrap(), of_xml);
    let host = Host::new();
    host.add(&["debian-13", "--qemu", fixture("web1.argv").to_str().unwrap()]).ok();
    let template = host.template();
    assert_eq!(template.cmdline(&template.vms[0].cmdline), format!("{LINE}1 console=ttyS0"));
    assert_eq!(template.vms[0].cmdline, LINE.rsplit(' ').next().unwrap().to_owned() + "1");
}

#[test]
fn a_script_is_read_as_a_shell_reads_it() {
    let script = "#!/bin/sh\nset -e\n# qemu-system-ppc -kernel no\nswtpm socket &\n\
        exec qemu-system-x86_64 -M q35,smm=on --enable-kvm -m 1G,slots=2 -smp cores=2,threads=2 \\\n\
        -drive if=pflash,format=raw,unit=1,file=/srv/vars,,1.fd \\\n\
        -drive if=pflash,format=raw,unit=0,readonly=on,file=/srv/code,,1.fd \\\n\
        -global driver=cfi.pflash01,property=secure,value=on -device tpm-tis,tpmdev=t \\\n\
        -kernel '/srv/my kernel' -initrd /srv/initrd -append \"quiet a=b\" -name db >/log &\n\
        echo -kernel other\n";
    let machine = qemu::describe(script).unwrap();
    let expected = Described {
        name: Some("db".into()),
        kernel: "/srv/my kernel".into(),
        initrd: "/srv/initrd".into(),
        cmdline: "quiet a=b".into(),
        memory: Some(1024),
        cpus: Some(4),
        firmware: Some("/srv/code,1.fd".into()),
        secure_boot: true,
        machine_type: Some("q35".into()),
        tpm: Some("tis".into()),
        ..Described::default()
    };
    assert_eq!(machine, expected);
    for (from, to, refused) in [
        ("/srv/initrd", "$INITRD", ImportError::Shell { option: "-initrd".into() }),
        ("-initrd /srv/initrd", "", ImportError::NoInitrd),
        ("-kernel '/srv/my kernel'", "", ImportError::OwnDisk),
        ("if=pflash", "if=none", ImportError::Bios),
        ("exec qemu-system-x86_64", "exec qemu-img", ImportError::NotQemu),
        ("\"quiet a=b\"", "\"quiet a=b", ImportError::NotQemu),
        ("1G,", "lots,", ImportError::Number { what: "memory", found: "lots".into() }),
        (
            "-m 1G,",
            "-m 99999999999999999T,",
            ImportError::Number { what: "memory", found: "99999999999999999T".into() },
        ),
        (
            "cores=2",
            "cores=0",
            ImportError::Number { what: "number of processors", found: "0".into() },
        ),
    ] {
        let changed = script.replace(from, to);
        assert_ne!(changed, script);
        assert_eq!(qemu::describe(&changed), Err(refused), "{to}");
    }
    let long = "a".repeat(qemu::MAX_LEN + 1);
    assert_eq!(qemu::describe(&long), Err(ImportError::TooLong { limit: qemu::MAX_LEN }));
}

#[test]
fn a_domain_that_no_host_can_approve_is_refused_by_name() {
    let host = Host::new();
    host.add_domains(&["disk"], &[]).refused(3).says("boots from its own disk");
    host.add_domains(&["bios"], &[]).refused(3).says("starts with a BIOS").says("OVMF");
    let good = domain("web1");
    let changed = |from: &str, to: &str| {
        let changed = good.replace(from, to);
        assert_ne!(changed, good, "{from}");
        libvirt::describe(&changed)
    };
    assert_eq!(
        changed("<initrd>/srv/debian-13/initrd.img</initrd>", ""),
        Err(ImportError::NoInitrd)
    );
    assert!(matches!(changed("type='qemu'>", "type='xen'>"), Err(ImportError::NotDomain { .. })));
    assert!(matches!(changed("2097152", "-1"), Err(ImportError::Number { what: "memory", .. })));
    assert!(matches!(changed("'KiB'>2", "'acre'>2"), Err(ImportError::Number { .. })));
    assert!(matches!(
        changed("'KiB'>2097152", "'TiB'>99999999999"),
        Err(ImportError::Number { .. })
    ));
    assert!(matches!(changed(">2</vcpu>", ">0</vcpu>"), Err(ImportError::Number { .. })));
    assert_eq!(changed("'static'>2", "'static' current='1'>2").unwrap().cpus, Some(1));
    assert_eq!(changed("'KiB'>2097152", "'GB'>1").unwrap().memory, Some(954));
    let no_tpm = changed("<tpm model='tpm-crb'>", "<tmp>").err();
    assert!(matches!(no_tpm, Some(ImportError::NotXml { .. })));
    assert_eq!(changed("version='2.0'", "version='1.2'").unwrap().open, ["it has no TPM 2.0"]);
    let unsaid = changed(" version='2.0'", "").unwrap();
    assert_eq!(unsaid.open, ["the version of its TPM is not told: it must be 2.0"]);

    // Of machines that boot otherwise no template is made that would tell one of them wrongly.
    let other = host.0.path().join("other.xml");
    for (from, to, what) in [
        ("/srv/debian-13/vmlinuz", "/srv/debian-12/vmlinuz", "another kernel"),
        ("/srv/debian-13/initrd.img", "/srv/debian-12/initrd.img", "another initrd"),
        ("OVMF_CODE_4M.fd", "OVMF_CODE.fd", "another firmware"),
        ("type='pflash'", "type='pflash' secure='yes'", "another setting of Secure Boot"),
    ] {
        fs::write(&other, domain("web2").replace(from, to)).unwrap();
        host.add_domains(&["web1", "web3"], &["--libvirt", other.to_str().unwrap()])
            .refused(3)
            .says("web1 and web2 boot with")
            .says(what);
    }
    // A name that would be a path, two of one name, and spaces that no template tells.
    for (from, to, what) in [
        ("<name>web2", "<name>../../web2", "no file can have the name"),
        ("<name>web2", "<name>web1", "two machines of the name"),
        ("<cmdline>", "<cmdline>\n", "a control character"),
        ("</cmdline>", " </cmdline>", "the spaces in the command line"),
    ] {
        fs::write(&other, domain("web2").replace(from, to)).unwrap();
        let files = ["--libvirt", other.to_str().unwrap()];
        host.add_domains(&["web1"], &files).refused(3).says(what);
    }
    assert!(!host.file().exists());
    host.add(&["../debian", "--libvirt", fixture("web1.xml").to_str().unwrap()]).refused(3);
    host.add(&["a", "--libvirt", "/no/file"]).refused(3).says("/no/file");
}

#[test]
fn hostile_xml_is_bounded() {
    let expanding = "<!DOCTYPE domain [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]>\
        <domain type='kvm'><name>&b;</name></domain>";
    let deep = format!("<domain type='kvm'>{}", "<a>".repeat(1 << 16));
    let wide = format!("<domain type='kvm'>{}</domain>", "<a/>".repeat(1 << 17));
    for xml in [expanding, &deep, &wide, "", "\0", "<domain"] {
        assert!(matches!(libvirt::describe(xml), Err(ImportError::NotXml { .. })));
    }
    let long = " ".repeat(libvirt::MAX_LEN + 1);
    assert_eq!(libvirt::describe(&long), Err(ImportError::TooLong { limit: libvirt::MAX_LEN }));
}

#[test]
fn words_that_not_every_machine_may_have_are_named_and_not_allowed() {
    let host = Host::new();
    let other = host.0.path().join("other.xml");
    fs::write(&other, domain("web2").replace("console=ttyS0", "init=/bin/sh console=ttyS0"))
        .unwrap();
    let ran = host.add_domains(&["web1"], &["--libvirt", other.to_str().unwrap()]).ok();
    assert!(ran.stderr.contains("may have: init="), "{ran:#?}");
    let template = host.template();
    assert_eq!(template.stranger(&template.vms[1]), Some("init=/bin/sh"));
    assert_eq!(template.own_words, Template::default_own_words());
}

#[test]
fn a_kernel_of_qubes_becomes_a_template_with_own_words_first() {
    let host = Host::new();
    let kernel = host.0.path().join("6.12.48-1");
    fs::create_dir(&kernel).unwrap();
    let add = |more: &[&str]| {
        host.add(&[&["debian-13", "--qubes", kernel.to_str().unwrap(), "--replace"], more].concat())
    };
    add(&[]).refused(3).says("vmlinuz");
    fs::write(kernel.join(qubes::KERNEL), "kernel").unwrap();
    fs::write(kernel.join(qubes::INITRD), "initrd").unwrap();
    add(&[]).refused(3).says("default-kernelopts-common.txt");
    fs::write(kernel.join(qubes::CMDLINE), "root=/dev/mapper/dmroot ro nomodeset\n").unwrap();
    add(&["--vm", "work=systemd.machine_id=1", "--vm", "web=systemd.machine_id=2"])
        .ok()
        .says("boot-mode.kernelopts");
    let template = host.template();
    assert_eq!(
        template.cmdline(&template.vms[1].cmdline),
        "systemd.machine_id=2 root=/dev/mapper/dmroot ro nomodeset"
    );
    assert_eq!(template.cmdline(""), "root=/dev/mapper/dmroot ro nomodeset");
    assert_eq!(boots(&template).0, kernel.join("vmlinuz"));
    // kernelopts of each come after what all have: its pin.
    let ends = |name: &str| {
        format!("{name}=systemd.machine_id={name} @all swiotlb=2048 vmseal.pin={name}")
    };
    let vms = ["work", "web"].map(ends);
    add(&[
        "--vm",
        &vms[0].replace("swiotlb=2048 ", ""),
        "--vm",
        &vms[1].replace("swiotlb=2048 ", ""),
    ])
    .ok();
    let template = host.template();
    assert_eq!(template.cmdline(""), "root=/dev/mapper/dmroot ro nomodeset");
    for vm in &template.vms {
        let name = &vm.name;
        assert_eq!(
            template.cmdline(&vm.cmdline),
            format!(
                "systemd.machine_id={name} root=/dev/mapper/dmroot ro nomodeset vmseal.pin={name}"
            )
        );
        assert_eq!(template.stranger(vm), None);
    }
    // What kernelopts have in common are words of all.
    add(&["--vm", &vms[0], "--vm", &vms[1]]).ok();
    let template = host.template();
    for vm in &template.vms {
        let line = template.cmdline(&vm.cmdline);
        assert!(
            line.ends_with(&format!("nomodeset swiotlb=2048 vmseal.pin={}", vm.name)),
            "{line}"
        );
    }
    // Twice, or where the template has a place for them, they are in nobody's place.
    let text = fs::read_to_string(host.file()).unwrap();
    for (from, to) in [("@all", "@all @all"), ("cmdline = \"root", "cmdline = \"@own root")] {
        let refused = Template::parse("debian-13", &text.replacen(from, to, 1)).unwrap_err();
        assert!(refused.contains("has @all twice, or where the template has @own"), "{refused}");
    }
    // What is not filled in is refused, not taken.
    let mut check = Command::new(VMSEAL);
    check.args(["template", "check", "debian-13"]).arg("--root").arg(host.0.path());
    run(&mut check).code(3).says("/var/lib/vmseal/references/debian-13.log");
}

fn line() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[ -~]{0,6}",
        Just("ro".to_owned()),
        Just("root=/dev/x".to_owned()),
        Just("@own".to_owned()),
        Just("@all".to_owned()),
        Just("vmseal.pin=x".to_owned()),
        "systemd\\.machine_id=[0-9]",
    ];
    proptest::collection::vec(word, 0..6).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Whatever is written is read as what was described; else nothing is written.
    #[test]
    fn what_is_written_is_what_was_described(
        lines in proptest::collection::vec(line(), 1..5),
        kernel in "/[ -~]{0,12}",
        memory in proptest::option::of(1_u64..4096),
    ) {
        let machines: Vec<Described> = lines.iter().enumerate().map(|(index, line)| Described {
            name: Some(format!("vm{index}")),
            kernel: kernel.clone(),
            initrd: "/initrd".into(),
            cmdline: line.clone(),
            memory,
            ..Described::default()
        }).collect();
        let draft = Draft::of("t", "a file\n[vm]", &machines, DeliveryKind::FwCfg);
        if let Ok(Draft { text, .. }) = draft {
            let template = Template::parse("t", &text).unwrap();
            prop_assert_eq!(template.vms.len(), lines.len());
            for (vm, line) in template.vms.iter().zip(&lines) {
                prop_assert_eq!(&template.cmdline(&vm.cmdline), line);
            }
        } else {
            // Only what a template cannot tell is refused.
            let odd = |line: &String| {
                line.split(' ').any(|word| word.is_empty() || word == "@own" || word == "@all")
            };
            prop_assert!(lines.iter().any(odd), "{:?}", draft);
        }
    }

    #[test]
    fn no_text_brings_a_reader_down(text in ".{0,200}", xml in "(<[a-z]{0,6}( type='kvm')?/?>|[a-z]){0,12}") {
        let _ = libvirt::describe(&text);
        let _ = libvirt::describe(&xml);
        let _ = qemu::describe(&format!("qemu-system-x86_64 {text}"));
        let _ = qemu::describe(&format!("kvm\0-kernel\0{text}\0-drive\0if=pflash,{text}\0-smp\0{text}\0-m\0{text}"));
    }
}
