//! The kinds of installed machines: distribution, initramfs generator, boot loader.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use testkit::machine::project;

use crate::machine::{Machine, UKI};
use crate::rig::{self, folder_of};
use crate::workshop::{UkiParts, join_uki, part, script, sign_image, text};

/// The LUKS2 volume of the root. Its name in crypttab is `root`.
pub const VOLUME_UUID: &str = "c0000000-0002-4000-8000-000000000002";
/// The file system in it.
pub const ROOT_UUID: &str = "c0000000-0001-4000-8000-000000000001";
/// The second volume. Its name in crypttab is `data`.
pub const DATA_UUID: &str = "c0000000-0003-4000-8000-000000000003";
/// The identity of whole systems, as `tests/env/guest-tree` gives it.
const MACHINE_ID: &str = "0123456789abcdef0123456789abcdef";
/// In MiB: the initramfs of a distribution is unpacked into memory.
const MEMORY: u32 = 1024;
/// Nothing more than GRUB's own settings and a console.
const COMMAND_LINE: &str = "console=ttyS0 root=/dev/mapper/root ro quiet";

/// What starts kernel and initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loader {
    /// GRUB as this folder of `tests/vm/boot-parts` has it; its menu is made by update-grub of this
    /// tree.
    Grub { parts: &'static str, tree: &'static str, secure: bool },
    /// The firmware starts a unified kernel image.
    Uki,
    /// systemd-boot starts it, from where kernel-install puts it.
    SystemdBoot,
    /// The firmware starts it under Secure Boot, with Debian's test key as the only one in PK, KEK and db.
    SignedUki,
    /// QEMU's `-kernel`.
    Kernel,
}

/// What opens the root in the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unlocker {
    Vmseal,
    /// Only what comes with the generator and cryptsetup.
    None,
    /// Of systemd-cryptsetup, in dracut.
    Systemd,
    Clevis,
}

impl Unlocker {
    /// As `tests/vm/guest-image` knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmseal => "vmseal",
            Self::None => "none",
            Self::Systemd => "systemd",
            Self::Clevis => "clevis",
        }
    }
}

/// What a machine was installed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Debian's code name, as `tests/vm/guest-image` knows it.
    pub release: &'static str,
    /// `initramfs-tools` or `dracut`.
    pub generator: &'static str,
    pub loader: Loader,
    pub shape: Shape,
    pub unlocker: Unlocker,
}

/// How its root is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A small root, whose init is `tests/vm/guest-init`, in LUKS2 on a disk of its own.
    Mini,
    /// The same, and a second volume that the initramfs opens too.
    Two,
    /// The small root in LUKS2 on the logical volume `vg/root`.
    OnLvm,
    /// The small root on the logical volume `vg/root` in LUKS2.
    InLvm,
    /// The whole installed Debian, in LUKS2 on a disk of its own.
    Full,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Mini => "mini",
            Self::Two => "two",
            Self::OnLvm => "on-lvm",
            Self::InLvm => "in-lvm",
            Self::Full => "full",
        }
    }
}

const GRUB_13: Loader = Loader::Grub { parts: "grub-13", tree: "trixie", secure: false };
const GRUB_13_TPM: Loader = Loader::Grub { parts: "grub-13-tpm", tree: "trixie", secure: false };
const SHIM_12: Loader = Loader::Grub { parts: "grub-12-shim", tree: "backports", secure: true };

/// Debian 13, initramfs-tools, GRUB 2.12 without its tpm module.
pub const INITRAMFS_GRUB: Kind = Kind {
    release: "trixie",
    generator: "initramfs-tools",
    loader: GRUB_13,
    shape: Shape::Mini,
    unlocker: Unlocker::Vmseal,
};
/// The same, with GRUB's tpm module: what it reads and does is measured.
pub const INITRAMFS_GRUB_TPM: Kind = Kind { loader: GRUB_13_TPM, ..INITRAMFS_GRUB };
/// Debian 13, initramfs-tools, the kernel given by the host.
pub const INITRAMFS_KERNEL: Kind = Kind { loader: Loader::Kernel, ..INITRAMFS_GRUB };
/// Debian 13, dracut, a unified kernel image.
pub const DRACUT_UKI: Kind = Kind { generator: "dracut", loader: Loader::Uki, ..INITRAMFS_GRUB };
/// The same as kernel-install has it: systemd-boot starts the newest image.
pub const DRACUT_SYSTEMD_BOOT: Kind = Kind { loader: Loader::SystemdBoot, ..DRACUT_UKI };
/// Debian 13, initramfs-tools, a unified kernel image under Secure Boot.
pub const INITRAMFS_SIGNED_UKI: Kind = Kind { loader: Loader::SignedUki, ..INITRAMFS_GRUB };
/// Debian 13, dracut, GRUB 2.12.
pub const DRACUT_GRUB: Kind = Kind { loader: GRUB_13, ..DRACUT_UKI };
/// Debian 13, dracut, the kernel given by the host.
pub const DRACUT_KERNEL: Kind = Kind { loader: Loader::Kernel, ..DRACUT_UKI };
/// Debian 12, initramfs-tools, shim and the signed GRUB 2.06, Secure Boot on.
pub const INITRAMFS_SHIM_12: Kind = Kind { release: "bookworm", loader: SHIM_12, ..INITRAMFS_GRUB };
/// Debian 12, dracut, a unified kernel image.
pub const DRACUT_UKI_12: Kind = Kind { release: "bookworm", ..DRACUT_UKI };

impl Kind {
    /// The same with another root.
    pub const fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// What stands at the end of a boot.
    pub fn login(&self) -> &'static str {
        match self.shape {
            Shape::Full => "guest login: ",
            _ => "rig: login:",
        }
    }

    /// A file that `tests/vm/guest-image` made.
    pub fn part(&self, name: &str) -> PathBuf {
        // One at a time, and each once: the script takes a lock, but reads its inputs before it.
        static IMAGES: Mutex<Vec<([&str; 4], PathBuf)>> = Mutex::new(vec![]);
        let wanted = [self.release, self.generator, self.shape.name(), self.unlocker.name()];
        let mut images = IMAGES.lock().unwrap();
        let known = images.iter().find(|(image, _)| *image == wanted);
        let folder = known.map(|(_, folder)| folder.clone()).unwrap_or_else(|| {
            let mut command = Command::new(project().join("tests/vm/guest-image"));
            command.args(wanted).arg(rig::packages());
            let folder = folder_of(command.arg(rig::release().join("pin-volume")));
            images.push((wanted, folder.clone()));
            folder
        });
        folder.join(name)
    }

    /// The machine before its first boot: its boot files, as they were installed.
    pub fn machine(&self) -> Machine {
        let mut machine = Machine::new();
        machine.memory = MEMORY;
        let (kernel, initrd) = (self.part("vmlinuz"), self.part("initrd"));
        let release = fs::read_to_string(self.part("release")).unwrap();
        let release = release.trim_end();
        match self.loader {
            Loader::Grub { parts, tree, secure } => {
                if secure {
                    machine = machine.with_secure_boot("microsoft-vars.fd");
                }
                for folder in ["esp", "boot"] {
                    machine.put(folder, &part(&format!("{parts}/{folder}")));
                }
                machine.put(&format!("boot/vmlinuz-{release}"), &kernel);
                machine.put(&format!("boot/initrd.img-{release}"), &initrd);
                let boot = machine.path("boot");
                let setting = format!("GRUB_CMDLINE_LINUX=\"console=ttyS0{}\"", self.words());
                script("update-grub", &[tree, text(&boot), &setting]);
            }
            Loader::SystemdBoot => {
                // As kernel-install has it.
                let command_line =
                    &format!("{} systemd.machine_id={MACHINE_ID}", self.command_line());
                let (kernel, initrd) = (&kernel, &initrd);
                let parts = UkiParts { kernel, initrd, release, command_line };
                let image = format!("esp/EFI/Linux/{MACHINE_ID}-{release}.efi");
                join_uki(&parts, &machine.path(&image));
                for loader in [UKI, "esp/EFI/systemd/systemd-bootx64.efi"] {
                    machine.put(loader, &part("systemd-boot.efi"));
                }
            }
            Loader::Uki | Loader::SignedUki => {
                let command_line = &self.command_line();
                let (kernel, initrd) = (&kernel, &initrd);
                let parts = UkiParts { kernel, initrd, release, command_line };
                if self.loader == Loader::SignedUki {
                    machine = machine.with_secure_boot("secure-vars.fd");
                }
                join_uki(&parts, &machine.path(UKI));
                if self.loader == Loader::SignedUki {
                    let part = |name| machine.firmware_part(name);
                    sign_image(&machine.uki(), &part("snakeoil.key"), &part("snakeoil.pem"));
                }
            }
            Loader::Kernel => {
                machine.put("kernel", &kernel);
                machine.put("initrd", &initrd);
                machine.command_line = Some(self.command_line());
            }
        }
        machine
    }

    /// What its kernel is told, where no loader makes it.
    pub fn command_line(&self) -> String {
        COMMAND_LINE.to_owned() + &self.words()
    }

    fn words(&self) -> String {
        let mut words = String::new();
        if self.shape == Shape::InLvm {
            words += " root=/dev/mapper/vg-root";
        }
        // Its initramfs is for any machine: the command line tells what to open.
        if self.generator == "dracut" {
            words += &format!(" rd.luks.name={VOLUME_UUID}=root");
            if self.shape == Shape::Two {
                words += &format!(" rd.luks.name={DATA_UUID}=data");
            }
        }
        words
    }
}
