//! Who vouches for a file, by the dpkg database of the machine that this runs on.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vmseal::files::FileSource;
use vmseal::vouch::{FileDigests, Voucher, note_built, vouchers};

const PACKAGED: &str = "/usr/bin/dpkg";

fn digests(path: &Path) -> (PathBuf, FileDigests) {
    (path.to_owned(), FileDigests::of(&FileSource::open(path).unwrap()).unwrap())
}

/// The version, as dpkg itself says it.
fn version(package: &str) -> String {
    let query = ["-W", "-f", "${Version}", package];
    let output = Command::new("dpkg-query").args(query).output().unwrap();
    assert!(output.status.success(), "{package}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_copy_of_a_packaged_file_is_vouched_for_and_a_changed_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (copy, changed) = (folder.path().join("grubx64.efi"), folder.path().join("changed"));
    let mut bytes = fs::read(PACKAGED).unwrap();
    fs::write(&copy, &bytes).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&changed, &bytes).unwrap();

    let wanted = [&changed, &copy, Path::new(PACKAGED)].map(digests);
    let found = vouchers(Path::new("/"), &wanted);
    let expected =
        Voucher::Package { name: "dpkg".into(), version: version("dpkg"), file: PACKAGED.into() };
    assert_eq!(found, [Voucher::Nobody, expected.clone(), expected.clone()]);
    let shown = format!("vouched by package dpkg {}", version("dpkg"));
    assert_eq!((found[0].to_string(), found[1].to_string()), ("vouched by nobody".into(), shown));
}

/// The best of three, so that what else the machine does is not measured.
#[test]
fn a_look_up_takes_less_than_two_seconds() {
    let unknown = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let wanted = [PACKAGED, "/usr/bin/dpkg-query", unknown].map(|path| digests(Path::new(path)));
    let look_up = || {
        let start = Instant::now();
        let found = vouchers(Path::new("/"), &wanted);
        let took = start.elapsed();
        assert!(found[0].is_somebody() && found[1].is_somebody() && !found[2].is_somebody());
        took
    };
    let took = [look_up(), look_up(), look_up()];
    eprintln!("look-ups of three files took {took:?}");
    assert!(took.into_iter().min().unwrap() < Duration::from_secs(2), "{took:?}");
}

/// dpkg tells its architecture in the name of its list.
#[test]
fn a_file_of_a_package_for_several_architectures_is_vouched_for() {
    let list = fs::read_dir("/var/lib/dpkg/info").unwrap().find_map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().ok()?;
        name.starts_with("libc6:").then_some(())?;
        name.ends_with(".md5sums").then(|| fs::read_to_string(entry.path()).unwrap())
    });
    let list = list.unwrap();
    let path = list.lines().find_map(|line| {
        let path = Path::new("/").join(&line[34..]);
        path.ends_with("libc.so.6").then_some(path)
    });
    let found = vouchers(Path::new("/"), &[digests(&path.unwrap())]).remove(0);
    let Voucher::Package { name, version: found, .. } = found else { unreachable!("{found}") };
    assert_eq!((name.as_str(), found), ("libc6", version("libc6")));
}

#[test]
fn a_package_comes_before_the_hook_and_both_before_nobody() {
    let root = tempfile::tempdir().unwrap();
    for folder in ["boot", "var/lib/dpkg/info"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    for file in ["status", "info/dpkg.md5sums"] {
        let file = Path::new("var/lib/dpkg").join(file);
        fs::copy(Path::new("/").join(&file), root.path().join(file)).unwrap();
    }
    let [kernel, initrd, other] =
        ["vmlinuz", "initrd.img", "other"].map(|name| root.path().join("boot").join(name));
    fs::copy(PACKAGED, &kernel).unwrap();
    fs::write(&initrd, "made here").unwrap();
    fs::write(&other, "made elsewhere").unwrap();
    note_built(root.path(), &kernel).unwrap();
    note_built(root.path(), &initrd).unwrap();

    let wanted = [&initrd, &other, &kernel].map(|path| digests(path));
    let found = vouchers(root.path(), &wanted).into_iter().map(|voucher| voucher.to_string());
    let package = format!("vouched by package dpkg {}", version("dpkg"));
    let expected = ["built by this machine's hook", "vouched by nobody", &package];
    assert_eq!(found.collect::<Vec<_>>(), expected);

    fs::write(&initrd, "made anew").unwrap();
    assert_eq!(vouchers(root.path(), &[digests(&initrd)]), [Voucher::Nobody]);
}

/// Runs dpkg or a program of it, on another root than this machine's.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A package whose scripts keep the database as they find it, where the kernel's hooks run.
fn kernel_package(folder: &Path) -> PathBuf {
    let (tree, package) = (folder.join("tree"), folder.join("kernel.deb"));
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join("boot")).unwrap();
    fs::write(tree.join("boot/vmlinuz"), "kernel").unwrap();
    let md5 = FileDigests::of(&FileSource::open(&tree.join("boot/vmlinuz")).unwrap()).unwrap().md5;
    let md5: String = md5.iter().map(|byte| format!("{byte:02x}")).collect();
    let script = "#!/bin/sh\nset -e\nseen=\"$DPKG_ROOT/seen/$DPKG_MAINTSCRIPT_NAME-$1\"\n\
                  mkdir -p \"$seen/var/lib\"\ncp -r \"$DPKG_ADMINDIR\" \"$seen/var/lib/dpkg\"\n";
    let control = "Package: linux-image-test\nVersion: 6.12-1\nArchitecture: all\n\
                   Maintainer: Nobody <nobody@example.org>\nDescription: a kernel\n";
    for (name, mode, text) in [
        ("control", 0o644, control),
        ("md5sums", 0o644, &*format!("{md5}  boot/vmlinuz\n")),
        ("postinst", 0o755, script),
        ("prerm", 0o755, script),
        ("postrm", 0o755, script),
    ] {
        let path = tree.join("DEBIAN").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    run("dpkg-deb", &["--build", tree.to_str().unwrap(), package.to_str().unwrap()]);
    package
}

/// dpkg notes what it does in `updates/` first, so that its status knows nothing of a new package
/// when that package's hooks run.
#[test]
fn a_package_counts_while_its_own_hooks_run_and_not_once_it_is_to_go() {
    let folder = tempfile::tempdir().unwrap();
    let package = kernel_package(folder.path());
    let root = folder.path().join("root");
    for part in ["info", "updates"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(part)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let at = format!("--root={}", root.display());
    let options = [&*at, "--log=/dev/null", "--force-script-chrootless,not-root"];
    run("dpkg", &[&options[..], &["--install", package.to_str().unwrap()]].concat());

    let kernel = digests(&root.join("boot/vmlinuz"));
    let expected = Voucher::Package {
        name: "linux-image-test".into(),
        version: "6.12-1".into(),
        file: "/boot/vmlinuz".into(),
    };
    let of = |root: &Path| vouchers(root, std::slice::from_ref(&kernel)).remove(0);
    let seen = |name: &str| of(&root.join("seen").join(name));
    assert_eq!(seen("postinst-configure"), expected);
    let status = fs::read_to_string(root.join("seen/postinst-configure/var/lib/dpkg/status"));
    assert!(!status.unwrap().contains("linux-image-test"));
    assert_eq!(of(&root), expected);

    run("dpkg", &[&options[..], &["--remove", "linux-image-test"]].concat());
    assert_eq!(seen("prerm-remove"), Voucher::Nobody);
    assert_eq!(seen("postrm-remove"), Voucher::Nobody);
    assert_eq!(of(&root), Voucher::Nobody);
}
