//! What the hooks put into an initramfs, and where: real ones, built by both generators of Debian 12
//! and 13. Whether they boot is for the guests of `tests/vm`.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use testkit::machine::project;

const ROOT: &str = "11111111-2222-3333-4444-55555555555a";
const KEY_FILE: &str = "11111111-2222-3333-4444-55555555555b";
const LATER: &str = "11111111-2222-3333-4444-55555555555c";
const STRANGER: &str = "11111111-2222-3333-4444-55555555555d";
/// In no initramfs: they approve what the initramfs is a part of, or are secret.
const NEVER: [&str; 5] = [
    "boot/vmseal/expected-1.json",
    "etc/systemd/tpm2-pcr-signature.json",
    "etc/vmseal/authority.pem",
    "etc/vmseal/tpm2-pcr-signature.json",
    "var/lib/vmseal/state.json",
];
const DECOY: &str = "never-in-an-initramfs";

/// An initramfs, unpacked.
struct Initramfs {
    folder: TempDir,
}

impl Initramfs {
    fn build(release: &str, generator: &[&str]) -> Self {
        let folder = TempDir::with_prefix_in("initramfs-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let pins = format!(r#"{{"{ROOT}":{{}},"{KEY_FILE}":{{}},"{LATER}":{{}}}}"#);
        // Where the volumes cannot be found, these options have the stock hooks take their lines.
        let here = "luks,discard,initramfs,x-initrd.attach,force";
        let crypttab = format!(
            "# name source key options\n\
             root UUID={} none {here}\n\
             with-key UUID={KEY_FILE} /etc/key {here}\n\
             later\tUUID=\"{LATER}\"\tnone\tluks\n\
             stranger UUID={STRANGER} none {here}\n",
            ROOT.to_uppercase()
        );
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("etc/vmseal/pins.json", &pins);
        write("etc/crypttab", &crypttab);
        write("etc/key", DECOY);
        for path in NEVER {
            write(path, DECOY);
        }
        let (generator, arguments) = generator.split_first().unwrap();
        let mut script = Command::new(project().join("tests/env/initramfs"));
        script.args([release, generator]).arg(program()).arg(folder.path()).args(arguments);
        let output = script.output().unwrap();
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script:?}\n{said}\n{log}");
        let built = Self { folder };
        built.holds_what_every_one_holds(&pins);
        built
    }

    fn holds_what_every_one_holds(&self, pins: &str) {
        assert!(fs::read_to_string(self.beside("help")).unwrap().starts_with("usage: vmseal-boot"));
        assert_eq!(self.read("etc/vmseal/pins.json"), pins);
        let library = "usr/lib/x86_64-linux-gnu/libtss2-tcti-device.so.0";
        assert!(self.path(library).exists(), "{library}");
        let grep = Command::new("grep").args(["-rl", DECOY]).arg(self.path("")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&grep.stdout), "");
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.beside("unpacked").join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.beside("log")).unwrap()
    }

    /// Names in the first column.
    fn names(&self, table: &str) -> Vec<String> {
        let text = self.read(table);
        text.lines().filter_map(|line| line.split_whitespace().next()).map(Into::into).collect()
    }

    /// The scripts of a stage of initramfs-tools, in the order in which they run.
    fn order(&self, stage: &str) -> Vec<String> {
        let text = self.read(&format!("scripts/{stage}/ORDER"));
        let start = format!("/scripts/{stage}/");
        let scripts = text.lines().filter_map(|line| line.strip_prefix(&start));
        scripts.map(|rest| rest.split(' ').next().unwrap().to_owned()).collect()
    }

    /// Those of dracut that are called by `name`, with their numbers.
    fn has_hook(&self, hook: &str) {
        let folders = ["var/lib/dracut/hooks", "usr/lib/dracut/hooks"];
        let found = folders.iter().any(|folder| self.path(folder).join(hook).exists());
        assert!(found, "{hook}");
    }
}

/// The program is in another package than this test. A release: among the debug builds it would take
/// the place of the one that the tests of its own package run, which has more features.
fn program() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--quiet", "--package", "vmseal-boot"]);
    assert!(cargo.current_dir(project()).status().unwrap().success(), "{cargo:?}");
    let target = Path::new(env!("CARGO_BIN_EXE_vmseal")).ancestors().nth(2).unwrap();
    target.join("release/vmseal-boot")
}

fn initramfs_tools(release: &str) {
    let initramfs = Initramfs::build(release, &["mkinitramfs"]);
    assert_eq!(initramfs.names("etc/vmseal/crypttab"), ["root"]);
    let mut left = initramfs.names("cryptroot/crypttab");
    left.sort();
    assert_eq!(left, ["stranger", "with-key"]);
    assert!(initramfs.path("usr/lib/cryptsetup/askpass").exists());
    let log = initramfs.log();
    assert!(log.contains("vmseal: with-key has a key file"), "{log}");
    assert!(log.contains("vmseal: later is pinned, but not opened in the initramfs"), "{log}");
    assert!(!log.contains("vmseal: root"), "{log}");

    let last_two = |stage| initramfs.order(stage).into_iter().rev().take(2).collect::<Vec<_>>();
    assert_eq!(last_two("local-top"), ["cryptroot", "vmseal"]);
    assert_eq!(last_two("local-bottom").first().unwrap(), "vmseal");
    assert_eq!(initramfs.order("local-premount"), ["00-vmseal", "resume"]);
    for stage in ["local-block", "panic", "nfs-bottom"] {
        assert!(initramfs.order(stage).contains(&"vmseal".to_owned()), "{stage}");
    }
}

#[test]
fn initramfs_tools_of_debian_12() {
    initramfs_tools("bookworm");
}

#[test]
fn initramfs_tools_of_debian_13() {
    initramfs_tools("trixie");
}

fn dracut(release: &str) {
    let initramfs = Initramfs::build(release, &["dracut", "--hostonly"]);
    assert_eq!(initramfs.names("etc/vmseal/crypttab"), ["root"]);
    assert_eq!(initramfs.names("etc/crypttab"), ["root", "with-key", "stranger"]);
    let log = initramfs.log();
    assert!(log.contains("vmseal: with-key has a key file"), "{log}");
    assert_eq!(fs::read_to_string(initramfs.beside("verified")).unwrap(), "");

    let drop_in =
        |unit: &str| initramfs.read(&format!("usr/lib/systemd/system/{unit}.d/90-vmseal.conf"));
    let cryptsetup = drop_in("systemd-cryptsetup@.service");
    assert!(cryptsetup.contains("\nExecStartPre=/usr/lib/vmseal/vmseal-boot check %I\n"));
    for unit in ["initrd-switch-root.service", "systemd-hibernate-resume.service"] {
        assert!(drop_in(unit).contains("\nExecStartPre=/usr/bin/vmseal-gate\n"), "{unit}");
    }
    // Every unit of this initramfs whose input is a terminal may be a shell.
    for entry in fs::read_dir(initramfs.path("usr/lib/systemd/system")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let unit = fs::read_to_string(initramfs.path("usr/lib/systemd/system").join(&name));
        if unit.is_ok_and(|unit| unit.contains("StandardInput=tty"))
            && !name.contains("cmdline-ask")
        {
            assert!(
                drop_in(&name).contains("\nExecStartPre=/usr/bin/vmseal-gate shell\n"),
                "{name}"
            );
        }
    }
    initramfs.has_hook("pre-mount/00-vmseal-gate.sh");
    initramfs.has_hook("pre-pivot/99-vmseal-gate.sh");
    initramfs.has_hook("emergency/00-vmseal-shell.sh");
    assert!(
        initramfs
            .path("etc/systemd/system/sysinit.target.wants/vmseal-unlock.service")
            .is_symlink()
    );
    assert!(initramfs.path("usr/bin/systemd-ask-password").exists());
}

#[test]
fn dracut_of_debian_12() {
    dracut("bookworm");
}

#[test]
fn dracut_of_debian_13() {
    dracut("trixie");
}

#[test]
fn dracut_without_systemd() {
    let omit = "systemd systemd-initrd dracut-systemd";
    let initramfs = Initramfs::build("trixie", &["dracut", "--hostonly", "--omit", omit]);
    assert_eq!(initramfs.names("etc/vmseal/crypttab"), ["root"]);
    initramfs.has_hook("initqueue/settled/00-vmseal-unlock.sh");
    initramfs.has_hook("pre-udev/90-vmseal-resume-rules.sh");
    initramfs.has_hook("emergency/00-vmseal-shell.sh");
    assert!(!initramfs.path("usr/lib/systemd/system/vmseal-unlock.service").exists());
}
