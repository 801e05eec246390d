use serde_json::json;

use super::*;

fn values(byte: u8) -> PcrValues {
    let mut values = PcrValues::new(PcrBank::Sha256);
    for pcr in PcrIndex::all().take(3) {
        values.set(pcr, PcrBank::Sha256.hash(&[byte]));
    }
    values
}

fn entry(byte: u8) -> Approved {
    let mut entry = Approved::new(PolicyDigest::default(), values(byte), byte.into());
    entry.keyslot = Some(byte.into());
    entry.artifacts.insert("/boot/vmlinuz".into(), PcrBank::Sha256.hash(b"kernel"));
    entry.entry = Some("debian.conf".into());
    entry
}

fn state() -> State {
    let hash = PcrBank::Sha256.hash(b"line");
    let mut volume = VolumeState { device: Some("/dev/vda3".into()), ..VolumeState::default() };
    volume.authority = Some("ab".repeat(32));
    volume.approve(entry(1));
    volume.approve(entry(2));
    State {
        journal_head: Some(JournalHead { seq: 3, hash, begin: [7; 4] }),
        volumes: [("uuid".to_owned(), volume)].into(),
        ..State::default()
    }
}

#[test]
fn what_is_written_is_read_and_unknown_fields_stay() {
    let state = state();
    let mut json: Value = serde_json::from_str(&state.to_text()).expect("JSON");
    assert_eq!(State::parse(state.to_text().as_bytes()), Ok(state));
    json["later"] = json!({ "a": 1 });
    json["volumes"]["uuid"]["later"] = json!([1]);
    json["volumes"]["uuid"]["entries"][0]["later"] = json!("x");
    let read = State::parse(json.to_string().as_bytes()).expect("a state");
    let again: Value = serde_json::from_str(&read.to_text()).expect("JSON");
    assert_eq!(again, json);
}

#[test]
fn the_newest_approval_makes_the_last_one_old() {
    let mut volume = state().volumes.remove("uuid").expect("the volume");
    let standings = |volume: &VolumeState| {
        volume.entries.iter().map(|entry| (entry.generation, entry.standing)).collect::<Vec<_>>()
    };
    assert_eq!(standings(&volume), [(1, Standing::Old), (2, Standing::New)]);
    assert_eq!(volume.generation, 2);
    volume.entry_mut(&PolicyDigest::default(), &values(2)).expect("the entry").standing =
        Standing::Confirmed;
    volume.approve(Approved { generation: 3, ..entry(3) });
    let all = [(1, Standing::Old), (2, Standing::Confirmed), (3, Standing::New)];
    assert_eq!(standings(&volume), all);
}

#[test]
fn an_approval_that_failed_leaves_what_was_made() {
    let mut volume = state().volumes.remove("uuid").expect("the volume");
    let policy = PolicyDigest::default();
    volume.approve(Approved::new(policy, values(1), 3));
    let again = volume.entries.last().expect("an entry");
    assert_eq!((again.generation, again.keyslot, again.standing), (3, Some(1), Standing::New));
    volume.withdraw_unmade(&policy, &values(1));
    assert_eq!(volume.entries.len(), 2);
    volume.approve(Approved::new(policy, values(3), 4));
    volume.withdraw_unmade(&policy, &values(3));
    assert_eq!(volume.entries.len(), 2);
    volume.retain_keyslots(|keyslot| keyslot == 2);
    assert_eq!(volume.entries.len(), 1);
}

#[test]
fn there_is_always_room_for_one_more() {
    let mut volume = VolumeState::default();
    for byte in 0..40 {
        volume.approve(entry(byte));
    }
    volume.approve(Approved::new(PolicyDigest::default(), values(99), 99));
    volume.approve(entry(100));
    assert_eq!(volume.entries.len(), State::MAX_ENTRIES);
    assert!(volume.entries.iter().all(|entry| entry.keyslot.is_some()), "the unmade went first");
}

#[test]
fn an_edited_state_is_named() {
    let good: Value = serde_json::from_str(&state().to_text()).expect("JSON");
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 12] = [
        ("version 2, expected 1", |json| json["version"] = json!(2)),
        ("version", |json| drop(json.as_object_mut().expect("an object").remove("version"))),
        ("journal_head: not the head", |json| json["journal_head"] = json!("1:2:3")),
        ("65 volumes", |json| {
            for volume in 0..64 {
                json["volumes"][format!("{volume}")] = json!({ "generation": 1, "entries": [] });
            }
        }),
        ("17 entries", |json| {
            let entries = &mut json["volumes"]["uuid"]["entries"];
            *entries = json!(vec![entries[0].clone(); 17]);
        }),
        ("is there twice", |json| {
            let entries = &mut json["volumes"]["uuid"]["entries"];
            *entries = json!([entries[0], entries[0]]);
        }),
        ("authority", |json| json["volumes"]["uuid"]["authority"] = json!("key")),
        ("unknown variant", |json| json["volumes"]["uuid"]["entries"][0]["state"] = json!("true")),
        ("pcrs", |json| json["volumes"]["uuid"]["entries"][0]["pcrs"]["24"] = json!("00")),
        ("policy_hash", |json| {
            json["volumes"]["uuid"]["entries"][0]["policy_hash"] = json!("00");
        }),
        ("artifacts", |json| {
            json["volumes"]["uuid"]["entries"][0]["artifacts"]["/x"] = json!("00");
        }),
        ("bytes of a name", |json| {
            json["volumes"]["uuid"]["entries"][0]["entry"] = json!("x".repeat(5000));
        }),
    ];
    for (says, edit) in edits {
        let mut json = good.clone();
        edit(&mut json);
        let error = State::parse(json.to_string().as_bytes()).expect_err(says);
        assert!(error.contains(says), "{says}: {error}");
    }
    for hostile in [&b""[..], b"\0\0\0", b"[]", b"null", "[".repeat(100_000).as_bytes()] {
        assert!(State::parse(hostile).is_err());
    }
}
