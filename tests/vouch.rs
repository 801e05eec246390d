//! Who vouches for a file, by the dpkg database of the machine that this runs on.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr)]

use std::fs;
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
    let start = Instant::now();
    let found = vouchers(Path::new("/"), &wanted);
    let took = start.elapsed();
    eprintln!("one look-up of three files took {took:?}");
    let expected =
        Voucher::Package { name: "dpkg".into(), version: version("dpkg"), file: PACKAGED.into() };
    assert_eq!(found, [Voucher::Nobody, expected.clone(), expected.clone()]);
    let shown = format!("vouched by package dpkg {}", version("dpkg"));
    assert_eq!((found[0].to_string(), found[1].to_string()), ("vouched by nobody".into(), shown));
    assert!(took < Duration::from_secs(2), "{took:?}");
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
