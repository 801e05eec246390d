//! `vmseal reseal --template` for machines that start from copies of one disk: what lies on it is read
//! by a confined process, and what that tells is signed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod disk;
mod guest;
mod host;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::*;
use guest::fixture;
use host::{Host, VMS, machine, opens};
use serde_json::{Value, json};
use testkit::{Disk, run};

/// A template `debian` whose machines start from copies of a disk.
struct Template {
    host: Host,
    public: PathBuf,
    image: PathBuf,
}

impl Template {
    /// Its disk is the case's, and so was that of the reference boot.
    fn of(case: &str, initrd: &[u8]) -> Self {
        let host = Host::new();
        let (public, image) = (host.authority("debian"), host.path("debian.img"));
        let template = Self { host, public, image };
        let disk = disk(case, initrd);
        disk.write(&template.image);
        log(case, &disk, template.reference());
        template.write("", VMS);
        template
    }

    fn reference(&self) -> PathBuf {
        self.host.path("reference.bin")
    }

    fn write(&self, keys: &str, machines: &str) {
        let boot = format!("boot = \"disk\"\nimage = {:?}\n{keys}\n", self.image);
        self.host.template_of("debian", &boot, &self.reference(), machines);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.host.delivery("debian").join(format!("{name}.json"))
    }

    /// Puts this on the disk, and gives the log of the boot from it.
    fn update(&self, case: &str, disk: &Disk) -> PathBuf {
        disk.write(&self.image);
        log(case, disk, self.host.path("updated.bin"))
    }
}

/// Three copies open after an approval each, and none before.
#[track_caller]
fn an_update_opens_once_it_is_approved(before: &str, after: &str, changes: &[&str]) {
    let template = Template::of(before, b"an initrd");
    let host = &template.host;
    let mut machines = ["a", "b", "c"].map(|name| (name, machine(&template.public, before)));
    host.reseal(&["--template", "debian"]).code(20);
    assert!(!template.file("a").exists());
    host.reseal(&["--template", "debian", "--yes"]).ok();
    let headers = machines.each_mut().map(|(name, machine)| {
        machine.boot_log(template.reference());
        opens(machine, &template.file(name)).ok();
        machine.image.snapshot()
    });
    let updated = template.update(after, &disk(after, b"another initrd"));
    for (name, machine) in &mut machines {
        machine.boot_log(updated.clone());
        opens(machine, &template.file(name)).code(19).says("pcr 9");
    }
    let ran = host.reseal(&["--template", "debian", "--yes"]).ok();
    for change in changes {
        assert!(ran.stderr.contains(change), "{change}: {ran:#?}");
    }
    for ((name, machine), header) in machines.iter_mut().zip(&headers) {
        opens(machine, &template.file(name)).ok();
        assert!(machine.image.snapshot() == *header, "the header of {name} was written");
        // What was approved before stays so until the approval after this one.
        machine.boot_log(template.reference());
        opens(machine, &template.file(name)).ok();
    }
    let ran = host.reseal(&["--template", "debian"]).ok();
    assert!(ran.stdout.contains("approved already"), "{ran:#?}");
    host.reseal(&["--template", "debian", "--narrow", "--yes"]).ok();
    opens(&machines[0].1, &template.file("a")).refused(19);
    host.vmseal(&["journal", "--verify"]).ok();
}

#[test]
fn copies_of_a_disk_with_systemd_boot_open_after_their_host_s_approval() {
    let changes = ["changes of deb.conf: PCR 9\n", "from /deb/initrd"];
    an_update_opens_once_it_is_approved(SDBOOT, SDBOOT, &changes);
}

#[test]
fn copies_of_a_disk_with_grub_open_after_their_host_s_approval() {
    let changes = ["vmlinuz", "initrd", "recovery", "it has another command line"];
    an_update_opens_once_it_is_approved(GRUB, GRUB_KERNEL, &changes);
}

#[test]
fn copies_of_a_disk_with_grub_that_measures_nothing_open_after_their_host_s_approval() {
    an_update_opens_once_it_is_approved(PLAIN_GRUB, PLAIN_GRUB_KERNEL, &["vmlinuz", "initrd"]);
}

/// Its log does not tell the command line, but the menu does.
#[test]
fn another_kernel_of_a_grub_that_measures_nothing_is_approved_with_the_first() {
    let template = Template::of(PLAIN_GRUB, b"an initrd");
    let ran = template.host.reseal(&["--template", "debian", "--yes", "--json"]).ok().json();
    let boots = ran["templates"][0]["boots"].as_array().unwrap();
    assert!(boots[1]["entry"].as_str().unwrap().contains("6.1.0-56"), "{boots:?}");
}

/// An entry with other words, as for repairs.
const RESCUE: &str = "loader/entries/rescue.conf";

fn with_rescue() -> Disk {
    let mut disk = disk(SDBOOT, b"an initrd");
    let other = fixture("sdboot/cmdline").join("esp/loader/entries/deb.conf");
    let other = fs::read_to_string(other).unwrap();
    disk.esp.insert(RESCUE.to_owned(), format!("sort-key z\n{other}").into_bytes());
    disk.esp.insert("loader/loader.conf".to_owned(), b"default deb.conf\n".to_vec());
    disk
}

#[test]
fn an_entry_with_other_words_opens_where_the_template_names_it() {
    let template = Template::of(SDBOOT, b"an initrd");
    let host = &template.host;
    template.update(SDBOOT, &with_rescue());
    let ran = host.reseal(&["--template", "debian", "--yes"]).ok();
    ran.says("left out: rescue.conf: it has another command line");
    let mut machine = machine(&template.public, SDBOOT);
    machine.boot_log(log("sdboot/cmdline", &with_rescue(), host.path("rescue.bin")));
    opens(&machine, &template.file("a")).code(19).says("pcr 4+9+12");
    template.write("entries = [\"rescue\"]", VMS);
    let json = host.reseal(&["--template", "debian", "--yes", "--json"]).ok().json();
    let told = &json["templates"][0];
    assert_eq!((&told["left_out"], &told["new_boots"]), (&json!([]), &json!(1)), "{told}");
    assert_eq!(told["boots"][1]["entry"], "rescue.conf");
    opens(&machine, &template.file("a")).ok();
    template.write("entries = [\"none\"]", VMS);
    host.reseal(&["--template", "debian", "--yes"]).code(20).says("none: no entry is called so");
}

#[test]
fn what_the_disk_does_not_tell_is_not_approved() {
    let template = Template::of(SDBOOT, b"an initrd");
    let host = &template.host;
    let refused = |code: i32, why: &str| {
        let ran = host.reseal(&["--template", "debian", "--yes"]);
        let ran = if code == 3 { ran.refused(3) } else { ran.code(code) };
        ran.says(why);
        assert!(!host.delivery("debian").exists(), "{why}");
    };
    let whole = disk(SDBOOT, b"an initrd");
    // The log of the reference boot knows a loader that the disk does not have any more.
    for (lacking, code, why) in [
        (LOADER, 20, "its file is not on the disk"),
        ("deb/initrd", 20, "its file is not on the disk"),
        ("deb/vmlinuz", 20, "its file is not on the disk"),
    ] {
        let mut disk = whole.clone();
        disk.esp.remove(lacking).unwrap();
        disk.write(&template.image);
        refused(code, why);
    }
    fs::write(&template.image, vec![0x5a; 1 << 20]).unwrap();
    refused(3, "no FAT or ext4 file system");
    fs::remove_file(&template.image).unwrap();
    refused(3, "debian.img: No such file");
    whole.write(&template.image);
    template.write("kernel = \"/srv/vmlinuz\"", VMS);
    refused(3, "boot = \"disk\" has no kernel");
    let given = fixture(host::BASE).join("log.bin");
    host.template_of(
        "debian",
        &format!("boot = \"disk\"\nimage = {:?}", template.image),
        &given,
        VMS,
    );
    refused(3, "did not start from a disk");
    // A machine's words are on its disk, where they are not its own.
    let own = "[[vm]]\nname = \"d\"\ncmdline = \"systemd.hostname=d\"\n";
    template.write("", &format!("{VMS}{own}"));
    host.reseal(&["--template", "debian", "--yes"])
        .code(20)
        .says("not covered: d: its command line is on its disk");
    assert!(template.file("a").exists() && !template.file("d").exists());
}

/// The volumes one by one, as folders, beside those of the reference boot.
#[test]
fn a_disk_in_folders_is_as_good_as_an_image() {
    let template = Template::of(GRUB, b"an initrd");
    let host = &template.host;
    let folders = |disk: &Disk, name: &str| {
        disk.lay_out(&host.path(name));
        ["esp", "boot"].map(|volume| host.path(name).join(volume))
    };
    let [base_esp, base_boot] = folders(&disk(GRUB, b"an initrd"), "before");
    let new = disk(GRUB_KERNEL, b"another initrd");
    let [esp, boot] = folders(&new, "after");
    let keys = format!(
        "boot = \"disk\"\nesp = {esp:?}\nboot_volume = {boot:?}\n\
         base_esp = {base_esp:?}\nbase_boot_volume = {base_boot:?}\n"
    );
    host.template_of("debian", &keys, &template.reference(), VMS);
    host.reseal(&["--template", "debian", "--yes"]).ok();
    let mut machine = machine(&template.public, GRUB);
    machine.boot_log(log(GRUB_KERNEL, &new, host.path("updated.bin")));
    opens(&machine, &template.file("a")).ok();
}

#[test]
fn a_folder_gives_no_way_to_what_lies_elsewhere_on_the_host() {
    let template = Template::of(SDBOOT, b"an initrd");
    let host = &template.host;
    disk(SDBOOT, b"an initrd").lay_out(&host.path("disk"));
    let esp = host.path("disk/esp");
    host.template_of(
        "debian",
        &format!("boot = \"disk\"\nesp = {esp:?}"),
        &template.reference(),
        VMS,
    );
    host.reseal(&["--template", "debian", "--yes"]).ok();
    let initrd = esp.join("deb/initrd");
    for elsewhere in [host.path("root/etc/vmseal/authorities/debian.pem"), "/etc/passwd".into()] {
        fs::remove_file(&initrd).unwrap();
        std::os::unix::fs::symlink(elsewhere, &initrd).unwrap();
        host.reseal(&["--template", "debian", "--yes"]).code(20).says("permission denied");
    }
}

/// What a guest has on its disk can keep its own template waiting, and changes nothing of another.
#[test]
fn a_forged_disk_changes_no_signature_of_another_template() {
    let template = Template::of(SDBOOT, b"an initrd");
    let host = &template.host;
    host.authority("evil");
    let evil = host.path("evil.img");
    let write = |image: &Path| {
        let boot = format!("boot = \"disk\"\nimage = {image:?}\n");
        host.template_of("evil", &boot, &template.reference(), VMS);
    };
    write(&template.image);
    host.reseal(&["--all", "--yes"]).ok();
    let delivered = |name: &str| fs::read(host.delivery(name).join("a.json")).unwrap();
    let (debian, before) = (delivered("debian"), delivered("evil"));
    let account = fs::read(host.path("root/var/lib/vmseal/host/evil.json")).unwrap();
    template.update(SDBOOT, &disk(SDBOOT, b"another initrd"));
    for forged in [&b""[..], &[0x5a; 1 << 20], b"\xeb\x58\x90mkfs.fat"] {
        fs::write(&evil, forged).unwrap();
        write(&evil);
        let ran = host.reseal(&["--all", "--yes"]).code(3);
        ran.says("template evil: ").says("nothing of it is changed");
    }
    // Nor does a log that is none.
    let noise = host.path("noise.bin");
    fs::write(&noise, [0xff; 4096]).unwrap();
    host.template_of("evil", &format!("boot = \"disk\"\nimage = {evil:?}"), &noise, VMS);
    host.reseal(&["--all", "--yes"]).code(3).says("template evil: ");
    write(&evil);
    // Of the other one all was approved meanwhile, and of this one nothing.
    assert_ne!(delivered("debian"), debian);
    assert_eq!(delivered("evil"), before);
    assert_eq!(fs::read(host.path("root/var/lib/vmseal/host/evil.json")).unwrap(), account);
    let debian = delivered("debian");
    // Nor does a whole disk of another system: it is approved for its own template's key only.
    with_rescue().write(&evil);
    host.reseal(&["--all", "--yes"]).ok();
    assert_eq!(delivered("debian"), debian);
    host.vmseal(&["journal", "--verify"]).ok();
}

#[test]
fn a_disk_that_changes_while_somebody_is_asked_is_not_approved() {
    let template = Template::of(SDBOOT, b"an initrd");
    let (image, log) = (template.image.display(), template.reference());
    for change in [format!("printf x >> {image}"), format!("touch {}", log.display())] {
        let ran = template.host.at_a_terminal(&["--template", "debian"], &change, "y").code(20);
        assert!(ran.stdout.contains("changed since it was shown"), "{change}: {ran:#?}");
        assert!(!template.file("a").exists(), "{change}");
    }
    template.host.at_a_terminal(&["--template", "debian"], "true", "y").ok();
    assert!(template.file("a").exists());
}

/// The process that reads the disk is killed as it gives up its rights, or its kernel does not let
/// it.
#[test]
fn without_a_confined_reader_nothing_is_signed() {
    let template = Template::of(SDBOOT, b"an initrd");
    let host = &template.host;
    for (call, inject, why) in [
        ("landlock_restrict_self", "signal=KILL", "ended before its time: signal: 9"),
        ("landlock_create_ruleset", "error=ENOSYS", "(Landlock): this kernel does not have it"),
        ("seccomp", "error=EINVAL", "cannot give up rights (seccomp)"),
    ] {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", &format!("--trace={call}")]);
        strace.arg(format!("--inject={call}:{inject}")).arg(env!("CARGO_BIN_EXE_vmseal"));
        strace.args(["reseal", "--template", "debian", "--yes", "--root"]).arg(host.path("root"));
        run(&mut strace).refused(3).says(why);
        assert!(!template.file("a").exists(), "{call}");
    }
    host.reseal(&["--template", "debian", "--yes"]).ok();
}

const OWN_VMS: &str = "
[[vm]]
name = \"a\"
cmdline = \"systemd.hostname=a vmseal.pin=aa\"
[[vm]]
name = \"b\"
cmdline = \"vmseal.pin=bb\"
[[vm]]
name = \"c\"
cmdline = \"init=/bin/sh\"
[[vm]]
name = \"d\"
";

#[test]
fn own_words_in_grub_s_environment_block_are_approved_for_their_machine_alone() {
    own_words_are_approved_for_their_machine_alone(GRUB);
}

#[test]
fn own_words_of_a_grub_that_measures_nothing_are_approved_too() {
    own_words_are_approved_for_their_machine_alone(PLAIN_GRUB);
}

/// Machines whose volumes have keys of their own need words of their own, which GRUB reads from their
/// disks.
#[track_caller]
fn own_words_are_approved_for_their_machine_alone(case: &str) {
    let template = Template::of(case, b"an initrd");
    let host = &template.host;
    template.write("grubenv = \"own\"", OWN_VMS);
    let unchanged = host.reseal(&["--template", "debian", "--yes"]).code(20);
    unchanged.says("not covered: a, b: ").says("no word of the machine's own comes into it");
    assert!(template.file("d").exists() && !template.file("a").exists());

    let mut disk = disk(case, b"an initrd");
    let menu = disk.boot.get_mut("grub/grub.cfg").unwrap();
    let text = String::from_utf8(menu.clone()).unwrap();
    *menu =
        text.replace(" ro ", " ro $own ").replace("load_env\n", "load_env\nexport own\n").into();
    disk.write(&template.image);
    let ran = host.reseal(&["--template", "debian", "--yes"]).code(20);
    let ran =
        ran.says("not covered: c: init=/bin/sh is no word that a machine may have of its own");
    let ran = ran.says("with its own words a measures of gnulinux-simple");
    let ran = ran.says("new machine a with systemd.hostname=a vmseal.pin=aa of its own");
    assert!(!ran.stderr.contains("with its own words d"), "{ran:#?}");
    assert!(!template.file("c").exists());
    let signed = |name: &str| -> Vec<String> {
        let file: Value = serde_json::from_slice(&fs::read(template.file(name)).unwrap()).unwrap();
        let signed = file["sha256"].as_array().unwrap().iter();
        signed.map(|signed| signed["pol"].as_str().unwrap().to_owned()).collect()
    };
    let (a, b) = (signed("a"), signed("b"));
    assert!(!a.is_empty() && !a.iter().any(|policy| b.contains(policy)), "{a:?} {b:?}");
    let again = host.reseal(&["--template", "debian", "--json"]).code(20).json();
    let told = &again["templates"][0];
    assert_eq!(told["new_boots"], 0, "{told}");
    let boots = told["boots"].as_array().unwrap();
    let of = |machine: Value| boots.iter().filter(|boot| boot["machine"] == machine).count();
    assert_eq!(
        (of(json!("a")), of(json!("b")), of(json!("d"))),
        (of(Value::Null), of(Value::Null), 0)
    );

    // There is no room for all words in the block, which has 1024 bytes.
    let words = format!("vmseal.pin={}", "x".repeat(1024));
    template.write("grubenv = \"own\"", &format!("[[vm]]\nname = \"a\"\ncmdline = \"{words}\"\n"));
    let full = host.reseal(&["--template", "debian", "--yes"]).code(20);
    full.says("it has no room for a machine's own words");
}
