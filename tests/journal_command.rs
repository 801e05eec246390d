//! The journal of commands that change a volume, and `vmseal journal`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// The number of points shows that the test still reaches them.
#![allow(clippy::print_stdout)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use testkit::image::{PASSPHRASE, UUID};
use testkit::machine::OTHER_KERNEL;
use testkit::{Machine, Ran, System, Systemd, run};
use vmseal::boot::{BootReport, OpenedBy, VolumeReport};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");

fn root(machine: &Machine) -> PathBuf {
    machine.file("root")
}

fn store(machine: &Machine, name: &str) -> PathBuf {
    root(machine).join("var/lib/vmseal").join(name)
}

/// A command on a volume of the system below `root`.
fn command(machine: &Machine, arguments: &[&str]) -> Command {
    let mut command = machine.vmseal(arguments);
    command.arg("--root").arg(root(machine));
    command.arg("--expected-folder").arg(machine.file("expected"));
    command
}

fn on_image(machine: &Machine, arguments: &[&str]) -> Ran {
    run(command(machine, arguments).arg(machine.image.path()))
}

fn enroll(machine: &Machine) -> Ran {
    let key = machine.key_file();
    on_image(machine, &["enroll", "--unlock-key-file", key.to_str().unwrap()])
}

fn journal(machine: &Machine, arguments: &[&str]) -> Ran {
    run(command(machine, &["journal"]).args(arguments))
}

fn whole(machine: &Machine) {
    journal(machine, &["--verify"]).ok();
    run(command(machine, &["journal", "--verify"]).arg(machine.image.path())).ok();
}

fn lines(machine: &Machine) -> Vec<Value> {
    let json = journal(machine, &["--json"]).ok().json();
    json["lines"].as_array().unwrap().clone()
}

fn kinds(machine: &Machine) -> Vec<String> {
    lines(machine).iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
}

fn state(machine: &Machine) -> Value {
    serde_json::from_slice(&fs::read(store(machine, "state.json")).unwrap()).unwrap()
}

fn record(machine: &Machine) -> Value {
    machine.image.tokens("vmseal-record")[0].1.clone()
}

#[test]
fn what_is_enrolled_and_revoked_is_on_record() {
    let mut machine = Machine::booted(VMSEAL);
    fs::create_dir_all(root(&machine).join("dev")).unwrap();
    let syslog = UnixDatagram::bind(root(&machine).join("dev/log")).unwrap();
    enroll(&machine).ok();
    let mut buffer = [0; 2048];
    let length = syslog.recv(&mut buffer).unwrap();
    let told = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(told.contains("journal line 1: enroll"), "{told}");

    let written = lines(&machine);
    assert_eq!(kinds(&machine), ["enroll", "apply"]);
    let body = &written[0]["body"];
    assert_eq!((&body["volume"], &body["policy"]), (&json!(UUID), &json!("pcr")));
    assert!(body["by"]["uid"].is_u64(), "{body}");
    assert_eq!(body["recovery_key"], false);
    assert_eq!(body["pcrs"], record(&machine)["entries"][0]["pcrs"]);
    assert_eq!((&written[1]["body"]["of"], &written[1]["body"]["keyslot"]), (&json!(1), &json!(1)));
    assert!(record(&machine)["journal_head"].as_str().unwrap().starts_with("1:"));
    let volume = &state(&machine)["volumes"][UUID];
    let entry = &volume["entries"][0];
    assert_eq!((&entry["state"], &entry["keyslot"]), (&json!("confirmed"), &json!(1)));
    assert_eq!((&volume["generation"], &entry["pcrs"]), (&json!(1), &body["pcrs"]));
    let kept = fs::read_dir(machine.file("root/var/lib/vmseal/expected")).unwrap();
    assert_eq!(kept.count(), 1, "the events of this boot");
    whole(&machine);
    machine.unlock(&[]).ok();

    machine.boot(OTHER_KERNEL);
    enroll(&machine).ok();
    assert_eq!(state(&machine)["volumes"][UUID]["entries"].as_array().unwrap().len(), 2);
    on_image(&machine, &["revoke", "--keyslot", "1"]).ok();
    let entries = &state(&machine)["volumes"][UUID]["entries"];
    assert_eq!(entries.as_array().unwrap().len(), 1);
    assert_eq!(entries[0]["keyslot"], 2);
    assert!(record(&machine)["journal_head"].as_str().unwrap().starts_with("5:"));
    assert_eq!(kinds(&machine), ["enroll", "apply", "enroll", "apply", "revoke", "apply"]);
    let text = journal(&machine, &[]).ok().stdout;
    assert_eq!(text.lines().count(), 6, "{text}");
    assert!(text.contains(" revoke: ") && text.contains("by uid"), "{text}");
    whole(&machine);
    // Volumes that nothing is approved for make room.
    let mut full = state(&machine);
    for volume in 0..63 {
        full["volumes"][format!("{volume}")] = json!({ "generation": 1, "entries": [] });
    }
    fs::write(store(&machine, "state.json"), full.to_string()).unwrap();
    on_image(&machine, &["revoke", "--tpm"]).ok();
    let volumes = &state(&machine)["volumes"];
    assert_eq!(volumes.as_object().unwrap().len(), 1);
    assert_eq!(volumes[UUID]["entries"], json!([]));
    whole(&machine);
}

#[test]
fn what_is_adopted_is_on_record() {
    let machine = Machine::booted(VMSEAL);
    Systemd::Trixie.enroll(
        &machine.tpm,
        &machine.image,
        &["--tpm2-pcrs=4+7", "--tpm2-public-key="],
    );
    let key = machine.key_file();
    let adopt = || on_image(&machine, &["adopt", "--unlock-key-file", key.to_str().unwrap()]).ok();
    adopt();
    assert_eq!(kinds(&machine), ["adopt", "apply"]);
    let entries = state(&machine)["volumes"][UUID]["entries"].clone();
    assert_eq!(entries.as_array().unwrap().len(), 1);
    assert_eq!((&entries[0]["state"], &entries[0]["keyslot"]), (&json!("new"), &json!(1)));
    let (before, head) = (machine.image.snapshot(), record(&machine)["journal_head"].clone());
    assert!(head.as_str().unwrap().starts_with("1:"));
    adopt();
    assert!(machine.image.snapshot() == before, "nothing changed in the header");
    assert_eq!(state(&machine)["volumes"][UUID]["entries"], entries);
    whole(&machine);
}

#[test]
fn an_image_from_elsewhere_is_in_no_journal_of_ours() {
    let machine = Machine::booted(VMSEAL);
    fs::create_dir_all(store(&machine, "")).unwrap();
    // As the tests of all other commands do: only the log is another system's.
    machine.enroll(&[]).ok();
    assert_eq!(fs::read_dir(store(&machine, "")).unwrap().count(), 0);
    assert_eq!(record(&machine).get("journal_head"), None);
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let machine = Machine::booted(VMSEAL);
    fs::create_dir_all(root(&machine).join("var/lib")).unwrap();
    fs::write(root(&machine).join("var/lib/vmseal"), "a file where the folder should be").unwrap();
    machine.refuses(3, enroll).says("var/lib/vmseal");
    machine.enroll(&[]).ok();
    machine.refuses(3, |machine| on_image(machine, &["revoke", "--tpm"]));
    let key = machine.key_file();
    let adopt = ["adopt", "--quiet", "--unlock-key-file", key.to_str().unwrap()];
    machine.refuses(3, |machine| on_image(machine, &adopt));

    fs::remove_file(root(&machine).join("var/lib/vmseal")).unwrap();
    fs::create_dir(store(&machine, "")).unwrap();
    fs::write(store(&machine, "state.json"), "{}").unwrap();
    machine.refuses(3, enroll).says("state.json is malformed");
    fs::write(store(&machine, "state.json"), r#"{"version":2}"#).unwrap();
    machine.refuses(3, enroll).says("of a later vmseal");
}

/// Nor is what comes before it: the authority's key, the pin, the initramfs with the pin in it.
#[test]
fn what_could_not_be_written_down_is_not_prepared() {
    let system = System::on(Machine::booted(VMSEAL));
    system.put("var/lib/vmseal/state.json", "{}");
    let before = system.machine.image.snapshot();
    system.enroll(&[]).refused(3).says("state.json is malformed");
    assert!(!system.key().exists() && !system.machine.pins().exists());
    assert!(system.machine.image.snapshot() == before);
}

#[test]
fn what_was_announced_and_refused_is_on_record_as_both() {
    let machine = Machine::booted(VMSEAL);
    enroll(&machine).ok();
    let before = state(&machine);
    let id = machine.image.tokens("vmseal-record")[0].0;
    machine.image.edit_metadata(|json| json["tokens"][id.to_string()]["version"] = json!(2));
    machine.refuses(3, enroll).says("of a later version");
    assert_eq!(kinds(&machine), ["enroll", "apply", "enroll", "refusal"]);
    let refusal = lines(&machine)[3]["body"].clone();
    assert_eq!((&refusal["of"], &refusal["exit"]), (&json!(3), &json!(3)));
    // The approval of the boot that was sealed to before stands.
    let (before, after) = (&before["volumes"][UUID]["entries"], state(&machine));
    let after = &after["volumes"][UUID]["entries"];
    assert_eq!(after.as_array().unwrap().len(), 1);
    for name in ["keyslot", "pcrs", "state", "expected"] {
        assert_eq!(after[0][name], before[0][name], "{name}");
    }
    // What is refused without a look at the disk's future is not announced.
    machine.refuses(3, |machine| on_image(machine, &["revoke", "--keyslot", "0"]));
    assert_eq!(kinds(&machine).len(), 4);
}

#[test]
fn a_journal_that_is_not_whole_is_named_and_stops_nobody() {
    let machine = Machine::booted(VMSEAL);
    journal(&machine, &["--verify"]).ok();
    enroll(&machine).ok();
    enroll(&machine).ok();
    let folder = store(&machine, "");
    let copies: Vec<_> = ["journal.jsonl", "state.json"]
        .map(|name| (folder.join(name), fs::read(folder.join(name)).unwrap()))
        .into();
    let restore = || copies.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    let (path, bytes) = &copies[0];
    let text = String::from_utf8(bytes.clone()).unwrap();
    let named = |finding: &str| {
        let ran = journal(&machine, &["--verify"]).code(3).says("the journal is not whole");
        assert_eq!(ran.stderr.lines().count(), 2, "{ran:#?}");
        assert!(ran.stdout.contains(finding), "{finding}: {ran:#?}");
        let json = journal(&machine, &["--verify", "--json"]).code(3).json();
        assert!(json["findings"][0]["text"].as_str().unwrap().contains(finding), "{json}");
        journal(&machine, &[]).ok().says("is not whole");
        restore();
    };
    fs::write(path, text.split_inclusive('\n').next().unwrap()).unwrap();
    named("truncated");
    fs::write(path, text.replace("\"policy\":\"pcr\"", "\"policy\":\"none\"")).unwrap();
    named("line 1 was edited");
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    fs::write(path, [lines[0], lines[2], lines[1], lines[3]].concat()).unwrap();
    named("reordered");
    fs::remove_file(path).unwrap();
    named("the journal is gone");
    fs::remove_file(&copies[1].0).unwrap();
    named("does not know of the journal");

    // Journal and state of an older backup: the record in the header knows better.
    enroll(&machine).ok();
    restore();
    let ran = run(command(&machine, &["journal", "--verify"]).arg(machine.image.path())).code(3);
    assert!(ran.stdout.contains("truncated") && ran.stdout.contains("the record of"), "{ran:#?}");
    named("truncated, or replaced by an older copy");
    // The next enrolment is no worse for it, and leaves no doubt about what was before.
    fs::write(path, text.split_inclusive('\n').next().unwrap()).unwrap();
    enroll(&machine).ok().says("the journal was not whole, and now says so");
    machine.unlock(&[]).ok();
    let ran = journal(&machine, &["--verify"]).code(3);
    assert!(ran.stdout.contains("tells that the journal was not whole"), "{ran:#?}");
}

#[test]
fn hostile_lines_are_printed_as_plain_text() {
    let machine = Machine::booted(VMSEAL);
    enroll(&machine).ok();
    let path = store(&machine, "journal.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let evil =
        text.replace("\"policy\":\"pcr\"", r#""policy":"\u001b[2J\u202e\nvmseal: all is well""#);
    let long =
        text.replace("\"policy\":\"pcr\"", &format!("\"policy\":\"{}\"", "x".repeat(40_000)));
    for text in [evil, long] {
        fs::write(&path, text).unwrap();
        let ran = journal(&machine, &[]).ok();
        assert!(ran.stdout.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{ran:#?}");
        assert!(ran.stdout.lines().all(|line| line.len() < 1000), "{ran:#?}");
    }
}

#[test]
fn status_tells_how_many_boots_were_opened_by_passphrase() {
    let machine = Machine::booted(VMSEAL);
    enroll(&machine).ok();
    let boots = |json: &Ran| json.json()["passphrase_boots"].clone();
    assert_eq!(boots(&on_image(&machine, &["status", "--json"]).ok()), Value::Null);
    let write = |path: &str, text: String| {
        let path = root(&machine).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("proc/sys/kernel/random/boot_id", "this\n".into());
    let report = |by, cause: Option<&str>| {
        let (name, device) = ("root".to_owned(), "/dev/vda".to_owned());
        let (exit, cause) = (0, cause.map(ToOwned::to_owned));
        let (uuid, token, keyslot) = (None, None, None);
        let volume = VolumeReport { name, device, uuid, exit, by: Some(by), token, keyslot, cause };
        let volumes = vec![volume];
        BootReport { volumes, ..BootReport::default() }.write(&root(&machine)).unwrap();
    };
    report(OpenedBy::Tpm, None);
    assert_eq!(boots(&on_image(&machine, &["status", "--json"]).ok())["in_a_row"], 0);
    report(OpenedBy::Passphrase, Some("PCR 4 \u{1b}differs"));
    let ran = on_image(&machine, &["status"]).ok();
    let says = "in this boot a passphrase opened root: PCR 4 \\u{1b}differs";
    assert!(ran.stdout.contains(says), "{ran:#?}");
    assert_eq!(boots(&on_image(&machine, &["status", "--json"]).ok())["in_a_row"], 1);

    // Lines that the confirming command of a later version writes.
    let store = vmseal::reseal::Store::below(&root(&machine));
    for (kind, boot) in [
        (vmseal::reseal::Kind::PassphraseBoot, "long ago"),
        (vmseal::reseal::Kind::Confirm, "good"),
        (vmseal::reseal::Kind::PassphraseBoot, "last"),
        (vmseal::reseal::Kind::RecoveryKeyBoot, "last but one"),
        (vmseal::reseal::Kind::PassphraseBoot, "this"),
    ] {
        let body = json!({ "boot": boot }).as_object().unwrap().clone();
        let draft = vmseal::reseal::Draft { kind, time: "2026-11-25T13:29:13Z".into(), body };
        store.lock().unwrap().append(&draft, None).unwrap();
    }
    let ran = on_image(&machine, &["status"]).ok();
    assert!(ran.stdout.contains("3 boots in a row were opened by passphrase"), "{ran:#?}");
}

/// Everything below a folder, to be put back.
fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn put_back(folder: &Path, files: &[(PathBuf, Vec<u8>)]) {
    fs::remove_dir_all(folder).unwrap();
    fs::create_dir(folder).unwrap();
    files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
}

/// `kill -9` at each system call on state and journal, from an empty store and from one with lines:
/// the journal is whole ever after, and nothing is done that it does not tell of.
#[test]
fn killed_at_any_instant_the_journal_is_whole() {
    // strace counts each system call by itself.
    const CALLS: [&str; 7] =
        ["openat", "write", "fsync", "fdatasync", "ftruncate", "rename", "close"];
    const MOST: usize = 100;
    let machine = Machine::booted(VMSEAL);
    machine.enroll(&[]).ok();
    let (unknown, folder) = (machine.image.snapshot(), store(&machine, ""));
    enroll(&machine).ok();
    let known = (machine.image.snapshot(), snapshot(&folder));
    for (disk, files) in [known, (unknown, vec![])] {
        let mut points = 0;
        let mut ended = None;
        for (call, nth) in CALLS.iter().flat_map(|call| (1..MOST).map(move |nth| (call, nth))) {
            if ended == Some(call) {
                continue;
            }
            machine.image.restore(&disk);
            put_back(&folder, &files);
            let mut strace = Command::new("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null"]);
            for name in ["", "state.json", ".state.json.new", "journal.jsonl", ".lock"] {
                strace.arg("-P").arg(folder.join(name));
            }
            strace.arg(format!("--trace={call}"));
            strace.arg(format!("--inject={call}:signal=KILL:when={nth}"));
            let revoke = command(&machine, &["revoke", "--tpm"]);
            strace.arg(revoke.get_program()).args(revoke.get_args()).arg(machine.image.path());
            let ran = run(&mut strace);
            let is_killed = ran.code.is_none();
            points += usize::from(is_killed);
            ended = (!is_killed).then_some(call);
            let point = format!("killed at {call} {nth}");
            let verified = journal(&machine, &["--verify", "--quiet"]);
            assert_eq!(verified.code, Some(0), "{point}: {verified:#?}");
            let is_revoked = machine.image.tokens("systemd-tpm2").is_empty();
            let is_told = kinds(&machine).contains(&"revoke".to_owned());
            assert!(is_told || !is_revoked, "{point}: it is done and not on record");
            assert!(machine.image.opens_with(PASSPHRASE), "{point}");
            let ran = on_image(&machine, &["revoke", "--tpm"]);
            assert!(matches!(ran.code, Some(0 | 3)), "{point}: {ran:#?}");
            let verified = journal(&machine, &["--verify"]);
            assert_eq!(verified.code, Some(0), "{point}, and on: {verified:#?}");
        }
        println!("killed at {points} points, from {} files", files.len());
        assert!(points > 20, "{points} points");
    }
}
