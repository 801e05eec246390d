//! `vmseal authority`, and volumes that open for what this machine's own key has signed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use testkit::image::{PASSPHRASE, UUID};
use testkit::machine::{BASE, OTHER_KERNEL};
use testkit::{Image, Machine, Ran, Swtpm, Systemd, run, tool};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
const MACHINE_ID: &str = "0123456789abcdef0123456789abcdef";
const KEY: &str = "root/etc/vmseal/authority.pem";
const OLD: &str = "root/etc/vmseal/authority.pem.old";
const SIGNATURES: &str = "root/var/lib/vmseal/tpm2-pcr-signature.json";
const BY_OWN_KEY: [&str; 2] = ["--policy", "authority"];

/// A machine with a system below its folder `root`, which lies on a LUKS2 volume.
fn booted() -> Machine {
    with_root(Machine::booted(VMSEAL))
}

fn with_root(machine: Machine) -> Machine {
    put(&machine, "root/etc/machine-id", &format!("{MACHINE_ID}\n"));
    put(&machine, "root/proc/self/mountinfo", "21 1 254:7 / / rw - ext4 /dev/mapper/root rw\n");
    put(&machine, "root/sys/dev/block/254:7/dm/uuid", "CRYPT-LUKS2-6a1c-root\n");
    // What looks for volumes finds the image.
    put(&machine, "root/sys/class/block/vda/size", "1\n");
    fs::create_dir_all(machine.file("root/dev")).unwrap();
    symlink(machine.image.path(), machine.file("root/dev/vda")).unwrap();
    machine
}

fn put(machine: &Machine, path: &str, text: &str) {
    let path = machine.file(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn command(machine: &Machine, arguments: &[&str]) -> Command {
    let mut command = machine.vmseal(arguments);
    command.arg("--root").arg(machine.file("root"));
    command
}

fn authority(machine: &Machine, arguments: &[&str]) -> Ran {
    run(command(machine, &["authority"]).args(arguments))
}

fn enroll(machine: &Machine, options: &[&str]) -> Ran {
    let mut command = command(machine, &["enroll"]);
    command.arg("--unlock-key-file").arg(machine.key_file()).args(options);
    run(command.arg(machine.image.path()))
}

fn show(machine: &Machine) -> Value {
    authority(machine, &["show", "--json"]).ok().json()
}

/// The names below the folder of the key.
fn names(machine: &Machine) -> Vec<String> {
    let entries = fs::read_dir(machine.file("root/etc/vmseal")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_key_is_made_shown_and_exported() {
    let machine = booted();
    let made = authority(&machine, &["init", "--json"]).ok().json();
    assert_eq!(made["path"], machine.file(KEY).to_str().unwrap());
    let mode = fs::metadata(machine.file(KEY)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600);
    assert_eq!(names(&machine), ["authority.pem"]);

    let shown = show(&machine);
    assert_eq!((&shown["pkfp"], &shown["own"]), (&made["pkfp"], &true.into()));
    assert_eq!((&shown["machine_id"], &shown["encrypted"]), (&MACHINE_ID.into(), &true.into()));
    assert_eq!(shown["old"], Value::Null);
    assert!(shown["srk_name"].as_str().unwrap().starts_with("000b"), "{shown}");

    // Other programs read both halves.
    let exported = authority(&machine, &["export"]).ok().stdout;
    let key = machine.file(KEY);
    let public = tool("openssl", &["pkey", "-pubout", "-in", key.to_str().unwrap()]);
    assert_eq!(exported, public);
    let public = machine.file("authority.pub");
    fs::write(&public, exported).unwrap();
    machine
        .enroll(&["--policy", "authority", "--authority-public", public.to_str().unwrap()])
        .ok()
        .says("not proven");

    let before = fs::read(&key).unwrap();
    authority(&machine, &["init"]).refused(3).says("there is an authority key already");
    assert_eq!(fs::read(&key).unwrap(), before);
}

#[test]
fn a_volume_opens_for_what_the_own_key_signed_and_stock_systemd_opens_it_too() {
    let mut machine = booted();
    let ran = enroll(&machine, &[&BY_OWN_KEY[..], &["--json"]].concat()).ok();
    let enrolled = ran.says("made the authority key").json();
    assert_eq!(enrolled["proven"], true);
    assert_eq!(enrolled["authority"]["made"], true);
    let token = &machine.image.tokens("systemd-tpm2")[0].1;
    assert_eq!(token["tpm2-pcrs"], json!([15]));
    assert_eq!(token["tpm2_pubkey_pcrs"], json!([0, 4, 7, 11, 12, 13]));

    // The header carries the signature, and the file is the same.
    let record = &machine.image.tokens("vmseal-record")[0].1;
    let file: Value = serde_json::from_slice(&fs::read(machine.file(SIGNATURES)).unwrap()).unwrap();
    assert_eq!(record["signatures"], file);
    assert_eq!(file["sha256"][0]["pkfp"], show(&machine)["pkfp"]);
    let signatures = machine.file(SIGNATURES);
    let opens = |machine: &Machine, systemd: Systemd| {
        systemd.attaches(&machine.tpm, &machine.image, &signatures)
    };
    machine.boot(BASE);
    machine.unlock(&[]).ok();
    for systemd in [Systemd::Backports, Systemd::Trixie, Systemd::Forky] {
        assert!(opens(&machine, systemd), "{systemd:?}");
    }
    machine.boot(OTHER_KERNEL);
    machine.unlock(&[]).refused(19).says("pcr 4");
    assert!(!opens(&machine, Systemd::Trixie));
    machine.boot(BASE);
    machine.tpm.extend(15, 1);
    machine.unlock(&[]).refused(12).says("PCR 15");
    assert!(!opens(&machine, Systemd::Trixie));
}

#[test]
fn a_second_boot_is_approved_beside_the_first() {
    let mut machine = booted();
    enroll(&machine, &BY_OWN_KEY).ok();
    machine.boot(OTHER_KERNEL);
    let again = enroll(&machine, &[&BY_OWN_KEY[..], &["--json"]].concat()).ok().json();
    assert_eq!((&again["authority"]["made"], &again["superseded"]), (&false.into(), &json!([1])));
    assert_eq!(machine.image.keyslots().len(), 2);
    machine.unlock(&[]).ok();
    machine.boot(BASE);
    machine.unlock(&[]).ok();
    // With the keyslot, what opens nothing more is gone.
    run(command(&machine, &["revoke", "--keyslot", "2"]).arg(machine.image.path())).ok();
    let record = &machine.image.tokens("vmseal-record")[0].1;
    assert_eq!(record.get("signatures"), None);
}

#[test]
fn a_latched_boot_is_signed_for_and_opens_the_next_time() {
    let mut machine = booted();
    machine.tpm.extend(15, 7);
    let enrolled = enroll(&machine, &BY_OWN_KEY).ok().says("this boot is latched");
    assert!(!enrolled.stderr.contains("not proven to open"), "{enrolled:#?}");
    machine.boot(BASE);
    machine.unlock(&[]).ok();
}

#[test]
fn more_boots_than_the_record_holds_are_refused_before_anything_is_written() {
    let machine = booted();
    enroll(&machine, &BY_OWN_KEY).ok();
    let next = |machine: &Machine| {
        machine.tpm.extend(8, 1);
        let log = machine.file("no-log");
        let mut command = machine.vmseal_with(&machine.tpm.tcti(), &log, &["enroll"]);
        command.args(BY_OWN_KEY).args(["--pcrs", "0+4+7+8+9+11", "--unlock-key-file"]);
        command.arg(machine.key_file()).arg("--root").arg(machine.file("root"));
        command.args(["--allow-uncovered", "firmware,loader,kernel,initrd,cmdline"]);
        run(command.arg(machine.image.path()))
    };
    let mut boots = 1;
    let refused = loop {
        let (before, file) = (machine.state(), fs::read(machine.file(SIGNATURES)).unwrap());
        let ran = next(&machine);
        if ran.code != Some(0) {
            assert_eq!(machine.state(), before);
            assert_eq!(fs::read(machine.file(SIGNATURES)).unwrap(), file);
            break ran;
        }
        boots += 1;
    };
    refused.code(3).says("eight boots are approved already");
    assert_eq!(boots, 8);
    let record = machine.image.tokens("vmseal-record").remove(0).1;
    assert!(record.to_string().len() <= 8192);
}

#[test]
fn a_forged_signature_in_the_header_does_not_get_into_the_file() {
    let machine = booted();
    enroll(&machine, &BY_OWN_KEY).ok();
    let (id, record) = machine.image.tokens("vmseal-record").remove(0);
    machine.image.edit_token(id, |record| {
        record["signatures"]["sha256"][0]["pol"] = "ab".repeat(32).into();
    });
    enroll(&machine, &BY_OWN_KEY).ok();
    assert_eq!(machine.image.tokens("vmseal-record")[0].1["signatures"], record["signatures"]);
    let text = fs::read_to_string(machine.file(SIGNATURES)).unwrap();
    assert!(!text.contains(&"ab".repeat(32)), "{text}");
}

#[test]
fn a_dry_run_makes_no_key_and_a_wrong_passphrase_neither() {
    let machine = booted();
    let options = [&BY_OWN_KEY[..], &["--dry-run"]].concat();
    let ran = enroll(&machine, &options).ok();
    assert!(ran.stdout.contains("would be made first"), "{ran:#?}");
    let plan = enroll(&machine, &[&options[..], &["--json"]].concat());
    // A TPM without a storage root key does not get one by a dry run.
    let shown = plan.ok().json();
    assert_eq!(shown["authority"]["made"], true);
    assert_eq!(shown["plan"]["policy_hash"], Value::Null);
    assert_eq!(shown["plan"]["to_be_signed"]["pkfp"], Value::Null);
    fs::write(machine.key_file(), "wrong").unwrap();
    machine.refuses(16, |machine| enroll(machine, &BY_OWN_KEY));
    assert_eq!(names(&machine), Vec::<String>::new());
    authority(&machine, &["show"]).refused(3).says("vmseal authority init");
    authority(&machine, &["export"]).refused(3);
    authority(&machine, &["rotate"]).refused(3);
}

#[test]
fn a_clone_notices_whose_key_it_has() {
    let machine = booted();
    enroll(&machine, &BY_OWN_KEY).ok();
    let key = fs::read(machine.file(KEY)).unwrap();
    let is_refused = |machine: &Machine, by: &str| {
        for ran in [enroll(machine, &BY_OWN_KEY), authority(machine, &["export"])] {
            ran.refused(3).says("this machine is a clone").says(by).says("authority rotate");
        }
        assert_eq!(fs::read(machine.file(KEY)).unwrap(), key);
        let shown = authority(machine, &["show", "--json"]).ok().says("is a clone");
        assert_eq!(shown.json()["own"], false);
    };
    // Cloned with its TPM: the clone's first boot gave it an ID of its own.
    put(&machine, "root/etc/machine-id", "ffffffffffffffffffffffffffffffff\n");
    is_refused(&machine, "machine id");
    put(&machine, "root/etc/machine-id", &format!("{MACHINE_ID}\n"));
    // Cloned with its ID: the clone has a TPM of its own.
    machine.tpm.replace_owner();
    is_refused(&machine, "storage root key");

    let ran = authority(&machine, &["rotate"]).ok();
    assert!(ran.stdout.contains("gone from this one"), "{ran:#?}");
    assert_eq!(names(&machine), ["authority.pem"], "nothing of the other machine stays");
    assert_eq!(show(&machine)["own"], true);
    enroll(&machine, &BY_OWN_KEY).ok();
    for id in ["", "uninitialized\n", "00000000000000000000000000000000\n"] {
        put(&machine, "root/etc/machine-id", id);
        enroll(&machine, &BY_OWN_KEY).refused(3).says("tells no machine id");
    }
}

#[test]
fn no_key_is_made_where_it_is_not_protected_unless_told_so_loudly() {
    let machine = booted();
    let refused = |ran: Ran, why: &str| ran.refused(3).says(why).says("--allow-unprotected");
    let each = |why: &str| {
        refused(authority(&machine, &["init"]), why);
        refused(enroll(&machine, &BY_OWN_KEY), why);
        machine.refuses(3, |machine| enroll(machine, &BY_OWN_KEY));
    };
    put(&machine, "root/etc/vmseal/template", "");
    each("marked as a template");
    fs::remove_file(machine.file("root/etc/vmseal/template")).unwrap();
    put(&machine, "root/sys/dev/block/254:7/dm/uuid", "CRYPT-VERITY-6a1c-root\n");
    each("not be on an encrypted file system");
    assert_eq!(names(&machine), Vec::<String>::new());

    authority(&machine, &["init", "--allow-unprotected"]).ok().says("WARNING");
    authority(&machine, &["show"]).ok().says("WARNING");
    enroll(&machine, &BY_OWN_KEY).ok();
    refused(authority(&machine, &["rotate"]), "not be on an encrypted file system");
    authority(&machine, &["rotate", "--allow-unprotected"]).ok().says("WARNING");
}

#[test]
fn a_key_elsewhere_is_taken_by_name() {
    let machine = booted();
    let key = machine.file("root/srv/own.pem");
    let key = key.to_str().unwrap();
    authority(&machine, &["init", "--key", key]).ok();
    enroll(&machine, &[&BY_OWN_KEY[..], &["--authority-key", key]].concat()).ok();
    let shown = authority(&machine, &["show", "--key", key, "--json"]).ok().json();
    let token = &machine.image.tokens("vmseal-record")[0].1;
    assert_eq!(token["signatures"]["sha256"][0]["pkfp"], shown["pkfp"]);
    assert_eq!(names(&machine), Vec::<String>::new());
}

#[test]
fn what_is_no_key_of_ours_is_refused() {
    let machine = booted();
    authority(&machine, &["init"]).ok();
    let key = machine.file(KEY);
    let good = fs::read_to_string(&key).unwrap();
    let refused = |why: &str| {
        enroll(&machine, &BY_OWN_KEY).refused(3).says(why);
    };
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    refused("its mode is 640");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let bare = &good[good.find("-----").unwrap()..];
    for text in ["", "\x1b[2J", bare, &good.replace('A', "!"), &good.repeat(5)] {
        fs::write(&key, text).unwrap();
        refused("is not an authority key of vmseal");
    }
    fs::rename(&key, machine.file("elsewhere")).unwrap();
    symlink(machine.file("elsewhere"), &key).unwrap();
    refused("authority.pem");
    fs::remove_file(&key).unwrap();
    tool("mkfifo", &["-m", "600", key.to_str().unwrap()]);
    refused("not a file");
}

#[test]
fn a_rotation_keeps_the_old_key_until_every_volume_is_enrolled_again() {
    let mut machine = booted();
    enroll(&machine, &BY_OWN_KEY).ok();
    let first = fs::read(machine.file(KEY)).unwrap();
    let old_signatures = fs::read(machine.file(SIGNATURES)).unwrap();
    let rotated =
        authority(&machine, &["rotate", "--json"]).ok().says("until the volume is reencrypted");
    let rotated = rotated.json();
    assert_ne!(fs::read(machine.file(KEY)).unwrap(), first);
    assert_eq!(fs::read(machine.file(OLD)).unwrap(), first);
    assert_eq!(rotated["old"]["volumes"][0]["uuid"], UUID);
    assert_eq!(rotated["old"]["volumes"][0]["keyslots"], json!([1]));
    assert_eq!(show(&machine)["old"]["volumes"], rotated["old"]["volumes"]);
    authority(&machine, &["rotate"]).refused(3).says("the last rotation is not finished");
    machine.unlock(&[]).ok();

    // Where nothing is proven, the old keyslot stays, and the old key with it.
    machine.tpm.extend(15, 1);
    let ran = enroll(&machine, &BY_OWN_KEY).ok();
    assert!(ran.stdout.contains("opens for the old key by keyslot 1"), "{ran:#?}");
    assert_eq!(fs::read(machine.file(OLD)).unwrap(), first);
    machine.boot(BASE);
    machine.unlock(&[]).ok();
    let ran = run(command(&machine, &["revoke", "--keyslot", "1"]).arg(machine.image.path())).ok();
    assert!(ran.stdout.contains("no volume needs it"), "{ran:#?}");
    assert!(!machine.file(OLD).exists());
    machine.unlock(&[]).ok();

    // What the old key signed opens nothing more.
    let record = machine.image.tokens("vmseal-record").remove(0);
    machine.image.edit_token(record.0, |record| {
        record["signatures"] = serde_json::from_slice(&old_signatures).unwrap();
    });
    machine.unlock(&[]).refused(19);
    authority(&machine, &["rotate"]).ok();
}

#[test]
fn a_proven_enrolment_ends_the_rotation_once_no_pinned_volume_is_missing() {
    let machine = booted();
    enroll(&machine, &BY_OWN_KEY).ok();
    authority(&machine, &["rotate"]).ok();
    let pins = fs::read_to_string(machine.pins()).unwrap();
    let other = "7b2d2c6f-3c80-4d4f-8e32-107d5a2b8ca1";
    let mut both: Value = serde_json::from_str(&pins).unwrap();
    both[other] = both[UUID].clone();
    fs::write(machine.pins(), both.to_string()).unwrap();
    let ran = enroll(&machine, &[&BY_OWN_KEY[..], &["--json"]].concat()).ok().json();
    assert_eq!(ran["superseded"], json!([1]));
    assert!(machine.file(OLD).exists(), "one volume is not there to be looked at");
    fs::write(machine.pins(), pins).unwrap();
    enroll(&machine, &BY_OWN_KEY).ok();
    assert!(!machine.file(OLD).exists());
    assert!(machine.image.opens_with(PASSPHRASE));
}

/// System calls by which files change. strace counts each of them by itself.
const CALLS: [&str; 9] =
    ["write", "fsync", "fchmod", "chmod", "mkdir", "rename", "renameat2", "link", "linkat"];

/// Kills `command` as it enters the `nth` call. Whether it was killed.
fn is_killed(command: &Command, call: &str, nth: usize) -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", &format!("--trace={call}")]);
    strace.arg(format!("--inject={call}:signal=KILL:when={nth}"));
    let ran = run(strace.arg(command.get_program()).args(command.get_args()));
    assert!(matches!(ran.code, None | Some(0)), "{ran:#?}");
    ran.code.is_none()
}

/// Kills at every point in turn, each time after `prepare`. Returns the calls that it was killed at.
fn kill_everywhere(
    command: &Command,
    calls: &[&'static str],
    prepare: impl Fn(),
    check: impl Fn(&str),
) -> BTreeMap<&'static str, usize> {
    let mut points = BTreeMap::new();
    for call in calls.iter().copied() {
        for nth in 1.. {
            prepare();
            if !is_killed(command, call, nth) {
                break;
            }
            points.insert(call, nth);
            check(&format!("{call} {nth}"));
        }
    }
    points
}

#[test]
fn init_and_rotate_may_be_killed_at_any_instant() {
    let machine = booted();
    let folder = machine.file("root/etc/vmseal");
    let init = command(&machine, &["authority", "init"]);
    let start = || {
        let _ = fs::remove_dir_all(&folder);
    };
    let points = kill_everywhere(&init, &CALLS, start, |nth| {
        machine.tpm.flush();
        let is_there = machine.file(KEY).exists();
        let again = authority(&machine, &["init"]);
        assert_eq!(again.code, Some(if is_there { 3 } else { 0 }), "{nth}: {again:#?}");
        assert_eq!(show(&machine)["own"], true, "{nth}");
        assert_eq!(names(&machine), ["authority.pem"], "{nth}");
    });
    for call in ["write", "fsync", "fchmod", "mkdir", "renameat2"] {
        assert!(points.contains_key(call), "{points:?}");
    }

    let first = fs::read(machine.file(KEY)).unwrap();
    let rotate = command(&machine, &["authority", "rotate"]);
    let start = || {
        fs::write(machine.file(KEY), &first).unwrap();
        let _ = fs::remove_file(machine.file(OLD));
        let _ = fs::remove_file(machine.file(&format!("{KEY}.new")));
    };
    let points = kill_everywhere(&rotate, &CALLS, start, |nth| {
        machine.tpm.flush();
        let now = fs::read(machine.file(KEY)).unwrap();
        assert_eq!(show(&machine)["own"], true, "{nth}");
        if now != first {
            assert_eq!(fs::read(machine.file(OLD)).unwrap(), first, "{nth}");
        }
        let again = authority(&machine, &["rotate"]);
        assert_eq!(again.code, Some(if now == first { 0 } else { 3 }), "{nth}: {again:#?}");
        assert_ne!(fs::read(machine.file(KEY)).unwrap(), first, "{nth}");
        assert_eq!(fs::read(machine.file(OLD)).unwrap(), first, "{nth}");
        let names = names(&machine);
        assert_eq!(names, ["authority.pem", "authority.pem.old"], "{nth}");
    });
    for call in ["write", "fsync", "fchmod", "rename", "chmod"] {
        assert!(points.contains_key(call), "{points:?}");
    }
    assert!(points.contains_key("link") || points.contains_key("linkat"), "{points:?}");
}

#[test]
fn enroll_with_a_new_key_may_be_killed_as_it_writes_names() {
    let machine = booted();
    let snapshot = machine.image.snapshot();
    let mut enroll_it = command(&machine, &["enroll"]);
    enroll_it.args(BY_OWN_KEY).arg("--unlock-key-file").arg(machine.key_file());
    enroll_it.arg(machine.image.path());
    let start = || {
        machine.image.restore(&snapshot);
        let _ = fs::remove_dir_all(machine.file("root/etc/vmseal"));
        let _ = fs::remove_dir_all(machine.file("root/var"));
        let _ = fs::remove_file(machine.pins());
    };
    let calls = ["fsync", "rename", "renameat2"];
    let points = kill_everywhere(&enroll_it, &calls, start, |point| {
        machine.tpm.flush();
        assert!(machine.image.opens_with(PASSPHRASE), "{point}");
        assert!(matches!(machine.unlock(&["-q"]).code, Some(0 | 10 | 19)), "{point}");
        let again = enroll(&machine, &BY_OWN_KEY);
        assert_eq!(again.code, Some(0), "{point}: {again:#?}");
        assert_eq!(machine.unlock(&[]).code, Some(0), "{point}");
        assert_eq!(machine.image.keyslots().len(), 2, "{point}");
        assert!(machine.file(SIGNATURES).exists(), "{point}");
        assert_eq!(names(&machine), ["authority.pem"], "{point}");
    });
    assert_eq!(points.len(), calls.len(), "{points:?}");
}

#[test]
fn two_at_once_make_one_key() {
    let machine = booted();
    authority(&machine, &["init", "--key", machine.file("root/first.pem").to_str().unwrap()]).ok();
    let start = || {
        let mut command = command(&machine, &["authority", "init", "--timeout", "60"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().unwrap()
    };
    // Each waits for the TPM, which serves one at a time.
    let ended: Vec<_> = [start(), start()].map(|mut child| child.wait().unwrap().code()).into();
    assert!(ended.contains(&Some(0)), "{ended:?}");
    assert_eq!(show(&machine)["own"], true);
    assert_eq!(names(&machine), ["authority.pem"]);
}

/// What would take the key: its name, or the whole of its folder.
fn takes_the_key(script: &str) -> bool {
    let code = script.lines().filter(|line| !line.trim_start().starts_with('#'));
    code.into_iter().any(|line| {
        let whole = |rest: &str| {
            let next = rest.trim_start_matches('/').chars().next();
            matches!(next, None | Some('*' | '?' | '"' | '\'' | ' ' | ';' | '$'))
        };
        line.contains("authority")
            || line.match_indices("/etc/vmseal").any(|(at, word)| {
                let is_folder =
                    line.contains("cp ") || line.contains("inst") || line.contains("copy");
                is_folder && whole(&line[at + word.len()..]) && !line.contains("mkdir")
            })
    })
}

#[test]
fn no_pattern_for_an_initramfs_takes_the_key() {
    for script in
        ["cp -r /etc/vmseal \"$DESTDIR/etc\"", "inst_multiple /etc/vmseal/*.json /etc/vmseal/*"]
    {
        assert!(takes_the_key(script), "{script}");
    }
    assert!(!takes_the_key("copy_file pins /etc/vmseal/pins.json"));
    let project = testkit::machine::project();
    let scripts = ["initramfs-hooks", "dracut", "packaging"].map(|folder| project.join(folder));
    for path in scripts.iter().flat_map(files) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        assert!(!takes_the_key(&text), "{}", path.display());
    }
    // cryptsetup-initramfs takes key files by a pattern that the administrator sets, and dracut those
    // of crypttab. This is the name that neither has reason to match.
    assert_eq!(KEY.rsplit('/').next(), Some("authority.pem"));
}

fn files(folder: &PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_pin_goes_with_it() {
    let mut machine = with_root(Machine::with_tpm(VMSEAL, Swtpm::start(), BASE));
    let pin = machine.file("pin");
    fs::write(&pin, "correct pin").unwrap();
    let pin = pin.to_str().unwrap();
    let options = [&BY_OWN_KEY[..], &["--pin", "--pin-file", pin, "--json"]].concat();
    assert_eq!(enroll(&machine, &options).ok().json()["proven"], true);
    machine.boot(BASE);
    machine.unlock(&["--pin-file", pin]).ok();
    // Another volume is approved by the same file.
    machine.image = Image::create(machine.folder.path());
    enroll(&machine, &BY_OWN_KEY).ok();
    let file: Value = serde_json::from_slice(&fs::read(machine.file(SIGNATURES)).unwrap()).unwrap();
    assert_eq!(file["sha256"].as_array().unwrap().len(), 1);
}
