//! LUKS2 volumes made by cryptsetup: what is read, changed and refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::header_edit::edit_header;
use testkit::image::{PASSPHRASE, UUID};
use testkit::{Image, run};
use vmseal::luks::{Device, HeaderCopy, LuksError, Priority};
use vmseal::secret::{KeyslotPassphrase, VolumeKey};

fn passphrase() -> KeyslotPassphrase {
    KeyslotPassphrase::new(PASSPHRASE.into())
}

fn strong() -> KeyslotPassphrase {
    KeyslotPassphrase::new(b"a secret that a TPM keeps".to_vec())
}

fn refusal<T>(result: Result<T, LuksError>) -> LuksError {
    result.err().expect("a refusal")
}

#[test]
fn a_keyslot_opens_from_the_copy_although_the_disk_changes_after_reading() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let mut copy = HeaderCopy::read(image.path(), None).unwrap();
    let before = copy.metadata().clone();
    image.damage(0, &vec![0xa5; 16 << 20]);
    let key = copy.open_keyslot(0, &passphrase()).unwrap();
    assert_eq!(key.expose().len(), 64);
    assert_eq!(copy.metadata(), &before);
    assert!(matches!(refusal(HeaderCopy::read(image.path(), None)), LuksError::NotLuks2 { .. }));
}

#[test]
fn metadata_is_what_cryptsetup_prints() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    image.import_token(3, &json!({ "type": "other", "keyslots": ["0"], "x": 1 })).ok();
    let copy = HeaderCopy::read(image.path(), None).unwrap();
    let metadata = copy.metadata();
    assert_eq!(metadata.uuid(), UUID);
    assert_eq!(metadata.json(), &image.metadata());
    assert_eq!(metadata.tokens()[&3]["x"], 1);
    let keyslots = metadata.keyslots();
    let [keyslot] = keyslots.as_slice() else { panic!("{keyslots:?}") };
    assert_eq!((keyslot.id, keyslot.kind.as_str(), keyslot.key_size), (0, "luks2", 64));
    assert_eq!(
        (keyslot.area_size, keyslot.priority, keyslot.bound),
        (258_048, Priority::Normal, true)
    );
    let pbkdf = keyslot.pbkdf.as_ref().unwrap();
    assert_eq!((pbkdf.kind.as_str(), pbkdf.iterations), ("pbkdf2", 1000));
    // The text on the disk ends with the first NUL after the binary header of 4096 bytes.
    let bytes = std::fs::read(image.path()).unwrap();
    let used = bytes[4096..].iter().position(|byte| *byte == 0).unwrap();
    assert_eq!(metadata.json_space().used, used as u64);
    assert_eq!(metadata.json_space().size, 16_384 - 4096 - 1);
}

#[test]
fn a_wrong_passphrase_and_a_missing_keyslot_are_told_apart() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let mut copy = HeaderCopy::read(image.path(), None).unwrap();
    let wrong = || KeyslotPassphrase::new(b"wrong".to_vec());
    let expected = LuksError::WrongPassphrase { keyslot: Some(0) };
    assert_eq!(refusal(copy.open_keyslot(0, &wrong())), expected);
    let expected = LuksError::WrongPassphrase { keyslot: None };
    assert_eq!(refusal(copy.open_any_keyslot(&wrong())), expected);
    for keyslot in [7, 31, 32, u32::MAX] {
        let expected = LuksError::NoSuchKeyslot { keyslot };
        assert_eq!(refusal(copy.open_keyslot(keyslot, &passphrase())), expected);
    }
    assert_eq!(copy.open_any_keyslot(&passphrase()).unwrap().0, 0);
}

#[test]
fn the_key_of_an_unbound_keyslot_is_not_the_volumes() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let new = folder.path().join("new");
    std::fs::write(&new, "unbound").unwrap();
    let options = ["--unbound", "--key-size", "512", "--pbkdf", "pbkdf2"];
    let mut add = Command::new("cryptsetup");
    add.args(["luksAddKey", "--batch-mode", "--pbkdf-force-iterations", "1000"]).args(options);
    run(add.arg(image.path()).arg(&new)).ok();
    let mut copy = HeaderCopy::read(image.path(), None).unwrap();
    let bound: Vec<_> = copy.metadata().keyslots().iter().map(|slot| slot.bound).collect();
    assert_eq!(bound, [true, false]);
    let unbound = KeyslotPassphrase::new(b"unbound".to_vec());
    assert_eq!(refusal(copy.open_keyslot(1, &unbound)), LuksError::ForeignVolumeKey);
}

#[test]
fn either_copy_of_the_header_is_enough_and_nothing_is_repaired() {
    for metadata_size in ["16k", "32k", "4m"] {
        let folder = TempDir::new().unwrap();
        let options = ["--luks2-metadata-size", metadata_size];
        let image = Image::format(folder.path(), &options);
        let second = 4096 + image_metadata_size(&image);
        for damaged in [0, 8, 4096, 4200, second - 4096, second] {
            let broken = image.copy();
            broken.damage(damaged, &[0xff; 8]);
            let snapshot = broken.snapshot();
            let mut copy = HeaderCopy::read(broken.path(), None).unwrap();
            copy.open_keyslot(0, &passphrase()).unwrap();
            drop(Device::open(broken.path(), None).unwrap());
            assert_eq!(broken.snapshot(), snapshot, "{damaged}");
        }
        image.damage(4200, &[0xff]);
        image.damage(second + 104, &[0xff]);
        for error in [
            refusal(HeaderCopy::read(image.path(), None)),
            refusal(Device::open(image.path(), None)),
        ] {
            assert!(matches!(error, LuksError::HeaderDamaged { .. }), "{error:?}");
        }
    }
}

fn image_metadata_size(image: &Image) -> u64 {
    let bytes = std::fs::read(image.path()).unwrap();
    u64::from_be_bytes(bytes[8..16].try_into().unwrap())
}

#[test]
fn what_is_not_luks2_is_called_that() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    let luks1 = folder.path().join("luks1");
    std::fs::write(&luks1, vec![0; 8 << 20]).unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "key").unwrap();
    let mut format = Command::new("cryptsetup");
    format.args(["luksFormat", "--batch-mode", "--type", "luks1", "--pbkdf-force-iterations"]);
    run(format.args(["1000", "--key-file"]).args([&key, &luks1])).ok();
    let noise: Vec<u8> =
        (0_u32..1 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let luks1 = std::fs::read(luks1).unwrap();
    let contents = [&[][..], b"LUKS", &[0; 512], &noise, &luks1];
    for bytes in contents {
        std::fs::write(&path, bytes).unwrap();
        let expected = LuksError::NotLuks2 { path: path.clone() };
        assert_eq!(refusal(HeaderCopy::read(&path, None)), expected);
        assert_eq!(refusal(Device::open(&path, None)), expected);
    }
    let directory = folder.path().to_owned();
    let expected = LuksError::NotLuks2 { path: directory.clone() };
    assert_eq!(refusal(HeaderCopy::read(&directory, None)), expected);
    let missing = Path::new("/nonexistent/disk");
    let expected = LuksError::DeviceMissing { path: missing.to_owned() };
    assert_eq!(refusal(HeaderCopy::read(missing, None)), expected);
    assert_eq!(refusal(HeaderCopy::read(&path, Some(missing))), expected);
}

#[test]
fn a_detached_header_opens_its_volume() {
    let folder = TempDir::new().unwrap();
    let header = folder.path().join("header");
    let image = Image::format(folder.path(), &["--header", header.to_str().unwrap()]);
    assert!(matches!(refusal(HeaderCopy::read(image.path(), None)), LuksError::NotLuks2 { .. }));
    let mut copy = HeaderCopy::read(image.path(), Some(&header)).unwrap();
    let key = copy.open_keyslot(0, &passphrase()).unwrap();
    let mut device = Device::open(image.path(), Some(&header)).unwrap();
    let slot = device.add_keyslot(&key, &strong()).unwrap();
    drop(device);
    let mut copy = HeaderCopy::read(image.path(), Some(&header)).unwrap();
    copy.open_keyslot(slot, &strong()).unwrap();
}

#[test]
fn keyslots_and_tokens_come_and_go_and_cryptsetup_agrees() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let mut device = Device::open(image.path(), None).unwrap();
    let (number, key) = device.open_keyslot(None, &passphrase()).unwrap();
    assert_eq!(number, 0);
    let slot = device.add_keyslot(&key, &strong()).unwrap();
    assert_eq!(slot, 1);
    // Not a valid token by the words of systemd's plugin, which must not be asked.
    let token = json!({ "type": "systemd-tpm2", "keyslots": ["1"], "odd": [1, 2] });
    let id = device.add_token(&token).unwrap();
    assert_eq!(device.metadata().tokens()[&id], token);
    let changed = json!({ "type": "systemd-tpm2", "keyslots": ["1"], "odd": 3 });
    device.replace_token(id, &changed).unwrap();
    let free = json!({ "type": "vmseal-record", "keyslots": [] });
    assert_eq!(device.add_token(&free).unwrap(), id + 1);
    // The lock would keep cryptsetup waiting.
    let metadata = device.metadata().clone();
    drop(device);
    assert_eq!(image.metadata(), *metadata.json());
    assert_eq!(image.tokens("systemd-tpm2"), [(id, changed)]);
    let kdf = &image.metadata()["keyslots"]["1"]["kdf"];
    assert_eq!(
        (&kdf["type"], &kdf["hash"], &kdf["iterations"]),
        (&json!("pbkdf2"), &json!("sha512"), &json!(1000))
    );
    assert!(image.opens_with("a secret that a TPM keeps"));

    let mut device = Device::open(image.path(), None).unwrap();
    device.remove_keyslot(slot).unwrap();
    assert_eq!(device.metadata().tokens()[&id]["keyslots"], json!([]));
    device.remove_token(id).unwrap();
    assert_eq!(refusal(device.remove_token(id)), LuksError::NoSuchToken { token: id });
    assert_eq!(refusal(device.replace_token(9, &free)), LuksError::NoSuchToken { token: 9 });
    assert_eq!(refusal(device.remove_keyslot(slot)), LuksError::NoSuchKeyslot { keyslot: slot });
    let metadata = device.metadata().clone();
    drop(device);
    assert_eq!(image.metadata(), *metadata.json());
    assert!(!image.opens_with("a secret that a TPM keeps"));
    assert!(image.opens_with(PASSPHRASE));
}

#[test]
fn what_luks2_does_not_allow_is_refused_and_nothing_changes() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let before = image.snapshot();
    let mut device = Device::open(image.path(), None).unwrap();
    for token in [
        json!({}),
        json!([]),
        json!({ "type": "x" }),
        json!({ "type": "x", "keyslots": ["5"] }),
        json!({ "type": "x", "keyslots": 1 }),
        json!({ "type": "luks2-keyring", "keyslots": ["0"] }),
    ] {
        assert_eq!(refusal(device.add_token(&token)), LuksError::InvalidToken, "{token}");
    }
    let foreign = VolumeKey::new(vec![1; 64]);
    assert_eq!(refusal(device.add_keyslot(&foreign, &strong())), LuksError::ForeignVolumeKey);
    assert_eq!(image.snapshot(), before);
}

/// Fills the JSON area up to a rest of `free` bytes.
fn fill(device: &mut Device, free: u64) {
    let filler = |length| json!({ "type": "filler", "keyslots": [], "x": "x".repeat(length) });
    // `"0":` and no comma: the first token.
    let least = filler(0).to_string().len() as u64 + 4;
    let length = device.metadata().json_space().free() - free - least;
    device.add_token(&filler(usize::try_from(length).unwrap())).unwrap();
    assert_eq!(device.metadata().json_space().free(), free);
}

#[test]
fn a_full_json_area_is_noticed_before_anything_is_written() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let mut device = Device::open(image.path(), None).unwrap();
    let (_, key) = device.open_keyslot(None, &passphrase()).unwrap();
    fill(&mut device, 200);
    let before = image.snapshot();

    let long = json!({ "type": "t", "keyslots": [], "x": "x".repeat(200) });
    for error in [
        refusal(device.add_keyslot(&key, &strong())),
        refusal(device.add_token(&long)),
        refusal(device.require_space(1, &[], None)),
        refusal(device.replace_token(0, &json!({ "type": "t", "x": "x".repeat(16_000) }))),
    ] {
        assert!(matches!(error, LuksError::JsonAreaFull { .. }), "{error:?}");
    }
    assert_eq!(image.snapshot(), before);
    let short = json!({ "type": "t", "keyslots": [] });
    device.require_space(0, std::slice::from_ref(&short), None).unwrap();
    device.add_token(&short).unwrap();
    device.replace_token(0, &short).unwrap();
}

#[test]
fn the_room_that_a_keyslot_is_promised_is_enough_and_not_wasteful() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let mut device = Device::open(image.path(), None).unwrap();
    let (_, key) = device.open_keyslot(None, &passphrase()).unwrap();
    fill(&mut device, 100);
    let LuksError::JsonAreaFull { needed, .. } = refusal(device.require_space(1, &[], None)) else {
        panic!("another refusal")
    };
    device.remove_token(0).unwrap();
    fill(&mut device, needed);
    device.add_keyslot(&key, &strong()).unwrap();
    let left = device.metadata().json_space().free();
    assert!(left < 64, "{left} of {needed} bytes were not needed");
}

#[test]
fn a_full_keyslots_area_is_noticed_before_anything_is_written() {
    let folder = TempDir::new().unwrap();
    // 1 MiB holds four keyslots of 258048 bytes.
    let image = Image::format(folder.path(), &["--luks2-keyslots-size", "1m"]);
    let mut device = Device::open(image.path(), None).unwrap();
    let (_, key) = device.open_keyslot(None, &passphrase()).unwrap();
    let refused = loop {
        let before = image.snapshot();
        if let Err(error) = device.add_keyslot(&key, &strong()) {
            assert_eq!(image.snapshot(), before);
            break error;
        }
    };
    assert_eq!(refused, LuksError::NoFreeKeyslot);
    assert_eq!(device.metadata().keyslots().len(), 4);
    // The gap of a removed one is found again.
    device.remove_keyslot(1).unwrap();
    device.require_space(1, &[], None).unwrap();
    assert_eq!(refusal(device.require_space(2, &[], None)), LuksError::NoFreeKeyslot);
    assert_eq!(device.add_keyslot(&key, &strong()).unwrap(), 1);
}

#[test]
fn all_token_numbers_taken_is_its_own_refusal() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let mut device = Device::open(image.path(), None).unwrap();
    let token = json!({ "type": "t", "keyslots": [] });
    for expected in 0..32 {
        assert_eq!(device.add_token(&token).unwrap(), expected);
    }
    assert_eq!(refusal(device.add_token(&token)), LuksError::NoFreeToken);
}

#[test]
fn a_header_that_another_process_holds_is_busy_within_seconds() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let first = Device::open(image.path(), None).unwrap();
    let start = std::time::Instant::now();
    let busy = LuksError::Busy { path: image.path().to_owned() };
    assert_eq!(refusal(Device::open(image.path(), None)), busy);
    assert!(start.elapsed().as_secs() < 10);
    // It is the lock that cryptsetup takes.
    let mut dump = Command::new("timeout");
    run(dump.args(["1", "cryptsetup", "luksDump"]).arg(image.path())).code(124);
    // Reading takes no lock.
    HeaderCopy::read(image.path(), None).unwrap();
    drop(first);
    Device::open(image.path(), None).unwrap();
}

#[test]
fn absurd_areas_are_refused_without_reading_them() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let absurd: [(&str, Value); 5] = [
        ("size", "18446744073709551615".into()),
        ("size", "1099511627776".into()),
        ("offset", "18446744073709551615".into()),
        ("offset", "0".into()),
        ("size", (-1).into()),
    ];
    for (name, value) in absurd {
        let edited = image.copy();
        edit_header(edited.path(), |json| json["keyslots"]["0"]["area"][name] = value.clone());
        let error = refusal(HeaderCopy::read(edited.path(), None));
        assert!(matches!(error, LuksError::HeaderDamaged { .. }), "{name} {value}: {error:?}");
    }
    // One that libcryptsetup believes: 126 MiB of keyslots, one of them 100 MiB.
    std::fs::File::options().write(true).open(image.path()).unwrap().set_len(1 << 30).unwrap();
    edit_header(image.path(), |json| {
        json["config"]["keyslots_size"] = (126_u64 << 20).to_string().into();
        json["segments"]["0"]["offset"] = (128_u64 << 20).to_string().into();
        json["keyslots"]["0"]["area"]["size"] = (100_u64 << 20).to_string().into();
    });
    let error = refusal(HeaderCopy::read(image.path(), None));
    let expected = LuksError::HeaderTooLarge { found: 100 << 20, limit: 32 << 20 };
    assert_eq!(error, expected);
}

#[test]
fn a_block_device_is_changed_under_the_lock_that_cryptsetup_takes() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let mut setup = Command::new("losetup");
    let attached = run(setup.args(["--find", "--show"]).arg(image.path())).ok();
    let device_path = Path::new(attached.stdout.trim());
    let detach = || run(Command::new("losetup").arg("--detach").arg(device_path)).ok();
    let changed = std::panic::catch_unwind(|| {
        let mut device = Device::open(device_path, None).unwrap();
        let mut dump = Command::new("timeout");
        run(dump.args(["1", "cryptsetup", "luksDump"]).arg(device_path)).code(124);
        let (_, key) = device.open_keyslot(None, &passphrase()).unwrap();
        device.add_keyslot(&key, &strong()).unwrap();
        drop(device);
        run(Command::new("cryptsetup").arg("luksDump").arg(device_path)).ok();
        let mut copy = HeaderCopy::read(device_path, None).unwrap();
        copy.open_keyslot(1, &strong()).unwrap();
    });
    detach();
    changed.unwrap();
}
