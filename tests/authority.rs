//! `vmseal authority`: the key, whose it is, and where it may lie.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::Value;
use testkit::system::{MACHINE_ID, ROOT_DEVICE};
use testkit::{Machine, Ran, System, tool};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");

fn booted() -> System {
    System::on(Machine::booted(VMSEAL))
}

#[test]
fn a_key_is_made_shown_and_exported() {
    let system = booted();
    let made = system.authority(&["init", "--json"]).ok().json();
    assert_eq!(made["path"], system.key().to_str().unwrap());
    let mode = fs::metadata(system.key()).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600);
    assert_eq!(system.names(), ["authority.pem"]);

    let shown = system.show();
    assert_eq!((&shown["pkfp"], &shown["own"]), (&made["pkfp"], &true.into()));
    assert_eq!((&shown["machine_id"], &shown["encrypted"]), (&MACHINE_ID.into(), &true.into()));
    assert_eq!(shown["old"], Value::Null);
    assert!(shown["srk_name"].as_str().unwrap().starts_with("000b"), "{shown}");

    // Other programs read both halves.
    let exported = system.authority(&["export"]).ok().stdout;
    let key = system.key();
    let public = tool("openssl", &["pkey", "-pubout", "-in", key.to_str().unwrap()]);
    assert_eq!(exported, public);
    let public = system.machine.file("authority.pub");
    fs::write(&public, exported).unwrap();
    system
        .machine
        .enroll(&["--policy", "authority", "--authority-public", public.to_str().unwrap()])
        .ok()
        .says("not proven");

    let before = fs::read(&key).unwrap();
    system.authority(&["init"]).refused(3).says("there is an authority key already");
    assert_eq!(fs::read(&key).unwrap(), before);
}

#[test]
fn a_dry_run_makes_no_key_and_a_wrong_passphrase_neither() {
    let system = booted();
    let options = ["--dry-run"];
    let ran = system.enroll(&options).ok();
    assert!(ran.stdout.contains("would be made first"), "{ran:#?}");
    let plan = system.enroll(&["--dry-run", "--json"]);
    // A TPM without a storage root key does not get one by a dry run.
    let shown = plan.ok().json();
    assert_eq!(shown["authority"]["made"], true);
    assert_eq!(shown["plan"]["policy_hash"], Value::Null);
    assert_eq!(shown["plan"]["to_be_signed"]["pkfp"], Value::Null);
    fs::write(system.machine.key_file(), "wrong").unwrap();
    system.machine.refuses(16, |_| system.enroll(&[]));
    assert_eq!(system.names(), Vec::<String>::new());
    system.authority(&["show"]).refused(3).says("vmseal authority init");
    system.authority(&["export"]).refused(3);
    system.authority(&["rotate"]).refused(3);
}

#[test]
fn a_clone_notices_whose_key_it_has() {
    let system = booted();
    system.enroll(&[]).ok();
    let key = fs::read(system.key()).unwrap();
    let is_refused = |system: &System, by: &str| {
        for ran in [system.enroll(&[]), system.authority(&["export"])] {
            ran.refused(3).says("this machine is a clone").says(by).says("authority rotate");
        }
        assert_eq!(fs::read(system.key()).unwrap(), key);
        let shown = system.authority(&["show", "--json"]).ok().says("is a clone");
        assert_eq!(shown.json()["own"], false);
    };
    // Cloned with its TPM: the clone's first boot gave it an ID of its own.
    system.put("etc/machine-id", "ffffffffffffffffffffffffffffffff\n");
    is_refused(&system, "machine id");
    system.put("etc/machine-id", &format!("{MACHINE_ID}\n"));
    // Cloned with its ID: the clone has a TPM of its own.
    system.machine.tpm.replace_owner();
    is_refused(&system, "storage root key");

    let ran = system.authority(&["rotate"]).ok();
    assert!(ran.stdout.contains("gone from this one"), "{ran:#?}");
    assert_eq!(system.names(), ["authority.pem"], "nothing of the other machine stays");
    assert_eq!(system.show()["own"], true);
    system.enroll(&[]).ok();
    for id in ["", "uninitialized\n", "00000000000000000000000000000000\n"] {
        system.put("etc/machine-id", id);
        system.enroll(&[]).refused(3).says("tells no machine id");
    }
}

#[test]
fn no_key_is_made_where_it_is_not_protected_unless_told_so_loudly() {
    let system = booted();
    let refused = |ran: Ran, why: &str| ran.refused(3).says(why).says("--allow-unprotected");
    let each = |why: &str| {
        refused(system.authority(&["init"]), why);
        refused(system.enroll(&[]), why);
        system.machine.refuses(3, |_| system.enroll(&[]));
    };
    system.put("etc/vmseal/template", "");
    each("marked as a template");
    fs::remove_file(system.path("etc/vmseal/template")).unwrap();
    system.put(ROOT_DEVICE, "CRYPT-VERITY-6a1c-root\n");
    each("not be on an encrypted file system");
    assert_eq!(system.names(), Vec::<String>::new());

    system.authority(&["init", "--allow-unprotected"]).ok().says("WARNING");
    system.authority(&["show"]).ok().says("WARNING");
    system.enroll(&[]).ok();
    refused(system.authority(&["rotate"]), "not be on an encrypted file system");
    system.authority(&["rotate", "--allow-unprotected"]).ok().says("WARNING");
}

#[test]
fn a_key_elsewhere_is_taken_by_name() {
    let system = booted();
    let key = system.path("srv/own.pem");
    let key = key.to_str().unwrap();
    system.authority(&["init", "--key", key]).ok();
    system.enroll(&["--authority-key", key]).ok();
    let shown = system.authority(&["show", "--key", key, "--json"]).ok().json();
    let token = &system.machine.image.tokens("vmseal-record")[0].1;
    assert_eq!(token["signatures"]["sha256"][0]["pkfp"], shown["pkfp"]);
    assert_eq!(system.names(), Vec::<String>::new());
}

#[test]
fn what_is_no_key_of_ours_is_refused() {
    let system = booted();
    system.authority(&["init"]).ok();
    let key = system.key();
    let good = fs::read_to_string(&key).unwrap();
    let refused = |why: &str| {
        system.enroll(&[]).refused(3).says(why);
    };
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    refused("its mode is 640");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let bare = &good[good.find("-----").unwrap()..];
    for text in ["", "\x1b[2J", bare, &good.replace('A', "!"), &good.repeat(5)] {
        fs::write(&key, text).unwrap();
        refused("is not an authority key of vmseal");
    }
    fs::rename(&key, system.machine.file("elsewhere")).unwrap();
    symlink(system.machine.file("elsewhere"), &key).unwrap();
    refused("authority.pem");
    fs::remove_file(&key).unwrap();
    tool("mkfifo", &["-m", "600", key.to_str().unwrap()]);
    refused("not a file");
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
    let folders = ["initramfs-hooks", "dracut", "packaging"].map(|folder| project.join(folder));
    let example = project.join("man/vmseal-boot.8");
    for path in folders.iter().flat_map(files).chain([example]) {
        let text = fs::read(&path).unwrap();
        assert!(!takes_the_key(&String::from_utf8_lossy(&text)), "{}", path.display());
    }
}

fn files(folder: &PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn a_host_has_a_key_for_each_template_and_needs_no_tpm() {
    let system = booted();
    let host = |arguments: &[&str]| {
        let mut command = std::process::Command::new(VMSEAL);
        command.arg("authority").args(arguments).args(["--tcti", "device:/no/tpm"]);
        testkit::run(command.arg("--root").arg(system.machine.file("root")))
    };
    let made = host(&["init", "debian-13", "--json"]).ok().json();
    let path = system.path("etc/vmseal/authorities/debian-13.pem");
    assert_eq!(made["path"], path.to_str().unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let shown = host(&["show", "debian-13", "--json"]).ok().json();
    assert_eq!((&shown["pkfp"], &shown["template"]), (&made["pkfp"], &"debian-13".into()));
    assert_eq!(shown["encrypted"], true);
    let exported = host(&["export", "debian-13"]).ok().stdout;
    assert_eq!(exported, tool("openssl", &["pkey", "-pubout", "-in", path.to_str().unwrap()]));

    host(&["init", "debian-13"]).refused(3).says("there is an authority key already");
    host(&["show", "debian-12"]).refused(3).says("authority init NAME");
    host(&["init", "../x"]).refused(3).says("no name of a template");

    // One template's key is neither another's nor a machine's.
    fs::copy(&path, system.path("etc/vmseal/authorities/debian-12.pem")).unwrap();
    host(&["export", "debian-12"]).refused(3).says("the key of the template debian-13");
    let key = path.to_str().unwrap();
    system.authority(&["export", "--key", key]).refused(3).says("not of this machine");
    system.authority(&["rotate", "--key", key]).refused(3).says("not of this machine");
    system.authority(&["init"]).ok();
    let own = system.key();
    let ran = host(&["show", "debian-13", "--key", own.to_str().unwrap()]);
    ran.refused(3).says("the key of the machine");

    // Where it lies is the host's business, and told; an image of machines is no host.
    system.put(ROOT_DEVICE, "CRYPT-VERITY-6a1c-root\n");
    host(&["init", "plain"]).ok().says("not known to be on an encrypted file system");
    assert_eq!(host(&["show", "plain", "--json"]).ok().json()["encrypted"], false);
    system.put("etc/vmseal/template", "");
    host(&["init", "more"]).refused(3).says("every machine made of it would have the key");
}
