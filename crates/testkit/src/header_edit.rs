//! An attacker's pen: edits LUKS2 metadata on a disk and makes its checksums right again.
//!
//! LUKS2 metadata is not authenticated, so whoever has the disk can do this.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Bytes of the binary header before each JSON area.
pub const BINARY_HEADER: usize = 4096;
const SIZE: std::ops::Range<usize> = 8..16;
const UUID: std::ops::Range<usize> = 168..208;
const CHECKSUM: std::ops::Range<usize> = 448..512;

/// The edits that `header-edit` knows, and that a pin must notice.
pub const EDITS: [&str; 6] =
    ["cipher-null", "linear", "two-segments", "foreign-digest", "unknown-requirement", "uuid"];

/// Changes the JSON of both metadata copies on a device, image or detached header.
pub fn edit_header(path: &Path, edit: impl Fn(&mut Value)) {
    rewrite(path, |copy| {
        let (_, area) = copy.split_at_mut(BINARY_HEADER);
        let end = area.iter().position(|byte| *byte == 0).unwrap();
        let mut json = serde_json::from_slice(&area[..end]).unwrap();
        edit(&mut json);
        write_json(area, json.to_string().as_bytes());
    });
}

/// Replaces the JSON of both metadata copies by any text.
pub fn replace_json(path: &Path, text: &[u8]) {
    rewrite(path, |copy| write_json(&mut copy[BINARY_HEADER..], text));
}

/// Changes the UUID of both metadata copies.
pub fn edit_uuid(path: &Path, uuid: &str) {
    rewrite(path, |copy| {
        copy[UUID].fill(0);
        copy[UUID][..uuid.len()].copy_from_slice(uuid.as_bytes());
    });
}

/// Does one of [`EDITS`].
///
/// # Panics
/// For another name.
pub fn named_edit(path: &Path, name: &str) {
    let edit: fn(&mut Value) = match name {
        "cipher-null" => |json| json["segments"]["0"]["encryption"] = "cipher_null-ecb".into(),
        "linear" => |json| {
            let offset = json["segments"]["0"]["offset"].clone();
            json["segments"]["0"] =
                json!({ "type": "linear", "offset": offset, "size": "dynamic" });
        },
        "two-segments" => |json| {
            let mut second = json["segments"]["0"].clone();
            let offset: u64 = second["offset"].as_str().unwrap().parse().unwrap();
            json["segments"]["0"]["size"] = "1048576".into();
            second["offset"] = (offset + 1_048_576).to_string().into();
            second["iv_tweak"] = "2048".into();
            json["segments"]["1"] = second;
            json["digests"]["0"]["segments"] = json!(["0", "1"]);
        },
        "foreign-digest" => |json| {
            let digest = json["digests"]["0"]["digest"].as_str().unwrap();
            let first = if digest.starts_with('A') { "B" } else { "A" };
            json["digests"]["0"]["digest"] = format!("{first}{}", &digest[1..]).into();
        },
        "unknown-requirement" => {
            |json| json["config"]["requirements"] = json!({ "mandatory": ["unheard-of"] })
        }
        "uuid" => return edit_uuid(path, "00000000-0000-4000-8000-000000000000"),
        _ => panic!("no edit is named {name}: {}", EDITS.join(" ")),
    };
    edit_header(path, edit);
}

/// Changes the bytes of both metadata copies, binary header and JSON area.
pub fn rewrite(path: &Path, edit: impl Fn(&mut [u8])) {
    let device = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let size = metadata_size(&device);
    for offset in [0, size] {
        let mut copy = vec![0; usize::try_from(size).unwrap()];
        device.read_exact_at(&mut copy, offset).unwrap();
        edit(&mut copy);
        copy[CHECKSUM].fill(0);
        let checksum = Sha256::digest(&copy);
        copy[CHECKSUM][..checksum.len()].copy_from_slice(&checksum);
        device.write_all_at(&copy, offset).unwrap();
    }
    device.sync_all().unwrap();
}

fn metadata_size(device: &File) -> u64 {
    let mut start = [0; 16];
    device.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(&start[..8], b"LUKS\xba\xbe\0\x02", "a LUKS2 header");
    u64::from_be_bytes(start[SIZE].try_into().unwrap())
}

fn write_json(area: &mut [u8], text: &[u8]) {
    area.fill(0);
    area[..text.len()].copy_from_slice(text);
}
