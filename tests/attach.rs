//! `vmseal enroll --attach-to-root`: a data volume that opens by a key file in the encrypted root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::image::{PASSPHRASE, UUID};
use testkit::run::is_killed;
use testkit::{Image, Ran, run, tool};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
const CRYPTTAB: &str = "# a comment\nroot UUID=0 none luks,discard";

/// A running system with an encrypted root, and a data volume.
struct System {
    folder: TempDir,
    image: Image,
}

impl System {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("passphrase"), PASSPHRASE).unwrap();
        let image = Image::create(folder.path());
        let system = Self { folder, image };
        system.put("proc/self/mountinfo", "21 1 254:0 / / rw - ext4 /dev/mapper/root rw\n");
        system.put("sys/dev/block/254:0/dm/uuid", "CRYPT-LUKS2-abc-root\n");
        system.put("etc/crypttab", CRYPTTAB);
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(system.path("etc/crypttab"), mode).unwrap();
        system
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn key(&self) -> PathBuf {
        self.path(&format!("etc/vmseal/keys/{UUID}.key"))
    }

    fn crypttab(&self) -> String {
        fs::read_to_string(self.path("etc/crypttab")).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(VMSEAL);
        command.args(arguments).arg("--root").arg(self.folder.path().join("root"));
        command.arg("--pins").arg(self.path("etc/vmseal/pins.json"));
        command.arg("--expected-folder").arg(self.path("boot/vmseal"));
        // There is no TPM, and none is asked for.
        command.env("TPM2TOOLS_TCTI", "device:/nonexistent");
        command
    }

    fn attach_command(&self, options: &[&str]) -> Command {
        let mut command = self.command(&["enroll", "--attach-to-root"]);
        command.args(options).arg(self.image.path());
        command.arg("--unlock-key-file").arg(self.folder.path().join("passphrase"));
        command
    }

    fn attach(&self, options: &[&str]) -> Ran {
        run(&mut self.attach_command(options))
    }

    fn opens_by_key(&self) -> bool {
        let key = self.key();
        let options = ["--test-passphrase", "--key-file", key.to_str().unwrap()];
        self.image.cryptsetup("open", &options, b"").code == Some(0)
    }

    fn uses(&self) -> Vec<Value> {
        let status = run(self.command(&["status", "--json"]).arg(self.image.path())).ok().json();
        let slots = status["volumes"][0]["keyslots"].as_array().unwrap().clone();
        slots.into_iter().map(|slot| slot["use"].clone()).collect()
    }

    /// Refused, with disk, crypttab, pins and key as they were.
    fn refuses(&self, ran: impl FnOnce(&Self) -> Ran) -> Ran {
        let state = || {
            let files = [self.key(), self.path("etc/crypttab"), self.path("etc/vmseal/pins.json")];
            (self.image.snapshot(), files.map(|file| fs::read(file).ok()))
        };
        let before = state();
        let ran = ran(self).refused(3);
        assert!(state() == before, "something changed: {ran:#?}");
        ran
    }
}

#[test]
fn a_data_volume_opens_by_a_key_file_that_only_root_reads() {
    let system = System::new();
    system.attach(&["--dry-run"]).ok();
    assert!(!system.key().exists());
    let said = system.attach(&["--json"]).ok().json();
    let name = format!("luks-{UUID}");
    assert_eq!((&said["keyslot"], &said["added"]), (&1.into(), &true.into()));
    assert_eq!((&said["name"], &said["crypttab_written"]), (&name.clone().into(), &true.into()));
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(system.key()), fs::metadata(system.key()).unwrap().len()), (0o400, 64));
    assert_eq!(mode(system.path("etc/vmseal/keys")), 0o700);
    assert_eq!(mode(system.path("etc/crypttab")), 0o600);
    let line = format!("{name} UUID={UUID} /etc/vmseal/keys/{UUID}.key luks");
    assert_eq!(system.crypttab(), format!("{CRYPTTAB}\n{line}\n"));
    assert!(system.opens_by_key() && system.image.opens_with(PASSPHRASE));
    assert_eq!(system.uses(), ["passphrase", "key file"]);
    let pins = fs::read_to_string(system.path("etc/vmseal/pins.json")).unwrap();
    assert!(pins.contains(UUID), "{pins}");
    let kdf = &system.image.metadata()["keyslots"]["1"]["kdf"];
    assert_eq!((&kdf["type"], &kdf["iterations"]), (&"pbkdf2".into(), &1000.into()));

    let journal = run(&mut system.command(&["journal", "--json"])).ok().json();
    let body = |line: usize| journal["lines"][line]["body"].clone();
    assert_eq!((&body(0)["policy"], &body(0)["name"]), (&"key-file".into(), &name.into()));
    assert_eq!((&body(1)["of"], &body(1)["keyslot"]), (&1.into(), &1.into()));

    // Once more: nothing changes.
    let (disk, key) = (system.image.snapshot(), fs::read(system.key()).unwrap());
    let said = system.attach(&["--json"]).ok().json();
    assert_eq!((&said["added"], &said["crypttab_written"]), (&false.into(), &false.into()));
    assert!(system.image.snapshot() == disk && fs::read(system.key()).unwrap() == key);
    assert_eq!(system.crypttab(), format!("{CRYPTTAB}\n{line}\n"));
    // A keyslot that is gone is made again, for the same key.
    let gone = ["luksKillSlot", "--batch-mode"];
    tool("cryptsetup", &[gone[0], gone[1], system.image.path().to_str().unwrap(), "1"]);
    assert!(!system.opens_by_key());
    system.attach(&[]).ok();
    assert!(system.opens_by_key());
}

#[test]
fn a_root_that_is_not_encrypted_gets_no_key_unless_that_is_accepted() {
    let system = System::new();
    fs::remove_file(system.path("sys/dev/block/254:0/dm/uuid")).unwrap();
    system.refuses(|system| system.attach(&[])).says("encrypted devices only");
    system.attach(&["--allow-unencrypted-root"]).ok().says("WARNING");
    assert!(system.opens_by_key());
}

#[test]
fn a_line_that_is_there_stays_and_a_name_is_not_given_twice() {
    let system = System::new();
    system.refuses(|system| system.attach(&["--name", "root"])).says("root is another volume");
    system.refuses(|system| system.attach(&["--name", "a b"])).says("can have this name");
    let line = format!("data UUID={UUID} none luks\n");
    system.put("etc/crypttab", &line);
    let ran = system.attach(&[]).ok().says("must have /etc/vmseal/keys/");
    assert!(ran.stderr.contains("the line of data"), "{ran:#?}");
    assert_eq!(system.crypttab(), line);
    let other = System::new();
    other.attach(&["--name", "data"]).ok();
    assert!(other.crypttab().contains(&format!("\ndata UUID={UUID} /etc/vmseal/keys/")));
}

#[test]
fn what_cannot_be_finished_is_taken_back() {
    let system = System::new();
    system.put("etc/vmseal/keys/readme", "");
    let fifo = system.folder.path().join("fifo");
    tool("mkfifo", &[fifo.to_str().unwrap()]);
    let mut command = system.command(&["enroll", "--attach-to-root"]);
    command.arg(system.image.path()).arg("--unlock-key-file").arg(&fifo);
    let (crypttab, changed) = (system.path("etc/crypttab"), "somebody else's");
    let typist = std::thread::spawn(move || {
        let mut line = fs::File::options().write(true).open(fifo).unwrap();
        fs::write(crypttab, changed).unwrap();
        std::io::Write::write_all(&mut line, PASSPHRASE.as_bytes()).unwrap();
    });
    run(&mut command).refused(3).says("changed at the same time");
    typist.join().unwrap();
    assert_eq!(system.crypttab(), changed);
    assert_eq!((system.image.keyslots(), system.key().exists()), (vec![0], false));
    assert_eq!(system.image.tokens("vmseal-key-file"), []);
    fs::write(system.folder.path().join("passphrase"), "wrong").unwrap();
    system.attach(&[]).refused(16);
    assert!(!system.key().exists());
}

#[test]
fn revoking_its_keyslot_removes_the_key_file_and_no_other_volume_s() {
    let system = System::new();
    system.attach(&[]).ok();
    // Another disk with this UUID, whose keyslot 1 is marked as a key file's.
    let other = Image::format(system.folder.path(), &[]);
    let pbkdf = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha512"];
    let new = system.folder.path().join("new");
    fs::write(&new, "new").unwrap();
    let mut add = Command::new("cryptsetup");
    add.args(["luksAddKey", "--batch-mode", "--key-file"]);
    add.arg(system.folder.path().join("passphrase")).args(pbkdf).arg(other.path()).arg(new);
    run(&mut add).ok();
    other.import_token(0, &json!({ "type": "vmseal-key-file", "keyslots": ["1"] })).ok();
    run(system.command(&["revoke", "--keyslot", "1"]).arg(other.path())).ok();
    assert!(system.key().exists() && system.opens_by_key());

    run(system.command(&["revoke", "--keyslot", "1"]).arg(system.image.path())).ok();
    assert!(!system.key().exists());
    assert_eq!(system.image.keyslots(), [0]);
    assert_eq!(system.image.tokens("vmseal-key-file"), []);
}

#[test]
fn a_token_does_not_make_a_passphrase_a_key_file_nor_a_key_file_a_way_in() {
    let system = System::new();
    system.attach(&[]).ok();
    system.image.edit_metadata(|metadata| {
        metadata["tokens"]["0"]["keyslots"] = json!(["0", "1"]);
    });
    assert_eq!(system.uses(), ["passphrase", "key file"]);
    let revoke = |system: &System| {
        run(system.command(&["revoke", "--keyslot", "0"]).arg(system.image.path()))
    };
    system.refuses(revoke);
    // A UUID leads nowhere else.
    system.image.edit_metadata(|metadata| metadata["tokens"] = json!({}));
    testkit::header_edit::rewrite(system.image.path(), |copy| {
        copy[168..208].copy_from_slice(&[0; 40]);
        copy[168..181].copy_from_slice(b"../../../tmp/");
    });
    system.refuses(|system| system.attach(&[]));
}

/// System calls by which a file or the disk changes. strace counts the calls of each name by itself.
const CALLS: [&str; 10] = [
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "fchmod",
    "chmod",
    "mkdir",
    "rename",
    "renameat",
    "unlink",
];

#[test]
fn killed_at_any_instant_the_next_run_completes_it() {
    let mut points = BTreeMap::new();
    for (call, nth) in CALLS.iter().flat_map(|call| (1..400).map(move |nth| (*call, nth))) {
        if points.get(call).is_some_and(|(_, ended)| *ended) {
            continue;
        }
        let system = System::new();
        let killed = is_killed(&system.attach_command(&[]), call, nth);
        points.insert(call, (nth - usize::from(!killed), !killed));
        if !killed {
            continue;
        }
        let point = format!("{call} {nth}");
        assert!(system.image.opens_with(PASSPHRASE), "{point}");
        assert!(system.crypttab().starts_with(CRYPTTAB), "{point}");
        system.uses();
        system.attach(&[]).ok();
        assert!(system.opens_by_key(), "{point}");
        assert_eq!(system.uses(), ["passphrase", "key file"], "{point}");
        assert_eq!(system.crypttab().matches("UUID=6a").count(), 1, "{point}: one line");
        let left = fs::read_dir(system.path("etc/vmseal/keys")).unwrap().count();
        assert_eq!(left, 1, "{point}: no half-written key");
        let verified = run(&mut system.command(&["journal", "--verify"]));
        assert_eq!(verified.code, Some(0), "{point}: {verified:#?}");
    }
    for call in ["write", "fsync", "mkdir", "rename"] {
        assert!(points[call].0 > 0, "{points:?}");
    }
}
