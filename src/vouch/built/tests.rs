use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::vouch::{Voucher, vouchers};

fn root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("boot")).unwrap();
    root
}

fn put(root: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = root.path().join("boot").join(name);
    fs::write(&path, text).unwrap();
    path
}

fn voucher(root: &TempDir, path: &Path) -> Voucher {
    let digests = FileDigests::of(&FileSource::open(path).unwrap()).unwrap();
    vouchers(root.path(), &[(path.to_owned(), digests)]).remove(0)
}

fn notes(root: &TempDir) -> PathBuf {
    root.path().join(FOLDER).join(FILE)
}

#[test]
fn what_was_noted_is_vouched_for_until_it_changes() {
    let root = root();
    let initrd = put(&root, "initrd.img-6.12", "one");
    assert_eq!(voucher(&root, &initrd), Voucher::Nobody);
    note_built(root.path(), &initrd).unwrap();
    assert_eq!(voucher(&root, &initrd), Voucher::Built);
    assert_eq!(voucher(&root, &initrd).to_string(), "built by this machine's hook");
    put(&root, "initrd.img-6.12", "two");
    assert_eq!(voucher(&root, &initrd), Voucher::Nobody);
    note_built(root.path(), &initrd).unwrap();
    assert_eq!(voucher(&root, &initrd), Voucher::Built);
    put(&root, "initrd.img-6.12", "one");
    assert_eq!(voucher(&root, &initrd), Voucher::Nobody);
}

#[test]
fn a_file_is_known_by_its_own_path_and_by_links_to_it() {
    let root = root();
    let initrd = put(&root, "initrd.img-6.12", "one");
    let link = root.path().join("boot/initrd.img");
    symlink("initrd.img-6.12", &link).unwrap();
    note_built(root.path(), &link).unwrap();
    assert_eq!(voucher(&root, &link), Voucher::Built);
    assert_eq!(voucher(&root, &initrd), Voucher::Built);
    assert_eq!(voucher(&root, &put(&root, "copy", "one")), Voucher::Nobody);
    let text = fs::read_to_string(notes(&root)).unwrap();
    assert!(text.contains("\"/boot/initrd.img-6.12\""), "{text}");
}

#[test]
fn the_oldest_notes_are_dropped() {
    let root = root();
    let built: Vec<_> = (0..=MAX_NOTES).map(|n| put(&root, &n.to_string(), "x")).collect();
    built.iter().for_each(|path| note_built(root.path(), path).unwrap());
    assert_eq!(voucher(&root, &built[0]), Voucher::Nobody);
    assert_eq!(voucher(&root, &built[1]), Voucher::Built);
    // Noted anew, it is no longer the oldest.
    note_built(root.path(), &built[1]).unwrap();
    note_built(root.path(), &built[0]).unwrap();
    assert_eq!(voucher(&root, &built[1]), Voucher::Built);
    assert_eq!(voucher(&root, &built[2]), Voucher::Nobody);
    assert_eq!(Notes::read(root.path()).unwrap().built.len(), MAX_NOTES);
}

#[test]
fn notes_that_others_could_have_written_do_not_count() {
    let root = root();
    let initrd = put(&root, "initrd", "one");
    note_built(root.path(), &initrd).unwrap();
    let (file, folder) = (notes(&root), root.path().join(FOLDER));
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for path in [&file, &folder] {
        let mode = fs::metadata(path).unwrap().mode();
        for added in [0o020, 0o002] {
            set(path, mode | added);
            assert_eq!(voucher(&root, &initrd), Voucher::Nobody, "{path:?} {added:o}");
        }
        set(path, mode);
        assert_eq!(voucher(&root, &initrd), Voucher::Built, "{path:?}");
    }
    set(&folder, 0o777);
    let refused = note_built(root.path(), &initrd).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    set(&folder, 0o755);

    fs::rename(&file, root.path().join("elsewhere")).unwrap();
    symlink(root.path().join("elsewhere"), &file).unwrap();
    assert_eq!(voucher(&root, &initrd), Voucher::Nobody);
    // A new note takes the link's place, not that of what it leads to.
    note_built(root.path(), &initrd).unwrap();
    assert!(fs::symlink_metadata(&file).unwrap().is_file());
    assert_eq!(voucher(&root, &initrd), Voucher::Built);
}

#[test]
fn notes_that_make_no_sense_do_not_count() {
    let root = root();
    let initrd = put(&root, "initrd", "one");
    note_built(root.path(), &initrd).unwrap();
    let good = fs::read_to_string(notes(&root)).unwrap();
    let long = format!("{good}{}", " ".repeat(MAX_LEN as usize));
    let entry = good.split_once('[').unwrap().1.split_once(']').unwrap().0;
    let many = good.replace(entry, &[entry; MAX_NOTES + 1].join(","));
    let cut = good[..good.len() / 2].to_owned();
    let newer = good.replace("\"version\": 1", "\"version\": 2");
    let no_digest = good.replace("\"sha256\": \"", "\"sha256\": \"x");
    for text in [long, many, cut, newer, no_digest, String::new(), "[".repeat(100_000)] {
        fs::write(notes(&root), &text).unwrap();
        assert_eq!(voucher(&root, &initrd), Voucher::Nobody, "{}", &text[..text.len().min(300)]);
        note_built(root.path(), &initrd).unwrap();
        assert_eq!(voucher(&root, &initrd), Voucher::Built);
    }
}

#[test]
fn what_cannot_be_noted_is_refused() {
    let root = root();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let kind = |path: &Path| note_built(root.path(), path).unwrap_err().kind();
    assert_eq!(kind(outside.path()), io::ErrorKind::InvalidInput);
    assert_eq!(kind(&root.path().join("boot")), io::ErrorKind::InvalidInput);
    assert_eq!(kind(&root.path().join("missing")), io::ErrorKind::NotFound);
    assert!(!notes(&root).exists());
}

#[test]
fn nobody_vouches_for_an_empty_file() {
    let root = root();
    let empty = put(&root, "empty", "");
    note_built(root.path(), &empty).unwrap();
    assert_eq!(voucher(&root, &empty), Voucher::Nobody);
}

#[test]
fn hooks_at_the_same_time_lose_no_note() {
    let root = root();
    let built: Vec<_> = (0..8).map(|n| put(&root, &n.to_string(), "x")).collect();
    std::thread::scope(|scope| {
        for path in &built {
            let root = root.path();
            scope.spawn(move || note_built(root, path).unwrap());
        }
    });
    assert!(built.iter().all(|path| voucher(&root, path) == Voucher::Built));
}
