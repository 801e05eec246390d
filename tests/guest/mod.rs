//! A guest whose initramfs has vmseal in it: a folder laid out like one, its generator a script.

// Each test takes what it needs.
#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use testkit::image::UUID;
use testkit::machine::project;
use testkit::{Machine, Ran, Swtpm, Systemd, run};
use vmseal::artifact::hashing::digest;
use vmseal::artifact::pe::Pe;
use vmseal::boot::{BootReport, OpenedBy, VolumeReport};
use vmseal::files::FileSource;
use vmseal::measurement::{Digest, Event, EventLog, Tag};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");

/// What the rebuilt initrd begins with; the pins follow.
pub const REBUILT: &str = "rebuilt with ";
/// The kernel that GRUB's default entry starts.
pub const KERNEL: &str = "boot/vmlinuz-6.12.107+deb13-cloud-amd64";
/// A hook of initramfs-tools and its generator, as far as anybody sees.
pub const TOOLS_HOOK: &str = "usr/share/initramfs-tools/hooks/vmseal";
pub const UPDATE_INITRAMFS: &str = "usr/sbin/update-initramfs";
pub const DRACUT_HOOK: &str = "usr/lib/dracut/modules.d/90vmseal/module-setup.sh";

/// A running system with a TPM and a disk.
pub struct Guest {
    pub machine: Machine,
    pub base: &'static str,
    /// Where the initrd is that the next boot reads.
    pub initrd: &'static str,
}

/// systemd-boot with kernel and initrd as files.
pub const SDBOOT: (&str, &str) = ("sdboot/base", "efi/deb/initrd");
/// GRUB that measures what it reads.
pub const GRUB: (&str, &str) =
    ("grub-tpm-deb13/base", "boot/initrd.img-6.12.107+deb13-cloud-amd64");

/// GRUB that measures nothing: what plain grub-install makes. Its kernel is not in the log by name.
pub const PLAIN_GRUB: (&str, &str) =
    ("grub-real-deb13/base", "boot/initrd.img-6.12.107+deb13-cloud-amd64");

impl Guest {
    /// Booted as the case was, its kernel and initrd known by the log alone.
    pub fn booted((base, initrd): (&'static str, &'static str)) -> Self {
        let machine = Machine::with_tpm(VMSEAL, Swtpm::start(), base);
        let guest = Self { machine, base, initrd };
        guest.put("sys/kernel/security/tpm0/binary_bios_measurements", &guest.base_log());
        guest.put("proc/cmdline", &fs::read(fixture(base).join("cmdline")).unwrap());
        guest.put("proc/mounts", b"/dev/vda2 / ext4 rw 0 0\n/dev/vda1 /efi vfat rw 0 0\n");
        guest.put("efi/EFI/readme", b"");
        guest.put("efi/deb/readme", b"");
        for (tree, folder) in [("esp", "efi"), ("inputs/boot", "boot")] {
            let from = fixture(base).join(tree);
            if from.exists() {
                let to = guest.path(folder);
                fs::create_dir_all(&to).unwrap();
                run(Command::new("cp").arg("-rT").arg(from).arg(to)).ok();
            }
        }
        guest
    }

    /// The same, with vmseal's hook and a generator that puts the pins into the initrd.
    pub fn with_hook(case: (&'static str, &'static str)) -> Self {
        let guest = Self::booted(case);
        guest.put(TOOLS_HOOK, b"");
        guest.put_program(UPDATE_INITRAMFS, "");
        guest
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.machine.file("root").join(path)
    }

    pub fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A generator; `first` is what it does before that.
    pub fn put_program(&self, program: &str, first: &str) {
        let (root, pins) = (self.machine.file("root"), self.machine.pins());
        let script = format!(
            "#!/bin/sh -e\necho \"$(basename \"$0\") $*\" >> {0}/ran\necho generating\n{first}\n\
             {{ printf '{REBUILT}'; cat {1}; }} > {0}/{2}\n",
            root.display(),
            pins.display(),
            self.initrd,
        );
        self.put(program, script.as_bytes());
        fs::set_permissions(self.path(program), PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// How the generator was called, so far.
    pub fn ran(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("ran")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(VMSEAL);
        command.args(arguments).args(["--tcti", &self.machine.tpm.tcti()]);
        command.arg("--root").arg(self.machine.file("root"));
        command.arg("--pins").arg(self.machine.pins());
        command.arg("--expected-folder").arg(self.path("boot/vmseal"));
        command.env_remove("TPM2TOOLS_TCTI");
        command
    }

    pub fn enroll(&self, options: &[&str]) -> Ran {
        let mut command = self.command(&["enroll"]);
        command.arg("--unlock-key-file").arg(self.machine.key_file()).args(options);
        run(command.arg(self.machine.image.path()))
    }

    pub fn base_log(&self) -> Vec<u8> {
        fs::read(fixture(self.base).join("log.bin")).unwrap()
    }

    /// The log of the boot that reads the initrd as it is on the disk, and the kernel where there is
    /// one.
    pub fn next_log(&self) -> Vec<u8> {
        let (mut bytes, initrd) = (self.base_log(), fs::read(self.path(self.initrd)).unwrap());
        let log = EventLog::parse(&bytes).unwrap();
        let is_initrd = |event: &&Event| event.data().has_tag(Tag::LinuxInitrd);
        let event = log.events().iter().find(is_initrd).expect("an initrd in the log");
        for old in event.known_digests() {
            replace(&mut bytes, old, old.bank().hash_parts(&[&initrd]));
        }
        let kernel = self.path(KERNEL);
        if kernel.exists() {
            let is_image =
                |event: &&Event| event.pcr == 4 && event.data().to_string().starts_with("image");
            let event = log.events().iter().rfind(is_image).expect("a kernel in the log");
            let file = FileSource::open(&kernel).unwrap();
            let pe = Pe::parse(&file).unwrap();
            for old in event.known_digests() {
                let new = digest(&[pe.authenticode(&file)], &[old.bank()]).unwrap()[0][0];
                replace(&mut bytes, old, new);
            }
        }
        bytes
    }

    /// Reboots into what lies on the disk; the boot step tells which pins it found.
    pub fn reboot(&mut self) {
        let log = self.next_log();
        self.put("sys/kernel/security/tpm0/binary_bios_measurements", &log);
        fs::remove_dir_all(self.path("run")).ok();
        let initrd = fs::read(self.path(self.initrd)).unwrap();
        let pins = initrd.strip_prefix(REBUILT.as_bytes()).expect("a rebuilt initrd");
        let pins_sha256 = Some(hex::encode(Sha256::digest(pins)));
        let report = BootReport { pins_sha256, ..BootReport::default() };
        report.write(&self.path("")).unwrap();
        let path = self.path("sys/kernel/security/tpm0/binary_bios_measurements");
        self.machine.boot_log(path);
    }

    /// The boot step of this boot: whether the TPM opens the volume, or somebody has to type.
    pub fn boot_step(&self) -> bool {
        let ran = self.machine.unlock(&["--json"]);
        let opened = ran.code == Some(0);
        let mut report = BootReport::read(&self.path("")).unwrap_or_default();
        let cause = (!opened).then(|| ran.stderr.lines().next().unwrap_or_default().to_owned());
        report.note_volume(VolumeReport {
            name: "root".into(),
            device: self.machine.image.path().display().to_string(),
            uuid: Some(UUID.to_owned()),
            exit: u8::try_from(ran.code.unwrap()).unwrap(),
            by: Some(if opened { OpenedBy::Tpm } else { OpenedBy::Passphrase }),
            token: None,
            keyslot: Some(if opened { 1 } else { 0 }),
            cause,
        });
        report.write(&self.path("")).unwrap();
        opened
    }

    /// Another initrd, as a package's update makes it.
    pub fn update_initrd(&self) {
        let path = self.path(self.initrd);
        let mut initrd = fs::read(&path).unwrap();
        // The pins are what the test's boot step reads at the start.
        initrd.extend(b"an update");
        fs::write(path, initrd).unwrap();
    }

    /// Enrolled with an authority of its own, booted into what was enrolled, and confirmed.
    pub fn approved(case: (&'static str, &'static str)) -> Self {
        let mut guest = Self::with_hook(case).with_identity();
        guest.enroll(&["--policy", "authority"]).ok();
        guest.reboot();
        assert!(guest.boot_step());
        let ran = run(&mut guest.command(&["confirm"])).ok();
        assert!(ran.stdout.contains("as approved"), "{ran:#?}");
        guest
    }

    /// What a system has that keeps an authority's key of its own.
    pub fn with_identity(self) -> Self {
        self.put("etc/machine-id", b"0123456789abcdef0123456789abcdef\n");
        self.put("proc/self/mountinfo", b"21 1 254:7 / / rw - ext4 /dev/mapper/root rw\n");
        self.put("sys/dev/block/254:7/dm/uuid", b"CRYPT-LUKS2-6a1c-root\n");
        self
    }

    /// Reboots as the machine was booted before.
    pub fn reboot_to_base(&mut self) {
        self.machine.boot(self.base);
    }

    /// Tokens that open at the seal point of this boot.
    pub fn verdicts(&self) -> Vec<Value> {
        let status = self.machine.status(&["--json"]).ok().json();
        let tokens = status["volumes"][0]["tokens"].as_array().unwrap().clone();
        tokens.into_iter().map(|token| token["verdict"].clone()).collect()
    }
}

/// Puts a digest in the place of another, wherever a log has it.
pub fn replace(log: &mut [u8], old: Digest, new: Digest) {
    let places: Vec<usize> =
        (0..log.len()).filter(|at| log[*at..].starts_with(old.as_bytes())).collect();
    assert!(!places.is_empty(), "{}", old.bank());
    for at in places {
        log[at..at + old.as_bytes().len()].copy_from_slice(new.as_bytes());
    }
}

/// Debian 13's kernel.
pub fn kernel() -> PathBuf {
    run(&mut Systemd::Trixie.command("true")).ok();
    let boot = fs::read_dir(project().join(".cache/trixie/boot")).unwrap();
    let is_kernel = |path: &PathBuf| path.to_str().unwrap().contains("vmlinuz");
    boot.map(|entry| entry.unwrap().path()).find(is_kernel).unwrap()
}

pub fn fixture(case: &str) -> PathBuf {
    project().join("tests/fixtures/eventlogs").join(case)
}
