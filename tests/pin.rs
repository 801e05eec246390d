//! The pin: which headers are the pinned volume's, and the file that says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::Image;
use testkit::header_edit::{EDITS, edit_header, named_edit, rewrite};
use testkit::image::{PASSPHRASE, UUID};
use vmseal::luks::{Device, HeaderCopy, LuksError, Pin, PinMismatch, Pins, PinsError};
use vmseal::secret::{KeyslotPassphrase, VolumeKey};
use vmseal::token::Record;

fn passphrase() -> KeyslotPassphrase {
    KeyslotPassphrase::new(PASSPHRASE.into())
}

fn pin(path: &Path) -> Pin {
    let mut copy = HeaderCopy::read(path, None).unwrap();
    let key = copy.open_keyslot(0, &passphrase()).unwrap();
    Pin::of(copy.metadata(), &key).unwrap()
}

fn check(pin: &Pin, path: &Path) -> Result<(), PinMismatch> {
    pin.check_header(HeaderCopy::read(path, None).unwrap().metadata())
}

#[test]
fn every_edit_of_an_attacker_is_refused_by_its_field() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let pin = pin(image.path());
    assert_eq!(check(&pin, image.path()), Ok(()));
    let sentence = |edit| {
        let edited = image.copy();
        named_edit(edited.path(), edit);
        check(&pin, edited.path()).expect_err(edit).to_string()
    };
    let sentences: Vec<_> = EDITS.into_iter().map(sentence).collect();
    let cipher = "segment 0 encryption: pinned aes-xts-plain64, header says cipher_null-ecb";
    assert_eq!(sentences[0], cipher);
    assert_eq!(sentences[1], "segment 0 type: pinned crypt, header says linear");
    assert_eq!(sentences[2], "segments: pinned 0 only, header says 0 1");
    assert!(sentences[3].starts_with("digest digest: pinned "), "{}", sentences[3]);
    let requirement = r#"requirements: pinned none, header says {"mandatory":["unheard-of"]}"#;
    assert_eq!(sentences[4], requirement);
    let uuid = format!("UUID: pinned {UUID}, header says 00000000-0000-4000-8000-000000000000");
    assert_eq!(sentences[5], uuid);
}

#[test]
fn the_secret_still_opens_a_downgraded_header_so_only_the_pin_refuses_it() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    named_edit(image.path(), "cipher-null");
    let mut copy = HeaderCopy::read(image.path(), None).unwrap();
    let key = copy.open_keyslot(0, &passphrase()).unwrap();
    let refused = Pin::of(copy.metadata(), &key).unwrap_err();
    assert_eq!(
        (refused.field.as_str(), refused.found.as_str()),
        ("segment 0 encryption", "cipher_null-ecb")
    );
}

type Edit = fn(&mut Value);

#[test]
fn each_field_of_segment_and_digest_is_pinned() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let pin = pin(image.path());
    let edits: [(&str, Edit); 10] = [
        ("segment 0 offset", |json| json["segments"]["0"]["offset"] = "16781312".into()),
        ("segment 0 size", |json| json["segments"]["0"]["size"] = "1048576".into()),
        ("segment 0 iv_tweak", |json| json["segments"]["0"]["iv_tweak"] = "8".into()),
        ("segment 0 sector_size", |json| json["segments"]["0"]["sector_size"] = 1024.into()),
        ("segment 0 encryption", |json| json["segments"]["0"]["encryption"] = "null".into()),
        ("segment 0 integrity", |json| {
            json["segments"]["0"]["integrity"] = json!({
                "type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none",
            });
        }),
        ("segment 0 flags", |json| json["segments"]["0"]["flags"] = json!(["odd"])),
        ("digest salt", |json| {
            json["digests"]["0"]["salt"] = format!("{}=", "A".repeat(43)).into();
        }),
        ("digest iterations", |json| json["digests"]["0"]["iterations"] = 1001.into()),
        ("digest hash", |json| json["digests"]["0"]["hash"] = "sha512".into()),
    ];
    for (field, edit) in edits {
        let edited = image.copy();
        edit_header(edited.path(), edit);
        let mismatch = check(&pin, edited.path()).expect_err(field);
        assert_eq!(mismatch.field, field);
    }
}

#[test]
fn a_backup_segment_or_a_reencryption_is_refused() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let pin = pin(image.path());
    let mut reencrypt = std::process::Command::new("cryptsetup");
    reencrypt.args(["reencrypt", "--init-only", "--batch-mode", "--key-file", "-"]);
    reencrypt.args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
    let ran = testkit::run::run_with_input(reencrypt.arg(image.path()), PASSPHRASE.as_bytes());
    ran.ok();
    let mismatch = check(&pin, image.path()).unwrap_err();
    assert_eq!(mismatch.field, "requirements");
    // A header that no longer admits it is none to libcryptsetup.
    edit_header(image.path(), |json| json["config"]["requirements"]["mandatory"] = json!([]));
    let error = HeaderCopy::read(image.path(), None).err().unwrap();
    assert!(matches!(error, LuksError::HeaderDamaged { .. }), "{error:?}");
}

#[test]
fn keyslots_and_tokens_may_change_under_a_pin() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let pin = pin(image.path());
    let mut device = Device::open(image.path(), None).unwrap();
    let (_, key) = device.open_keyslot(None, &passphrase()).unwrap();
    let slot = device.add_keyslot(&key, &KeyslotPassphrase::new(b"strong".to_vec())).unwrap();
    device.add_token(&json!({ "type": "t", "keyslots": [slot.to_string()] })).unwrap();
    assert_eq!(pin.check_header(device.metadata()), Ok(()));
    assert_eq!(Pin::of(device.metadata(), &key).unwrap(), pin);
    assert_eq!(pin.check_key(&key), Ok(()));
    let mismatch = pin.check_key(&VolumeKey::new(vec![7; 64])).unwrap_err();
    assert_eq!(mismatch.field, "volume key");
}

#[test]
fn a_short_key_is_not_pinned() {
    let folder = TempDir::new().unwrap();
    let options = ["--cipher", "aes-cbc-essiv:sha256", "--key-size", "128"];
    let image = Image::format(folder.path(), &options);
    let mut copy = HeaderCopy::read(image.path(), None).unwrap();
    let key = copy.open_keyslot(0, &passphrase()).unwrap();
    let refused = Pin::of(copy.metadata(), &key).unwrap_err().to_string();
    let expected = "the volume cannot be pinned: volume key must be at least 256 bits, \
                    header says 128 bits";
    assert_eq!(refused, expected);
}

#[test]
fn a_message_shows_hostile_text_bounded_and_printable() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let pin = pin(image.path());
    edit_header(image.path(), |json| {
        json["segments"]["0"]["encryption"] = format!("\u{1b}[2J\n{}", "ä".repeat(3000)).into();
    });
    let message = check(&pin, image.path()).unwrap_err().to_string();
    assert!(message.len() < 250, "{message}");
    assert!(message.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{message}");
}

#[test]
fn a_uuid_that_is_no_text_is_refused_and_not_printed() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    rewrite(image.path(), |copy| copy[168..172].copy_from_slice(&[0xff, 0x1b, b'[', b'2']));
    let error = HeaderCopy::read(image.path(), None).err().unwrap().to_string();
    assert!(error.ends_with("it has no UUID"), "{error}");
}

#[test]
fn the_file_keeps_what_it_does_not_know() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let pin = pin(image.path());
    let path = folder.path().join("etc/vmseal/pins.json");
    let mut pins = Pins::read(&path).unwrap();
    assert_eq!(pins.get(UUID), Ok(None));
    pins.set(&pin);
    pins.write(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
    assert_eq!(Pins::read(&path).unwrap().get(UUID).unwrap().as_ref(), Some(&pin));

    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json[UUID]["later"] = 1.into();
    json["other"] = json!({ "unknown": true });
    std::fs::write(&path, json.to_string()).unwrap();
    let mut pins = Pins::read(&path).unwrap();
    // A pin with fields of a later version still binds, and is another entry.
    let later = pins.get(UUID).unwrap().unwrap();
    assert_ne!(later.digest(), pin.digest());
    assert_eq!(check(&later, image.path()), Ok(()));
    pins.set(&pin);
    pins.write(&path).unwrap();
    let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(written, json);
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file stays");
    assert_eq!(
        Pins::read(&path).unwrap().get("other"),
        Err(PinsError::MalformedEntry { uuid: "other".into() })
    );
}

#[test]
fn the_digest_of_an_entry_is_that_of_its_sorted_json() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let pin = pin(image.path());
    let path = folder.path().join("pins.json");
    let mut pins = Pins::read(&path).unwrap();
    pins.set(&pin);
    pins.write(&path).unwrap();
    let script = format!("jq -cS '.\"{UUID}\"' {} | tr -d '\\n' | sha256sum", path.display());
    let ran = testkit::run(std::process::Command::new("sh").args(["-c", &script])).ok();
    assert_eq!(ran.stdout.split_whitespace().next(), Some(pin.digest().as_str()));
}

#[test]
fn a_digest_makes_a_pin_of_the_entry_that_has_it_and_of_no_other() {
    let folder = TempDir::new().unwrap();
    let image = Image::create(folder.path());
    let pin = pin(image.path());
    let (hex, entry) = (pin.digest(), pin.entry());
    assert_eq!(pin.cmdline_word(), format!("vmseal.pin={UUID}:{hex}"));
    assert_eq!(Pins::from_hash(UUID, &hex, &entry), Some(pin.clone()));
    assert_eq!(Pins::from_hash(UUID, &hex.to_uppercase(), &entry), Some(pin));
    let mut other = entry.clone();
    other["segment"]["encryption"] = "cipher_null-ecb".into();
    for candidate in [other, json!({}), Value::Null, entry.to_string().into()] {
        assert_eq!(Pins::from_hash(UUID, &hex, &candidate), None, "{candidate}");
    }
    assert_eq!(Pins::from_hash(UUID, "", &entry), None);
    // What has the digest must be a pin still.
    let empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    assert_eq!(Pins::from_hash(UUID, empty, &json!({})), None);
}

#[test]
fn the_record_carries_a_pin_of_bounded_length() {
    let folder = TempDir::new().unwrap();
    let pin = pin(Image::create(folder.path()).path());
    let mut record = Record::default();
    record.pin = Some(pin.entry());
    assert_eq!(Record::parse(&record.to_json()).unwrap().pin, Some(pin.entry()));
    for unusable in [json!({ "x": "y".repeat(Record::MAX_PIN) }), json!("text"), Value::Null] {
        record.pin = Some(unusable.clone());
        assert_eq!(record.to_json().get("pin"), None);
        let mut hostile = record.to_json();
        hostile["pin"] = unusable;
        let read = Record::parse(&hostile).unwrap();
        assert_eq!(read.pin, None);
        assert_eq!(read.to_json().get("pin"), None, "it is not written back");
    }
}

#[test]
fn a_file_that_is_no_object_of_pins_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pins.json");
    for text in ["", "[]", "{", "{} x", "null", "\u{0}"] {
        std::fs::write(&path, text).unwrap();
        let malformed = PinsError::Malformed { path: path.clone() };
        assert_eq!(Pins::read(&path).unwrap_err(), malformed, "{text:?}");
    }
    std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert_eq!(Pins::read(&path).unwrap_err(), PinsError::TooLarge { path: path.clone() });
    let directory = folder.path().to_owned();
    assert!(matches!(Pins::read(&directory).unwrap_err(), PinsError::Io { .. }));
    for entry in ["1", "{}", r#"{"digest":1,"segment":{},"volume_key":""}"#] {
        std::fs::write(&path, format!(r#"{{"u":{entry}}}"#)).unwrap();
        assert!(Pins::read(&path).unwrap().get("u").is_err(), "{entry}");
    }
}
