//! `vmseal predict` without options, in the guest whose next boot it tells: it finds log, ESP, `/boot`
//! and the loader's variables below `/`, here a folder laid out like one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use testkit::machine::project;
use testkit::{Systemd, run};

const COMPARED: [u8; 13] = [0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14];

/// A running system, as far as `predict` looks at it.
struct Guest {
    root: TempDir,
}

impl Guest {
    /// One that was booted as the case was.
    fn booted(case: &str) -> Self {
        let guest = Self { root: tempfile::tempdir().unwrap() };
        let log = fs::read(fixture(case).join("log.bin")).unwrap();
        guest.put("sys/kernel/security/tpm0/binary_bios_measurements", &log);
        guest.put("proc/cmdline", &fs::read(fixture(case).join("cmdline")).unwrap());
        guest
    }

    /// `/proc/mounts`: folders and their file systems.
    fn mounts(self, mounts: &[(&str, &str)]) -> Self {
        let line = |(folder, kind): &(&str, &str)| format!("/dev/vda1 {folder} {kind} rw 0 0\n");
        let lines: String = mounts.iter().map(line).collect();
        self.put("proc/mounts", lines.as_bytes());
        for (folder, _) in mounts {
            fs::create_dir_all(self.root.path().join(folder.trim_start_matches('/'))).unwrap();
        }
        self
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn put_tree(&self, path: &str, from: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let from = entry.unwrap().path();
            let path = format!("{path}/{}", from.file_name().unwrap().to_str().unwrap());
            if from.is_dir() {
                self.put_tree(&path, &from);
            } else {
                self.put(&path, &fs::read(from).unwrap());
            }
        }
    }

    /// A variable of the boot loader interface.
    fn put_variable(&self, name: &str, text: &str) {
        let utf16 = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
        let bytes: Vec<u8> = [7, 0, 0, 0].into_iter().chain(utf16).collect();
        let loader = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
        self.put(&format!("sys/firmware/efi/efivars/{name}-{loader}"), &bytes);
    }

    fn predict(&self) -> Vec<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
        let output =
            command.args(["predict", "--json", "--root"]).arg(self.root.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said, "");
        let prediction: Value = serde_json::from_slice(&output.stdout).unwrap();
        let entries = prediction["entries"].as_array().unwrap().clone();
        for entry in &entries {
            assert_eq!(entry["unpredictable"], Value::Array(vec![]), "{}", entry["id"]);
            for pcr in COMPARED {
                assert!(entry["pcrs"]["sha256"][pcr.to_string()].is_string(), "PCR {pcr}");
            }
        }
        entries
    }
}

/// What mokutil asked for happens in the next boot, where somebody at the console agrees.
#[test]
fn a_request_to_shim_is_named() {
    let shim = "605dab50-e046-4300-abb6-3dd810dd8b23";
    for (case, expected) in [("shim-nosb-deb13/base", 1), ("uki/base", 0)] {
        let guest = Guest::booted(case);
        guest.put(&format!("sys/firmware/efi/efivars/MokNew-{shim}"), &[7, 0, 0, 0, 1]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
        let told = run(command.args(["predict", "--json", "--root"]).arg(guest.root.path())).ok();
        let told = told.json();
        let open = told["entries"][0]["unpredictable"].as_array().unwrap().clone();
        let of_shim = |open: &&Value| open["why"].as_str().unwrap().starts_with("MokNew asks");
        let found: Vec<_> = open.iter().filter(of_shim).map(|open| open["pcr"].clone()).collect();
        assert_eq!(found, vec![Value::from(14); expected], "{case}: {open:?}");
    }
}

fn fixture(case: &str) -> PathBuf {
    project().join("tests/fixtures/eventlogs").join(case)
}

fn default_of(entries: &[Value]) -> &Value {
    let mut defaults = entries.iter().filter(|entry| entry["default"] == true);
    let default = defaults.next().expect("a default entry");
    assert!(defaults.next().is_none());
    default
}

fn ids(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["id"].as_str().unwrap()).collect()
}

/// The PCRs that are not as the case has them.
fn moved(entry: &Value, case: &str) -> Vec<u8> {
    let measured: Value =
        serde_json::from_slice(&fs::read(fixture(case).join("pcrs.json")).unwrap()).unwrap();
    let (told, measured) = (&entry["pcrs"]["sha256"], &measured["sha256"]);
    let differs = |pcr: &u8| told[pcr.to_string()] != measured[pcr.to_string()];
    COMPARED.into_iter().filter(differs).collect()
}

/// Debian 13's kernel.
fn kernel() -> Vec<u8> {
    run(&mut Systemd::Trixie.command("true")).ok();
    let boot = fs::read_dir(project().join(".cache/trixie/boot")).unwrap();
    let mut files = boot.map(|entry| entry.unwrap().path());
    fs::read(files.find(|path| path.to_str().unwrap().contains("vmlinuz")).unwrap()).unwrap()
}

/// A unified kernel image of it.
fn uki(cmdline: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("linux"), kernel()).unwrap();
    fs::write(path("initrd"), [0x5a; 70_001]).unwrap();
    let mut command = Systemd::Trixie.command("ukify");
    command.arg("build").arg(format!("--cmdline={cmdline}"));
    for name in ["linux", "initrd", "output"] {
        command.arg(format!("--{name}={}", path(name).display()));
    }
    run(&mut command).ok();
    fs::read(path("output")).unwrap()
}

#[test]
fn the_unified_kernel_image_that_the_firmware_starts() {
    let guest = Guest::booted("uki/base").mounts(&[("/", "ext4"), ("/boot/efi", "vfat")]);
    guest.put("boot/efi/EFI/BOOT/BOOTX64.EFI", &uki("quiet"));
    let entries = guest.predict();
    assert_eq!(ids(&entries), ["EFI/BOOT/BOOTX64.EFI"]);
    assert_eq!(moved(default_of(&entries), "uki/base"), [4, 9, 11]);
}

#[test]
fn every_unified_kernel_image_in_the_menu() {
    // The ESP is where no usual place is.
    for esp in ["efi", "boot", "boot/efi", "mnt/my esp"] {
        let guest = Guest::booted("sdboot-uki/base");
        let escaped = format!("/{}", esp.replace(' ', "\\040"));
        let guest = guest.mounts(&[("/", "btrfs"), (&escaped, "vfat")]);
        guest.put_tree(esp, &fixture("sdboot-uki/base/esp"));
        guest.put(&format!("{esp}/EFI/Linux/deb.efi"), &uki("quiet"));
        guest.put(&format!("{esp}/EFI/Linux/other.efi"), &uki("debug"));
        let entries = guest.predict();
        assert_eq!(ids(&entries), ["other.efi", "deb.efi"], "{esp}");
        assert_eq!(default_of(&entries)["id"], "other.efi");
        for entry in &entries {
            assert_eq!(moved(entry, "sdboot-uki/base"), [4, 9, 11], "{esp}");
        }
        guest.put_variable("LoaderEntryOneShot", "deb.efi");
        assert_eq!(default_of(&guest.predict())["id"], "deb.efi");
    }
}

#[test]
fn every_entry_of_systemd_boot() {
    for (esp, other) in [("boot", None), ("efi", Some("boot")), ("boot/efi", None)] {
        let mounted = format!("/{esp}");
        let guest = Guest::booted("sdboot/base").mounts(&[("/", "ext4"), (&mounted, "vfat")]);
        guest.put_tree(esp, &fixture("sdboot/cmdline/esp"));
        // Kernel and initrd are not at hand, but the log has their digests.
        guest.put(&format!("{esp}/EFI/readme"), b"");
        let entries = guest.predict();
        assert_eq!(ids(&entries), ["deb.conf"], "{esp}");
        assert_eq!(moved(default_of(&entries), "sdboot/cmdline"), [0_u8; 0], "{esp}");
        // They are, and both are new; there is an entry more.
        guest.put(&format!("{esp}/deb/vmlinuz"), &kernel());
        guest.put(&format!("{esp}/deb/initrd"), b"an initrd");
        let entry = |options: &str| format!("linux /deb/vmlinuz\ninitrd /deb/initrd\n{options}\n");
        guest.put(&format!("{esp}/loader/entries/rescue.conf"), entry("options single").as_bytes());
        if let Some(other) = other {
            // Not a file system that systemd-boot reads: GRUB's, of another boot.
            guest.put(&format!("{other}/loader/entries/stale.conf"), entry("").as_bytes());
        }
        let entries = guest.predict();
        assert_eq!(ids(&entries), ["rescue.conf", "deb.conf"], "{esp}");
        assert_eq!(moved(default_of(&entries), "sdboot/cmdline"), [4, 9], "{esp}");
    }
}

#[test]
fn entries_of_systemd_boot_on_a_volume_of_their_own() {
    let guest = Guest::booted("sdboot/base").mounts(&[("/efi", "vfat"), ("/boot", "vfat")]);
    guest.put_tree("efi", &fixture("sdboot/base/esp"));
    guest.put("efi/EFI/readme", b"");
    guest.put("boot/loader/entries/new.conf", b"linux /new/vmlinuz\ninitrd /new/initrd\n");
    guest.put("boot/new/vmlinuz", &kernel());
    guest.put("boot/new/initrd", b"an initrd");
    let entries = guest.predict();
    assert_eq!(ids(&entries), ["new.conf", "deb.conf"]);
    assert_eq!(moved(default_of(&entries), "sdboot/base"), [0_u8; 0]);
}

#[test]
fn every_entry_of_grub() {
    // What moves when the default entry is started, and when the older kernel is.
    let cases: [(&str, &[u8], &[u8]); 3] = [
        ("grub-tpm-deb13/base", &[], &[4, 8, 9]),
        ("shim-nosb-deb13/base", &[], &[8, 9]),
        // This GRUB has no TPM module: no log tells the digests of kernels that are not there.
        ("grub-real-deb13/base", &[4, 9], &[4, 9]),
    ];
    for (case, new, other) in cases {
        let guest = Guest::booted(case).mounts(&[("/boot", "ext4"), ("/boot/efi", "vfat")]);
        guest.put_tree("boot", &fixture(case).join("inputs/boot"));
        guest.put("boot/efi/EFI/readme", b"");
        if case.starts_with("shim") {
            guest.put_tree("boot/efi", &fixture(case).join("inputs/esp"));
            // Debian's signed GRUB has most modules built in; they are installed all the same.
            let log = fs::read(fixture(case).join("log.bin")).unwrap();
            let was_read = |file: &str| log.windows(file.len()).any(|at| at == file.as_bytes());
            let folder = "boot/grub/x86_64-efi";
            let list = fixture(case).join(format!("inputs/{folder}/moddep.lst"));
            for line in fs::read_to_string(list).unwrap().lines() {
                let file = format!("{folder}/{}.mod", line.split_once(':').unwrap().0);
                if !was_read(&file) {
                    guest.put(&file, b"a module");
                }
            }
        }
        let mut releases = vec!["6.1.0-56-cloud-amd64"];
        releases.extend((!new.is_empty()).then_some("6.12.107+deb13-cloud-amd64"));
        for release in releases {
            guest.put(&format!("boot/vmlinuz-{release}"), &kernel());
            guest.put(&format!("boot/initrd.img-{release}"), release.as_bytes());
        }
        let entries = guest.predict();
        assert_eq!(entries.len(), 5, "{case}: {:?}", ids(&entries));
        assert_eq!(moved(default_of(&entries), case), new, "{case}");
        let older = entries.iter().find(|entry| entry["id"].to_string().contains("6.1.0-56-"));
        assert_eq!(moved(older.unwrap(), case), other, "{case}");
    }
}
