//! A VM's side of the kit for Qubes, and what is installed of both sides. What Qubes has there itself is
//! a stand-in.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod qubes;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use qubes::{MODULES, install};
use tempfile::TempDir;
use testkit::machine::project;
use testkit::{Ran, run};

#[test]
fn what_is_installed_lies_where_qubes_looks_for_it() {
    let stage = TempDir::with_prefix("vmseal-stage-").unwrap();
    let tree = |target: &str| {
        let to = stage.path().join(target);
        install(target, &to);
        let mut find = Command::new("find");
        let ran = run(find.arg(&to).args(["!", "-type", "d", "-printf", "%m %P\n"])).ok();
        let mut files: Vec<_> = ran.stdout.lines().map(str::to_owned).collect();
        files.sort();
        files
    };
    let info = format!("{MODULES}/vmseal_qubes-{}.dist-info", env!("CARGO_PKG_VERSION"));
    let dom0 = [
        "644 etc/dnf/libdnf5-plugins/actions.d/vmseal.actions".to_owned(),
        "644 etc/dnf/plugins/post-transaction-actions.d/vmseal.action".to_owned(),
        "644 etc/qubes/policy.d/30-vmseal.policy".to_owned(),
        format!("644 {info}/METADATA"),
        format!("644 {info}/entry_points.txt"),
        format!("644 {MODULES}/vmseal_qubes/__init__.py"),
        format!("644 {MODULES}/vmseal_qubes/ext.py"),
        "755 etc/qubes-rpc/vmseal.TemplateKey".to_owned(),
        "755 usr/lib/vmseal/qubes-kernel-updated".to_owned(),
    ];
    assert_eq!(tree("install-dom0"), dom0);
    let units = "usr/lib/systemd/system";
    let vm = [
        format!("644 {units}/qubes-mount-dirs.service.d/vmseal.conf"),
        format!("644 {units}/vmseal-private.service"),
        "755 usr/lib/vmseal/qubes-mount-dirs".to_owned(),
    ];
    assert_eq!(tree("install-vm"), vm);
    // Where nobody says where, Python is asked.
    let to = format!("DESTDIR={}", stage.path().join("asked").display());
    run(Command::new("make")
        .args(["-s", "-C", "qubes", "install-dom0", &to])
        .current_dir(project()))
    .ok();
    let lib = fs::read_dir(stage.path().join("asked/usr/lib")).unwrap();
    let modules = lib.map(|entry| entry.unwrap().path().join("site-packages/vmseal_qubes/ext.py"));
    assert_eq!(modules.filter(|path| path.exists()).count(), 1);

    // systemd takes the units, beside one of Qubes' with what ours refers to.
    let root = stage.path().join("install-vm");
    let boot = root.join("usr/lib/vmseal/vmseal-boot");
    fs::copy(root.join("usr/lib/vmseal/qubes-mount-dirs"), boot).unwrap();
    fs::write(
        root.join(units).join("qubes-mount-dirs.service"),
        "[Unit]\nDefaultDependencies=no\nBefore=local-fs.target\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/lib/qubes/init/mount-dirs.sh\n",
    )
    .unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no", "--root"]).arg(&root);
    let ran = run(verify.args(["vmseal-private.service", "qubes-mount-dirs.service"])).ok();
    assert_eq!(ran.stderr, "", "{ran:#?}");
}

/// The private volume of a VM, with stand-ins for its device, for what is opened of it, and for
/// Qubes' own scripts; mounts, file systems and LUKS2 headers are real.
struct Private(TempDir);

impl Private {
    fn new() -> Self {
        let private = Self(TempDir::with_prefix("vmseal-private-").unwrap());
        let content = private.path("content");
        fs::create_dir(&content).unwrap();
        fs::write(content.join("precious"), "data").unwrap();
        // What was a file system before leaves copies of its superblock behind.
        for (name, size) in [("sealed", 300 << 20), ("opened", 60 << 20)] {
            private.size(name, size);
            let mut mkfs = Command::new("mkfs.ext4");
            run(mkfs.arg("-q").arg("-d").arg(&content).arg(private.path(name))).ok();
        }
        let key = private.path("key");
        fs::write(&key, "passphrase").unwrap();
        let mut format = Command::new("cryptsetup");
        format.args(["luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2"]);
        format.args(["--pbkdf-force-iterations", "1000"]).arg(private.path("sealed")).arg(key);
        run(&mut format).ok();
        private
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn size(&self, name: &str, size: u64) {
        let file = fs::File::options().create(true).append(true).open(self.path(name)).unwrap();
        file.set_len(size).unwrap();
    }

    /// Runs a program of the project with these volumes; an empty name is none.
    fn run(&self, (sealed, opened): (&str, &str), cmdline: &str, program: &str) -> Ran {
        let opened = Some(opened).filter(|name| !name.is_empty()).map(|name| self.path(name));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        command.arg(project().join("tests/qubes/private-volume")).arg(self.path(sealed));
        command.arg(opened.unwrap_or_default()).arg(cmdline).arg(project().join(program));
        run(command.env("VMSEAL_MOUNT_DIRS", project().join(STOCK)))
    }

    /// As the VM's boot does.
    fn mount(&self, volumes: (&str, &str), cmdline: &str) -> Ran {
        self.run(volumes, cmdline, "qubes/vm/qubes-mount-dirs")
    }
}

const STOCK: &str = "tests/qubes/mount-dirs";
const PIN: &str = "quiet vmseal.pin=uuid:hex";

#[test]
fn what_was_opened_is_mounted_by_qubes_own_scripts_and_what_was_not_is_let_alone() {
    let private = Private::new();
    let sealed = || fs::read(private.path("sealed")).unwrap();
    let before = sealed();
    let mounted = private.mount(("sealed", "opened"), PIN).ok();
    assert!(mounted.stdout.contains("/rw has lost+found, precious"), "{mounted:#?}");
    assert!(!mounted.stdout.contains("failed"), "{mounted:#?}");
    // Nobody else sees another device under the name.
    assert!(mounted.stdout.contains("/dev/xvdb is the volume itself"), "{mounted:#?}");

    // Not opened, or without the word of dom0: nothing of Qubes' is let near it.
    for (cmdline, says) in [(PIN, "is not open"), ("quiet", "gave no vmseal.pin=")] {
        let refused = private.mount(("sealed", ""), cmdline).code(1).says(says);
        assert_eq!(refused.stdout, "/dev/xvdb is the volume itself\n", "{refused:#?}");
    }
    // Even where this is not installed, Qubes' scripts do not take it for an empty one.
    let stock = private.run(("sealed", ""), "quiet", STOCK).code(32);
    assert!(stock.stdout.starts_with("fsck failed\n") && !stock.stdout.contains("formatted"));
    assert!(sealed() == before);

    // A VM that has nothing sealed is as it was, with data or without.
    let plain = private.mount(("opened", ""), "quiet my.vmseal.pin=x").ok();
    assert!(plain.stdout.contains("precious"), "{plain:#?}");
    private.size("virgin", 60 << 20);
    let virgin = private.mount(("virgin", ""), "quiet").ok();
    assert!(virgin.stdout.starts_with("formatted\n"), "{virgin:#?}");
    // With the word, an empty volume is not the pinned one, and no file system is made.
    private.size("empty", 60 << 20);
    private.mount(("empty", ""), PIN).code(1).says("is not open");
    assert!(fs::read(private.path("empty")).unwrap().iter().all(|byte| *byte == 0));
}

/// After `qvm-volume resize`, at the next start of the VM.
#[test]
fn the_file_system_in_a_volume_that_was_enlarged_grows() {
    let private = Private::new();
    private.size("opened", 80 << 20);
    let ran = private.mount(("sealed", "opened"), PIN);
    // Growing a mounted one takes CAP_SYS_RESOURCE, which a container may lack.
    let is_grown =
        !ran.stdout.contains(" 50 MiB") && ran.stderr.contains("is now 81920 (1k) blocks");
    let is_denied = ran.stderr.contains("Permission denied to resize");
    assert!(is_grown || is_denied, "{ran:#?}");
    assert!(ran.stderr.contains("/rw; on-line resizing required"), "{ran:#?}");
}
