//! What Debian's kernel packages run: which files the hooks say were just built.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use testkit::machine::project;
use testkit::run;

/// A system with these hooks, whose paths are those below its folder.
struct System(TempDir);

impl System {
    fn new() -> Self {
        let system = Self(TempDir::with_prefix("vmseal-kernel-hooks-").unwrap());
        for folder in ["postinst.d", "postrm.d"] {
            let hook = format!("etc/kernel/{folder}/zzz-vmseal");
            let text = fs::read_to_string(project().join("system").join(&hook)).unwrap();
            let below = |path: &str| system.path(path).display().to_string();
            let text = ["/usr/lib/vmseal", "/boot/", "/etc/kernel/"]
                .iter()
                .fold(text, |text, path| text.replace(path, &below(&path[1..])));
            system.program(&hook, &text);
        }
        system
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn program(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
        fs::set_permissions(self.path(path), PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// What `vmseal`'s own hook is told of kernel 6.12; `None` where it is not called.
    fn told(&self, folder: &str) -> Option<String> {
        let said = self.path("said");
        let _ = fs::remove_file(&said);
        let mut hook = Command::new(self.path(&format!("etc/kernel/{folder}/zzz-vmseal")));
        run(hook.args(["6.12", "/boot/vmlinuz-6.12"])).ok();
        fs::read_to_string(said).ok().map(|said| said.trim().to_owned())
    }
}

#[test]
fn a_kernel_that_came_or_went_is_told_of_with_what_dracut_built() {
    let system = System::new();
    // Removed, and not yet purged: dpkg leaves such files behind.
    assert_eq!((system.told("postinst.d"), system.told("postrm.d")), (None, None));
    let said = system.path("said");
    let hook = format!("#!/bin/sh\necho \"$@\" > {}\n", said.display());
    system.program("usr/lib/vmseal/reseal-hook", &hook);
    let initrd = system.path("boot/initrd.img-6.12");
    fs::create_dir_all(initrd.parent().unwrap()).unwrap();
    fs::write(&initrd, "").unwrap();
    let nothing = || Some(String::new());
    // initramfs-tools has told of its own.
    assert_eq!((system.told("postinst.d"), system.told("postrm.d")), (nothing(), nothing()));
    system.program("etc/kernel/postinst.d/dracut", "#!/bin/sh\n");
    assert_eq!(system.told("postinst.d"), Some(initrd.display().to_string()));
    assert_eq!(system.told("postrm.d"), nothing());
    fs::remove_file(&initrd).unwrap();
    assert_eq!(system.told("postinst.d"), nothing());
}
