//! Machines that start from copies of one disk: their host reads the disk from outside, and approves
//! the boots of all copies at once.

use std::fs;
use std::process::Command;

use tempfile::TempDir;
use testkit::image::PASSPHRASE;
use testkit::{Ran, run, tool};

use super::installed::{Installed, LOGIN, PROMPT};
use super::kind::{DRACUT_UKI, INITRAMFS_GRUB, Kind, Loader, VOLUME_UUID};
use crate::guest::Boot;
use crate::machine::UKI;
use crate::workshop::{UkiParts, join_uki, text};

/// The logs of a boot; systemd has none of its own in every initramfs.
const LOGS: &str = "cat /sys/kernel/security/tpm0/binary_bios_measurements >/out/log &&
touch /out/userspace && cat /run/log/systemd/tpm2-measure.log >/out/userspace || true";

#[test]
fn a_copy_of_a_disk_opens_its_root_once_the_host_approved_its_update() {
    open_after_one_reseal(INITRAMFS_GRUB, 1);
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn three_copies_open_their_roots_after_one_reseal() {
    open_after_one_reseal(INITRAMFS_GRUB, 3);
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn copies_of_a_disk_with_a_unified_kernel_image_open_too() {
    open_after_one_reseal(DRACUT_UKI, 1);
}

/// The host, and the disk that it makes machines of.
struct Host {
    folder: TempDir,
    disk: Installed,
}

impl Host {
    fn vmseal(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
        run(command.args(arguments).arg("--root").arg(self.folder.path()))
    }

    fn reseal(&self) -> Ran {
        self.vmseal(&["reseal", "--template", "debian", "--yes"])
    }

    /// Gives every machine the disk as it is now.
    fn copy_to(&self, machines: &[Installed]) {
        for machine in machines {
            let [from, to] = [&self.disk, machine].map(|it| it.guest.file("disk.img"));
            tool("cp", &["--sparse=always", text(&from), text(&to)]);
        }
    }

    /// Hands the machines what was signed for them.
    fn deliver_to(&self, machines: &[Installed]) {
        for (number, machine) in machines.iter().enumerate() {
            let file = self.folder.path().join(format!("delivered/vm{number}.json"));
            fs::copy(file, machine.guest.file("policy.json")).unwrap();
        }
    }

    /// What the host started first tells of the firmware.
    fn write_template(&self, machines: &[Installed]) {
        let mut reference = String::new();
        for name in ["log", "userspace"] {
            let (path, bytes) = (self.folder.path().join(name), machines[0].guest.output(name));
            fs::write(&path, &bytes).unwrap();
            if !bytes.is_empty() {
                reference += &format!("{name} = {path:?}\n");
            }
        }
        let vms: String =
            (0..machines.len()).map(|it| format!("[[vm]]\nname = \"vm{it}\"\n")).collect();
        let template = format!(
            "boot = \"disk\"\nimage = {:?}\n[[reference]]\n{reference}{vms}\
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
fn open_after_one_reseal(kind: Kind, count: usize) {
    let folder = TempDir::with_prefix("vmseal-host-").unwrap();
    let host = Host { folder, disk: Installed::new(kind) };
    host.vmseal(&["authority", "init", "debian"]).ok();
    let public = host.vmseal(&["authority", "export", "debian"]).ok().stdout;
    let machines: Vec<Installed> = (0..count).map(|_| Installed::new(kind)).collect();
    host.copy_to(&machines);
    // Each knows the public half of the key only.
    for machine in &machines {
        let enroll = format!(
            "vmseal enroll /dev/disk/by-uuid/{VOLUME_UUID} --policy authority \
             --authority-public /key --unlock-key-file /passphrase && {{ {LOGS}\n}}"
        );
        let boot = Boot::new()
            .file("passphrase", PASSPHRASE.into())
            .file("key", public.clone().into_bytes())
            .run(&enroll);
        let mut console = machine.boot(&boot);
        console.await_passphrase_prompt();
        console.enter(PASSPHRASE);
        console.await_text(LOGIN);
        console.exits(0);
        console.await_off();
    }
    host.write_template(&machines);
    host.reseal().ok();
    host.deliver_to(&machines);

    host.update(kind);
    host.copy_to(&machines);
    for machine in &machines {
        let mut console = machine.boot(&Boot::new());
        let refusal = console.await_passphrase_prompt();
        assert!(refusal.contains("no signature covers sha256 PCR 0+4+7"), "{refusal}");
    }

    let header = |it: &Installed| fs::read(it.guest.volume()).unwrap()[..16 << 20].to_vec();
    let before: Vec<_> = machines.iter().map(header).collect();
    host.reseal().ok().says("PCR 4");
    host.deliver_to(&machines);
    for (machine, before) in machines.iter().zip(before) {
        let mut console = machine.boot(&Boot::new().run("cat /run/vmseal/boot.json"));
        assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
        console.exits_saying(0, "\"by\": \"tpm\"");
        console.await_off();
        assert!(header(machine) == before, "the header was written");
    }
}
