use super::*;

const GOOD: &str = r#"
boot = "kernel"
kernel = "/srv/vmlinuz"
initrd = "@/srv/digests.json"
cmdline = "root=/dev/mapper/root ro"
memory = [1024, 2048]
cpus = [1, 2]
qemu = "10.0.13"

[[reference]]
log = "/srv/reference.log"
memory = 1024
cpus = 1

[[vm]]
name = "web1"
cmdline = "systemd.machine_id=11111111111111111111111111111111"

[[vm]]
name = "web2"
memory = 4096

[delivery]
kind = "fw_cfg"
"#;

#[test]
fn a_template_says_how_its_machines_boot() {
    let template = Template::parse("debian-13", GOOD).unwrap();
    let Boot::Kernel { kernel, initrd, .. } = &template.boot else { panic!("a kernel") };
    assert_eq!(*kernel, Material::File("/srv/vmlinuz".into()));
    assert_eq!(*initrd, Material::Digests("/srv/digests.json".into()));
    assert_eq!((template.qemu, template.bank), (Some((10, 0)), PcrBank::Sha256));
    assert_eq!(template.delivery.kind, DeliveryKind::FwCfg);
    assert_eq!(template.delivery.folder, PathBuf::from("/var/lib/vmseal-templates/debian-13"));
    let [web1, web2] = template.vms.as_slice() else { panic!("two machines") };
    let all = [(1024, 1), (1024, 2), (2048, 1), (2048, 2)].map(|(m, c)| (Some(m), Some(c)));
    assert_eq!(template.sizes(web1), all);
    assert_eq!(template.sizes(web2), [(4096, 1), (4096, 2)].map(|(m, c)| (Some(m), Some(c))));
    assert_eq!(template.cmdline(&web2.cmdline), "root=/dev/mapper/root ro");
    assert!(template.cmdline(&web1.cmdline).ends_with(
        "ro systemd.machine_id=1111111111111111111111111111111\
        1"
    ));
}

#[test]
fn without_machines_one_stands_for_all() {
    let text = GOOD.split("[[vm]]").next().unwrap();
    let template = Template::parse("debian-13", text).unwrap();
    let names: Vec<_> = template.machines().into_iter().map(|vm| vm.name).collect();
    assert_eq!(names, ["debian-13"]);
}

#[test]
fn only_known_words_may_be_a_machine_s_own() {
    let template = Template::parse("debian-13", GOOD).unwrap();
    let stranger = |words: &str| {
        let vm = Vm { name: "x".into(), cmdline: words.into(), memory: None, cpus: None };
        template.stranger(&vm).map(str::to_owned)
    };
    assert_eq!(stranger("vmseal.pin=ab  systemd.hostname=web1"), None);
    for (words, found) in [
        ("systemd.hostname=a init=/bin/sh", "init=/bin/sh"),
        ("single", "single"),
        ("systemd.hostname=\"a b\"", "systemd.hostname=\"a"),
        ("vmseal=off", "vmseal=off"),
        ("xsystemd.hostname=a", "xsystemd.hostname=a"),
    ] {
        assert_eq!(stranger(words).as_deref(), Some(found), "{words}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (from, to, cause) in [
        ("boot = \"kernel\"", "boot = \"bios\"", "line 2: unknown variant"),
        ("boot = \"kernel\"", "", "missing field `boot`"),
        ("cpus = [1, 2]", "cpu = [1, 2]", "line 7: unknown field `cpu`"),
        ("kernel = \"/srv/vmlinuz\"", "", "needs a kernel"),
        ("\"/srv/vmlinuz\"", "\"vmlinuz\"", "vmlinuz does not begin with a slash"),
        ("[[vm]]", "[machine]\ntype = \"q35,usb=on\"\n[[vm]]", "no name of a machine"),
        ("[[vm]]", "[machine]\nnic = \"user\"\n[[vm]]", "unknown field `nic`"),
        ("\"web2\"", "\"WEB1\"", "two machines of the name WEB1"),
        ("\"web2\"", "\"../web2\"", "no name of a machine"),
        ("ro\"", "ro\\u001b\"", "not printable"),
        ("qemu = \"10.0.13\"", "qemu = \"new\"", "qemu is no version"),
        ("fw_cfg", "pigeon", "unknown variant `pigeon`"),
        ("boot =", "bank = \"md5\"\nboot =", "bank is none"),
        ("boot =", "own_words = [\"\"]\nboot =", "own_words"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let found = Template::parse("debian-13", &GOOD.replacen(from, to, 1)).unwrap_err();
        assert!(found.contains(cause) && !found.contains('\n'), "{found:?}: {cause}");
    }
    assert!(Template::parse("../x", GOOD).is_err());
    let long = GOOD.replace("ro\"", &format!("{}\"", "x".repeat(Template::MAX_CMDLINE)));
    assert!(Template::parse("x", &long).unwrap_err().contains("bytes"));
    let many = "[[vm]]\nname = \"x\"\n".repeat(Template::MAX_VMS + 1);
    let text = GOOD.split("[[vm]]").next().unwrap().to_owned() + &many;
    assert!(Template::parse("x", &text).unwrap_err().contains("more than"));
}

const DISK: &str = r#"
boot = "disk"
image = "/srv/disk.img"
entries = ["rescue"]

[[reference]]
log = "/srv/reference.log"
"#;

#[test]
fn a_template_names_the_disk_that_its_machines_start_from() {
    let parse = |text: &str| Template::parse("debian-13", text).map(|template| template.boot);
    let image = Disk::Image("/srv/disk.img".into());
    let entries = vec!["rescue".to_owned()];
    assert_eq!(parse(DISK), Ok(Boot::Disk { disk: image, base: None, entries, grubenv: None }));
    let volumes = "esp = \"/srv/esp\"\nboot_volume = \"/dev/vg/boot\"\nbase = \"/srv/old.img\"";
    let boot = parse(&DISK.replace("image = \"/srv/disk.img\"", volumes)).unwrap();
    let Boot::Disk { disk, base, .. } = &boot else { panic!("{boot:?}") };
    assert_eq!(*base, Some(Disk::Image("/srv/old.img".into())));
    let (esp, volume) = ("/srv/esp".into(), Some("/dev/vg/boot".into()));
    assert_eq!(*disk, Disk::Volumes { esp, boot: volume });
    let paths: Vec<_> = boot.paths().into_iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/srv/esp", "/dev/vg/boot", "/srv/old.img"]);
    let uki = DISK
        .replace("\"disk\"", "\"uki\"")
        .replace("image = \"/srv/disk.img\"", "uki = \"/u.efi\"");
    let uki = uki.replace("entries = [\"rescue\"]", "");
    assert_eq!(parse(&uki), Ok(Boot::Uki { image: "/u.efi".into() }));
    let own = DISK.replace("image", "grubenv = \"own_words\"\nown_words = [\"a=\"]\nimage");
    assert_eq!(parse(&own).unwrap().grubenv(), Some("own_words"));
    let many = |count| {
        let vms = (0..count).map(|vm| format!("[[vm]]\nname = \"a{vm}\"\ncmdline = \"a={vm}\"\n"));
        parse(&vms.fold(own.clone(), |text, vm| text + &vm))
    };
    assert!(many(Template::MAX_OWN_DISKS).is_ok());
    let refused = many(Template::MAX_OWN_DISKS + 1).unwrap_err();
    assert!(refused.contains("more than 500 machines with words of their own"), "{refused}");
}

#[test]
fn what_belongs_to_another_kind_of_boot_is_refused() {
    for (from, to, cause) in [
        ("image =", "kernel = \"/k\"\nimage =", "boot = \"disk\" has no kernel"),
        ("image =", "cmdline = \"ro\"\nimage =", "boot = \"disk\" has no cmdline"),
        ("image =", "own_words = []\nimage =", "boot = \"disk\" has no own_words"),
        ("image =", "uki = \"/u.efi\"\nimage =", "boot = \"disk\" has no uki"),
        ("image =", "esp = \"/esp\"\nimage =", "image has esp and boot_volume in it"),
        ("image =", "boot_volume = ", "boot_volume needs esp"),
        ("image = \"/srv/disk.img\"", "", "needs an image, or an esp"),
        ("image = \"/srv", "image = \"srv", "does not begin with a slash"),
        ("image =", "base = \"old.img\"\nimage =", "does not begin with a slash"),
        ("image =", "grubenv = \"1\"\nimage =", "grubenv is no name of a variable"),
        ("image =", "grubenv = \"\"\nimage =", "grubenv is no name of a variable"),
        ("image =", "grubenv = \"a-b\"\nimage =", "grubenv is no name of a variable"),
        ("[[reference]]", "[[vm]]\nname = \"a\"\ncmdline = \"@all\"\n[[reference]]", "has @all"),
        ("\"rescue\"", "\"\"", "entries has one that is no name"),
        ("\"rescue\"", "\"\\u001b\"", "entries has one that is no name"),
        ("\"disk\"", "\"uki\"", "boot = \"uki\" has no image"),
        ("\"disk\"", "\"kernel\"", "boot = \"kernel\" has no image"),
    ] {
        assert!(DISK.contains(from), "{from}");
        let found = Template::parse("debian-13", &DISK.replacen(from, to, 1)).unwrap_err();
        assert!(found.contains(cause), "{found:?}: {cause}");
    }
}
