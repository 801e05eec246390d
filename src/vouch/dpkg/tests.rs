use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::measurement::PcrBank;
use crate::vouch::{FileDigests, Voucher, vouchers};

const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";

fn root(status: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for folder in ["info", "updates"] {
        fs::create_dir_all(root.path().join(FOLDER).join(folder)).unwrap();
    }
    put(&root, "status", status);
    root
}

fn put(root: &TempDir, file: &str, text: &str) {
    fs::write(root.path().join(FOLDER).join(file), text).unwrap();
}

fn stanza(name: &str, state: &str, version: &str) -> String {
    format!("Package: {name}\nStatus: {state}\nArchitecture: amd64\nVersion: {version}\n\n")
}

fn md5(hex: &str) -> [u8; 16] {
    hex::decode(hex).unwrap().try_into().unwrap()
}

fn found(root: &TempDir, path: &str, hex: &str) -> Voucher {
    let digests = FileDigests { sha256: PcrBank::Sha256.hash(hex.as_bytes()), md5: md5(hex) };
    vouchers(root.path(), &[(root.path().join(path), digests)]).remove(0)
}

fn package(name: &str, version: &str, file: &str) -> Voucher {
    Voucher::Package { name: name.into(), version: version.into(), file: file.into() }
}

#[test]
fn a_copy_of_a_packaged_file_is_found_under_any_name() {
    let signed = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed";
    let root = root(&stanza("grub-efi-amd64-signed", "install ok installed", "1+2.12"));
    put(&root, "info/grub-efi-amd64-signed.md5sums", &format!("{MD5}  {signed}\n"));
    let expected = package("grub-efi-amd64-signed", "1+2.12", &format!("/{signed}"));
    assert_eq!(found(&root, "boot/efi/EFI/debian/grubx64.efi", MD5), expected);
    assert_eq!(found(&root, "boot/efi/EFI/debian/grubx64.efi", &"0".repeat(32)), Voucher::Nobody);
}

#[test]
fn the_package_that_has_it_at_its_path_is_named_first() {
    let status = ["a", "b", "c"].map(|name| stanza(name, "install ok installed", "1")).concat();
    let root = root(&status);
    put(&root, "info/a.md5sums", &format!("{MD5}  usr/share/copy\n"));
    put(&root, "info/b.md5sums", &format!("{MD5}  boot/vmlinuz\n"));
    put(&root, "info/c.md5sums", &format!("{MD5}  boot/vmlinuz\n"));
    assert_eq!(found(&root, "boot/vmlinuz", MD5), package("b", "1", "/boot/vmlinuz"));
    assert_eq!(found(&root, "boot/other", MD5), package("a", "1", "/usr/share/copy"));
}

#[test]
fn names_with_an_architecture_are_those_of_its_package() {
    let root = root(&stanza("lib", "install ok installed", "1"));
    put(&root, "info/lib:i386.md5sums", &format!("{MD5}  a\n"));
    assert_eq!(found(&root, "a", MD5), Voucher::Nobody);
    put(&root, "info/lib:amd64.md5sums", &format!("{MD5}  a\n"));
    assert_eq!(found(&root, "a", MD5), package("lib", "1", "/a"));
}

#[test]
fn while_dpkg_works_its_updates_count() {
    let root = root(&stanza("gone", "install ok installed", "1"));
    put(&root, "info/linux.md5sums", &format!("{MD5}  boot/vmlinuz\n"));
    assert_eq!(found(&root, "boot/vmlinuz", MD5), Voucher::Nobody);
    put(&root, "updates/0000", &stanza("linux", "install ok half-configured", "6.12-1"));
    put(&root, "updates/tmp.i", &stanza("linux", "purge ok not-installed", "6.12-1"));
    assert_eq!(found(&root, "boot/vmlinuz", MD5), package("linux", "6.12-1", "/boot/vmlinuz"));
    put(&root, "updates/0001", &stanza("linux", "deinstall ok config-files", "6.12-1"));
    assert_eq!(found(&root, "boot/vmlinuz", MD5), Voucher::Nobody);
}

#[test]
fn lists_of_nobody_and_lists_behind_links_do_not_count() {
    let root = root(&stanza("linux", "install ok installed", "1"));
    let list = format!("{MD5}  boot/vmlinuz\n");
    put(&root, "info/stranger.md5sums", &list);
    put(&root, "info/linux.list", &list);
    put(&root, "elsewhere", &list);
    let info = root.path().join(FOLDER).join("info");
    symlink("../elsewhere", info.join("linux.md5sums")).unwrap();
    assert_eq!(found(&root, "boot/vmlinuz", MD5), Voucher::Nobody);

    fs::rename(&info, root.path().join("info")).unwrap();
    fs::remove_file(root.path().join("info/linux.md5sums")).unwrap();
    fs::write(root.path().join("info/linux.md5sums"), &list).unwrap();
    symlink("../../../info", &info).unwrap();
    assert_eq!(found(&root, "boot/vmlinuz", MD5), Voucher::Nobody);
    fs::remove_file(&info).unwrap();
    fs::rename(root.path().join("info"), &info).unwrap();
    assert_eq!(found(&root, "boot/vmlinuz", MD5), package("linux", "1", "/boot/vmlinuz"));
}

#[test]
fn nobody_vouches_for_an_empty_file() {
    let empty = "d41d8cd98f00b204e9800998ecf8427e";
    let root = root(&stanza("linux", "install ok installed", "1"));
    put(&root, "info/linux.md5sums", &format!("{empty}  boot/grub/grub.cfg\n"));
    assert_eq!(found(&root, "boot/grub/grub.cfg", empty), Voucher::Nobody);
    let nothing = FileDigests { sha256: PcrBank::Sha256.hash(&[]), md5: md5(MD5) };
    put(&root, "info/linux.md5sums", &format!("{MD5}  boot/grub/grub.cfg\n"));
    assert_eq!(vouchers(root.path(), &[("/a".into(), nothing)]), [Voucher::Nobody]);
}

#[test]
fn answers_come_in_the_order_of_the_questions() {
    let root = root(&stanza("linux", "install ok installed", "1"));
    let other = "0".repeat(32);
    put(&root, "info/linux.md5sums", &format!("{MD5}  a\n"));
    let of = |hex: &str| FileDigests { sha256: PcrBank::Sha256.hash(b"x"), md5: md5(hex) };
    let wanted = [MD5, &other, MD5].map(|hex| ("/a".into(), of(hex)));
    let expected = package("linux", "1", "/a");
    assert_eq!(vouchers(root.path(), &wanted), [expected.clone(), Voucher::Nobody, expected]);
    assert_eq!(vouchers(Path::new("/nonexistent"), &wanted), vec![Voucher::Nobody; 3]);
}
