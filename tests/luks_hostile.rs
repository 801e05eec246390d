//! Hostile headers: whatever the disk holds, reading it ends in a value or a refusal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::OpenOptions;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;
use testkit::Image;
use testkit::header_edit::{BINARY_HEADER, replace_json, rewrite};
use testkit::image::PASSPHRASE;
use vmseal::luks::{HeaderCopy, LuksError, Pin};
use vmseal::secret::KeyslotPassphrase;

/// Bytes of both metadata copies.
const METADATA: usize = 2 * 16_384;

struct Target {
    image: Image,
    metadata: Vec<u8>,
    json: Value,
    pin: Pin,
    _folder: TempDir,
}

impl Target {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let image = Image::create(folder.path());
        let mut copy = HeaderCopy::read(image.path(), None).unwrap();
        let key = copy.open_keyslot(0, &KeyslotPassphrase::new(PASSPHRASE.into())).unwrap();
        let pin = Pin::of(copy.metadata(), &key).unwrap();
        let json = copy.metadata().json().clone();
        let mut metadata = std::fs::read(image.path()).unwrap();
        metadata.truncate(METADATA);
        Self { image, metadata, json, pin, _folder: folder }
    }

    /// Reads what is on the disk now, checks what must hold of it, and puts the disk right again.
    fn verdict(&self) -> Result<(), LuksError> {
        let read = HeaderCopy::read(self.image.path(), None);
        self.image.damage(0, &self.metadata);
        let copy = match read {
            Ok(copy) => copy,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return Err(error);
            }
        };
        let metadata = copy.metadata();
        let (_, _, _) = (metadata.keyslots(), metadata.tokens(), metadata.json_space());
        match self.pin.check_header(metadata) {
            Ok(()) => assert_eq!(metadata.json()["segments"], self.json["segments"]),
            Err(mismatch) => assert!(mismatch.to_string().is_ascii()),
        }
        Ok(())
    }

    fn path(&self) -> &Path {
        self.image.path()
    }
}

#[test]
fn a_changed_byte_never_harms() {
    let target = Target::new();
    let text = target.metadata[BINARY_HEADER..].iter().position(|byte| *byte == 0).unwrap();
    let mut accepted = 0;
    // The fields of the binary header, the whole JSON text and a little beyond, checksums right.
    for offset in (0..512).chain(BINARY_HEADER..BINARY_HEADER + text + 8) {
        let value = [0x00, 0xff, b'"', b'9', b'-', b'{'][offset % 6];
        rewrite_at(&target, offset, value);
        accepted += u32::from(target.verdict().is_ok());
    }
    assert!(accepted > 100, "most changes of salts and UUIDs are believed: {accepted}");
    // Checksums wrong in one copy: the other one is used, and is the pinned volume.
    for offset in (0..METADATA).step_by(97) {
        target.image.damage(offset as u64, &[target.metadata[offset] ^ 0x55]);
        assert_eq!(target.verdict(), Ok(()), "{offset}");
    }
}

fn rewrite_at(target: &Target, offset: usize, value: u8) {
    rewrite(target.path(), |copy| {
        // The size is where the other copy is found, and the magic where this one is.
        if !(0..16).contains(&offset) {
            copy[offset] = value;
        }
    });
    if offset < 16 {
        target.image.damage(offset as u64, &[value]);
    }
}

#[test]
fn a_disk_cut_at_any_length_is_refused_or_whole() {
    let target = Target::new();
    let file = OpenOptions::new().write(true).open(target.path()).unwrap();
    let lengths =
        (0..64).chain((64..METADATA as u64 + 4096).step_by(509)).chain([1 << 20, 1 << 23]);
    for length in lengths {
        file.set_len(length).unwrap();
        let error = HeaderCopy::read(target.path(), None).err().unwrap();
        let expected =
            matches!(error, LuksError::NotLuks2 { .. } | LuksError::HeaderDamaged { .. });
        assert!(expected, "{length}: {error:?}");
        file.set_len(0).unwrap();
        target.image.damage(0, &target.metadata);
    }
    file.set_len(32 << 20).unwrap();
    assert_eq!(target.verdict(), Ok(()));
}

#[test]
fn deep_and_endless_json_is_refused() {
    let target = Target::new();
    let deep = "[".repeat(10_000);
    let object = "{\"a\":".repeat(2000);
    let space = " ".repeat(12_000);
    for text in [&deep, &object, &space, "", "{}", "null", "\"", "NaN", "{\"keyslots\":NaN}"] {
        replace_json(target.path(), text.as_bytes());
        let error = target.verdict().unwrap_err();
        assert!(matches!(error, LuksError::HeaderDamaged { .. }), "{text:.20}: {error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn json_with_any_value_in_any_place_never_harms(place in any::<prop::sample::Index>(), value in values()) {
        thread_local!(static TARGET: Target = Target::new());
        TARGET.with(|target| {
            let mut json = target.json.clone();
            let mut places = Vec::new();
            pointers(&json, String::new(), &mut places);
            *json.pointer_mut(place.get::<String>(&places)).unwrap() = value;
            replace_json(target.path(), json.to_string().as_bytes());
            let _ = target.verdict();
        });
    }
}

/// Values that parsers stumble over.
fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(Value::Bool(true)),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<u64>().prop_map(|number| number.to_string().into()),
        "\\PC{0,40}".prop_map(Value::from),
        Just(serde_json::json!({})),
        Just(serde_json::json!([])),
        Just(serde_json::json!(["0", "0", "00", "1"])),
        Just(serde_json::json!({ "0": {}, "00": {}, "4294967296": {}, "-1": 1 })),
    ]
}

/// The JSON pointer of every value inside `json`.
fn pointers(json: &Value, at: String, found: &mut Vec<String>) {
    let mut inner = |name: &str, value: &Value| {
        let at = format!("{at}/{name}");
        found.push(at.clone());
        pointers(value, at, found);
    };
    match json {
        Value::Object(object) => object.iter().for_each(|(name, value)| inner(name, value)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(n, value)| inner(&n.to_string(), value));
        }
        _ => {}
    }
}
