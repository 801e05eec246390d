//! Machines that start from copies of one disk: their host reads the disk from outside, and approves
//! the boots of all copies at once. Where GRUB starts them, each has a volume key and words of its own.

use std::fs;
use std::process::Command;

use tempfile::TempDir;
use testkit::image::PASSPHRASE;
use testkit::{Ran, run, tool};

use super::installed::{Installed, LOGIN, PROMPT};
use super::kind::{DRACUT_UKI, INITRAMFS_GRUB, INITRAMFS_GRUB_TPM, Kind, Loader, VOLUME_UUID};
use crate::guest::Boot;
use crate::machine::UKI;
use crate::workshop::{UkiParts, in_trixie, join_uki, text};

/// The logs of a boot; systemd has none of its own in every initramfs.
const LOGS: &str = "cat /sys/kernel/security/tpm0/binary_bios_measurements >/out/log &&
touch /out/userspace && cat /run/log/systemd/tpm2-measure.log >/out/userspace || true";
/// A word that no machine of the template may have.
const STRANGE: &str = "audit=0";
const GRUBENV: &str = "boot/grub/grubenv";

#[test]
fn a_copy_of_a_disk_opens_its_root_once_the_host_approved_its_update() {
    open_after_one_reseal(INITRAMFS_GRUB, 1, "PCR 0+4+7+9");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn three_copies_open_their_roots_after_one_reseal_and_a_strange_one_does_not() {
    open_after_one_reseal(INITRAMFS_GRUB, 4, "PCR 0+4+7+9");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn copies_of_a_disk_with_a_grub_that_measures_open_too() {
    open_after_one_reseal(INITRAMFS_GRUB_TPM, 1, "PCR 0+4+7+8+9");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn copies_of_a_disk_with_a_unified_kernel_image_open_too() {
    open_after_one_reseal(DRACUT_UKI, 1, "PCR 0+4+7");
}

/// One machine, and its own words.
struct Copy {
    installed: Installed,
    words: String,
}

impl Copy {
    /// The last of several is strange.
    fn new(kind: Kind, number: usize, count: usize) -> Self {
        let installed = Installed::new(kind);
        let mut words = String::new();
        if kind.loader != Loader::Uki {
            let pin = installed.give_own_key();
            words = format!("systemd.machine_id={number:032x} vmseal.pin={VOLUME_UUID}:{pin}");
        }
        if number > 0 && number + 1 == count {
            words += &format!(" {STRANGE}");
        }
        Self { installed, words }
    }

    fn is_strange(&self) -> bool {
        self.words.contains(STRANGE)
    }

    fn header(&self) -> Vec<u8> {
        fs::read(self.installed.guest.volume()).unwrap()[..16 << 20].to_vec()
    }

    /// GRUB's own tool puts the words where the menu takes them from.
    fn set_words(&self) {
        let block = self.installed.guest.file("grubenv");
        fs::write(&block, self.installed.read(GRUBENV)).unwrap();
        in_trixie(&["grub-editenv", text(&block), "set", &format!("own_words={}", self.words)]);
        self.installed.write(GRUBENV, &fs::read(block).unwrap());
    }

    #[track_caller]
    fn stands_at_the_prompt(&self, pcrs: &str) {
        let refusal = self.installed.boot(&Boot::new()).await_passphrase_prompt();
        assert!(refusal.contains(&format!("no signature covers sha256 {pcrs}")), "{refusal}");
    }

    #[track_caller]
    fn opens(&self) {
        let mut console = self.installed.boot(&Boot::new().run("cat /run/vmseal/boot.json"));
        assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
        console.exits_saying(0, "\"by\": \"tpm\"");
        console.await_off();
    }
}

/// The host, and the disk that it makes machines of.
struct Host {
    folder: TempDir,
    disk: Installed,
    copies: Vec<Copy>,
}

impl Host {
    fn new(kind: Kind, count: usize) -> Self {
        let folder = TempDir::with_prefix("vmseal-host-").unwrap();
        let copies = (0..count).map(|number| Copy::new(kind, number, count)).collect();
        let host = Self { folder, disk: Installed::new(kind), copies };
        if kind.loader != Loader::Uki {
            // As GRUB_CMDLINE_LINUX and a file in /etc/grub.d would have it.
            let menu = String::from_utf8(host.disk.read("boot/grub/grub.cfg")).unwrap();
            let with_words = menu.replace("console=ttyS0", "console=ttyS0 $own_words");
            let with_words = with_words.replace("  load_env\n", "  load_env\n  export own_words\n");
            assert!(with_words.contains("  export own_words\n"), "{menu}");
            host.disk.write("boot/grub/grub.cfg", with_words.as_bytes());
        }
        host
    }

    fn vmseal(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
        run(command.args(arguments).arg("--root").arg(self.folder.path()))
    }

    /// Approves, and hands over what was signed. A strange machine is named, and gets nothing.
    fn reseal(&self) -> Ran {
        let strange = self.copies.iter().position(Copy::is_strange);
        let ran = self.vmseal(&["reseal", "--template", "debian", "--yes"]);
        let ran = match strange {
            None => ran.ok(),
            Some(number) => {
                let why = format!("not covered: vm{number}: {STRANGE} is no word that a machine");
                ran.code(20).says(&why)
            }
        };
        for (number, copy) in self.copies.iter().enumerate() {
            let file = self.folder.path().join(format!("delivered/vm{number}.json"));
            assert_eq!(file.exists(), !copy.is_strange());
            if file.exists() {
                fs::copy(file, copy.installed.guest.file("policy.json")).unwrap();
            }
        }
        ran
    }

    /// Gives every machine the disk as it is now, and its own words.
    fn copy_disk(&self) {
        for copy in &self.copies {
            let [from, to] = [&self.disk, &copy.installed].map(|it| it.guest.file("disk.img"));
            tool("cp", &["--sparse=always", text(&from), text(&to)]);
            if !copy.words.is_empty() {
                copy.set_words();
            }
        }
    }

    /// What the host started first tells of the firmware.
    fn write_template(&self) {
        let mut reference = String::new();
        for name in ["log", "userspace"] {
            let bytes = self.copies[0].installed.guest.output(name);
            let path = self.folder.path().join(name);
            fs::write(&path, &bytes).unwrap();
            if !bytes.is_empty() {
                reference += &format!("{name} = {path:?}\n");
            }
        }
        let mut vms = String::new();
        for (number, copy) in self.copies.iter().enumerate() {
            vms += &format!("[[vm]]\nname = \"vm{number}\"\ncmdline = \"{}\"\n", copy.words);
        }
        let template = format!(
            "boot = \"disk\"\nimage = {:?}\ngrubenv = \"own_words\"\n[[reference]]\n{reference}{vms}\
             [delivery]\nkind = \"files\"\nfolder = {:?}\n",
            self.disk.guest.file("disk.img"),
            self.folder.path().join("delivered"),
        );
        let templates = self.folder.path().join("etc/vmseal/templates.d");
        fs::create_dir_all(&templates).unwrap();
        fs::write(templates.join("debian.toml"), template).unwrap();
    }

    /// What an update does: another kernel and another initrd, or another command line.
    fn update(&self, kind: Kind) {
        let release = fs::read_to_string(kind.part("release")).unwrap();
        let release = release.trim_end();
        if kind.loader == Loader::Uki {
            let (kernel, initrd) = (&kind.part("vmlinuz"), &kind.part("initrd"));
            let command_line = &format!("{} loglevel=4", kind.command_line());
            let uki = self.folder.path().join("new.efi");
            join_uki(&UkiParts { kernel, initrd, release, command_line }, &uki);
            return self.disk.write(UKI, &fs::read(uki).unwrap());
        }
        for (name, more) in [("vmlinuz", 16), ("initrd.img", 4)] {
            let path = format!("boot/{name}-{release}");
            let mut bytes = self.disk.read(&path);
            bytes.extend(vec![0; more]);
            self.disk.write(&path, &bytes);
        }
    }
}

#[track_caller]
fn open_after_one_reseal(kind: Kind, count: usize, pcrs: &str) {
    let host = Host::new(kind, count);
    host.vmseal(&["authority", "init", "debian"]).ok();
    let public = host.vmseal(&["authority", "export", "debian"]).ok().stdout;
    host.copy_disk();
    // Each knows the public half of the key only.
    for copy in &host.copies {
        let enroll = format!(
            "vmseal enroll /dev/disk/by-uuid/{VOLUME_UUID} --policy authority \
             --authority-public /key --unlock-key-file /passphrase && {{ {LOGS}\n}}"
        );
        let boot = Boot::new()
            .file("passphrase", PASSPHRASE.into())
            .file("key", public.clone().into_bytes())
            .run(&enroll);
        let mut console = copy.installed.boot(&boot);
        console.await_passphrase_prompt();
        console.enter(PASSPHRASE);
        console.await_text(LOGIN);
        console.exits(0);
        console.await_off();
    }
    host.write_template();
    host.reseal();

    host.update(kind);
    host.copy_disk();
    let (strange, covered): (Vec<_>, Vec<_>) = host.copies.iter().partition(|it| it.is_strange());
    covered.iter().for_each(|copy| copy.stands_at_the_prompt(pcrs));

    let before: Vec<_> = covered.iter().map(|copy| copy.header()).collect();
    host.reseal().says("PCR 4");
    for (copy, before) in covered.iter().zip(before) {
        copy.opens();
        assert!(copy.header() == before, "the header was written");
    }
    // What was signed for another opens nothing here.
    for copy in strange {
        let [from, to] = [covered[0], copy].map(|copy| copy.installed.guest.file("policy.json"));
        fs::copy(from, to).unwrap();
        copy.stands_at_the_prompt(pcrs);
    }
}
