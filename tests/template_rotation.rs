//! `vmseal authority rotate NAME`: a host replaces the key of a template, and no machine is locked out
//! on the way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod host;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use host::{BASE, Host, Template, VMS, machine, opens};
use serde_json::Value;
use testkit::run::kill_everywhere;
use testkit::tool;
use vmseal::policy::{AuthorityKey, Signatures, verified};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
const KERNEL: &str = "direct-qemu10.0.13-ovmf2025.02/kernel";

/// A host that has approved the boot of its machines a, b and c, and the public half of its key.
fn approved() -> (Host, PathBuf) {
    let host = Host::new();
    let public = host.authority("debian");
    host.template("debian", BASE, "", VMS);
    host.reseal(&["--template", "debian", "--yes"]).ok();
    (host, public)
}

fn authority(host: &Host, arguments: &[&str]) -> testkit::Ran {
    host.vmseal(&[&["authority"], arguments].concat())
}

fn exported(host: &Host) -> PathBuf {
    let public = host.path("new.pub");
    fs::write(&public, authority(host, &["export", "debian"]).ok().stdout).unwrap();
    public
}

fn key(host: &Host) -> PathBuf {
    host.path("root/etc/vmseal/authorities/debian.pem")
}

fn old_key(host: &Host) -> PathBuf {
    host.path("root/etc/vmseal/authorities/debian.pem.old")
}

fn file(host: &Host, vm: &str) -> PathBuf {
    host.delivery("debian").join(format!("{vm}.json"))
}

/// How many signatures of a file verify by each of these keys, and that there is no other.
fn signed(file: &Path, keys: &[&Path]) -> Vec<usize> {
    let mut signatures = Signatures::default();
    signatures.add_json(&fs::read(file).unwrap()).unwrap();
    let by = keys.iter().map(|key| {
        let key = AuthorityKey::from_pem(&fs::read(key).unwrap()).unwrap();
        verified(&signatures, &[&key]).len()
    });
    let by: Vec<usize> = by.collect();
    assert_eq!(by.iter().sum::<usize>(), signatures.len());
    by
}

#[test]
fn machines_open_by_either_key_until_the_rotation_is_finished() {
    let (host, old) = approved();
    let (a, mut b) = (machine(&old, BASE), machine(&old, BASE));
    let before = authority(&host, &["show", "debian", "--json"]).ok().json();
    assert_eq!(before["old"], Value::Null);
    let delivered = fs::read(file(&host, "a")).unwrap();
    let ran = authority(&host, &["rotate", "debian", "--json"]).ok();
    let ran = ran.says("what the old key has signed (3 machines, 1 boot)");
    let rotated = ran.json();
    assert_eq!(rotated["old"]["pkfp"], before["pkfp"]);
    let shown = authority(&host, &["show", "debian", "--json"]).ok().json();
    assert_eq!((&shown["pkfp"], &shown["old"]), (&rotated["pkfp"], &rotated["old"]));
    assert_ne!(shown["pkfp"], before["pkfp"]);
    let text = authority(&host, &["show", "debian"]).ok().stdout;
    let named = text.contains(before["pkfp"].as_str().unwrap()) && text.contains("debian.pem.old");
    assert!(named, "{text}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&key(&host)), mode(&old_key(&host))), (0o600, 0o600));

    // Nothing that is delivered has changed, and it opens; the check says by which key.
    assert_eq!(fs::read(file(&host, "a")).unwrap(), delivered);
    opens(&a, &file(&host, "a")).ok();
    let ran = host.vmseal(&["template", "check", "debian"]).ok();
    assert!(ran.stdout.contains("3 of 3 machines open"), "{ran:#?}");
    assert!(ran.stdout.contains("3 open by the key before only: vmseal reseal"), "{ran:#?}");
    let refused = authority(&host, &["rotate", "debian", "--finish", "--yes"]).refused(3);
    refused.says("has not signed all that the key before has").says("vmseal reseal --template");
    authority(&host, &["rotate", "debian"]).refused(3).says("--finish");
    assert!(old_key(&host).exists());

    // Nobody is asked: it is approved already.
    let ran = host.reseal(&["--template", "debian"]).ok().says("two keys sign");
    assert!(ran.stdout.contains("signed by the new key too, 3 files written"), "{ran:#?}");
    let new = exported(&host);
    for vm in ["a", "b", "c"] {
        assert_eq!(signed(&file(&host, vm), &[&old, &new]), [1, 1]);
    }
    let written = fs::metadata(file(&host, "a")).unwrap().modified().unwrap();
    let ran = host.reseal(&["--template", "debian"]).ok();
    assert!(ran.stdout.contains("approved already"), "{ran:#?}");
    assert_eq!(fs::metadata(file(&host, "a")).unwrap().modified().unwrap(), written);
    let ran = host.vmseal(&["template", "check", "debian", "--json"]).ok().json();
    assert_eq!(ran["templates"][0]["keys"], serde_json::json!([shown["pkfp"], before["pkfp"]]));
    assert_eq!(ran["templates"][0]["machines"][0]["by_old_key_alone"], false);

    // One machine is enrolled again; a new kernel is approved for both.
    b.enroll(&["--policy", "authority", "--authority-public", new.to_str().unwrap()]).ok();
    // By what the old key signed it opens too, until its old keyslot is removed.
    fs::write(host.path("old.json"), delivered).unwrap();
    opens(&b, &host.path("old.json")).ok();
    opens(&machine(&new, BASE), &host.path("old.json")).refused(19);
    opens(&b, &file(&host, "b")).ok();
    let c = machine(&new, BASE);
    for machine in [&a, &c] {
        opens(machine, &file(&host, "c")).ok();
    }
    host.template("debian", KERNEL, "", VMS);
    host.vmseal(&["template", "check", "debian"]).code(20);
    host.reseal(&["--template", "debian", "--yes"]).ok();
    assert_eq!(signed(&file(&host, "b"), &[&old, &new]), [2, 2]);
    b.boot(KERNEL);
    opens(&b, &file(&host, "b")).ok();
    opens(&c, &file(&host, "b")).ok();

    // A host cannot see who was enrolled again: it wants to be told.
    let ran = authority(&host, &["rotate", "debian", "--finish"]).refused(3);
    ran.says("which machines of template debian were enrolled again").says("--yes");
    let ran = host.answered(&["authority", "rotate", "debian", "--finish"], "true", "n").code(3);
    assert!(ran.stdout.contains("template debian: a, b, c. This host cannot see"), "{ran:#?}");
    assert!(old_key(&host).exists());
    assert_eq!(signed(&file(&host, "b"), &[&old, &new]), [2, 2]);
    let ran = authority(&host, &["rotate", "debian", "--finish", "--yes", "--json"]).ok().json();
    assert_eq!((&ran["old"], &ran["files"]), (&Value::Null, &3.into()));
    assert!(!old_key(&host).exists());
    for vm in ["a", "b", "c"] {
        assert_eq!(signed(&file(&host, vm), &[&old, &new]), [0, 2]);
    }
    opens(&b, &file(&host, "b")).ok();
    opens(&c, &file(&host, "c")).ok();
    opens(&a, &file(&host, "a")).refused(19);
    host.vmseal(&["template", "check", "debian"]).ok();
    let ran = host.reseal(&["--template", "debian"]).ok();
    assert!(ran.stdout.contains("approved already"), "{ran:#?}");
    authority(&host, &["rotate", "debian", "--finish", "--yes"])
        .refused(3)
        .says("no rotation to finish");
    // The next boot is signed by the new key alone.
    let own = VMS.replace("\"a\"", "\"a\"\ncmdline = \"systemd.hostname=a\"");
    host.template("debian", BASE, "", &own);
    host.reseal(&["--template", "debian", "--yes"]).ok();
    assert_eq!(signed(&file(&host, "a"), &[&old, &new]), [0, 2]);

    let told = host.vmseal(&["journal"]).ok().stdout;
    assert_eq!(told.matches("the rotation is finished").count(), 1, "{told}");
    let journal = host.vmseal(&["journal", "--verify", "--json"]).ok().json();
    let lines = journal["lines"].as_array().unwrap();
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
    let rotations = of("rotate");
    assert_eq!(rotations.len(), 2);
    let [begun, finished] = [&rotations[0]["body"], &rotations[1]["body"]];
    assert_eq!((&begun["pkfp"], &begun["old_pkfp"]), (&shown["pkfp"], &before["pkfp"]));
    assert_eq!(begun["still_open"], serde_json::json!({ "machines": 3, "boots": 1 }));
    assert_eq!((&finished["finished"], &finished["how"]), (&before["pkfp"], &"yes".into()));
    let hows: Vec<&Value> = of("approval").iter().map(|line| &line["body"]["how"]).collect();
    assert_eq!(hows, ["yes", "rotation", "yes", "yes"]);
}

#[test]
fn what_is_no_key_of_the_template_is_neither_replaced_nor_passed_over() {
    let (host, _) = approved();
    let rotate = |arguments: &[&str]| authority(&host, &[&["rotate"], arguments].concat());
    rotate(&["fedora"]).refused(3).says("there is no authority key");
    rotate(&["../debian"]).refused(3).says("no name of a template");
    rotate(&["--finish"]).code(2);
    rotate(&["debian", "--yes"]).code(2);
    rotate(&["debian", "--finish", "--key", "/x"]).code(2);
    rotate(&["debian", "--finish", "--yes"]).refused(3).says("no rotation to finish");
    host.authority("fedora");
    rotate(&[
        "debian",
        "--key",
        host.path("root/etc/vmseal/authorities/fedora.pem").to_str().unwrap(),
    ])
    .refused(3)
    .says("the key of the template fedora");

    // One that others could read is all the more to be replaced; it is theirs no longer.
    fs::set_permissions(key(&host), fs::Permissions::from_mode(0o644)).unwrap();
    rotate(&["debian"]).ok();
    assert_eq!(fs::metadata(old_key(&host)).unwrap().permissions().mode() & 0o7777, 0o600);

    // Machines may open by the key before alone: nothing is signed without it.
    let good = fs::read(old_key(&host)).unwrap();
    let delivered = fs::read(file(&host, "a")).unwrap();
    let fedora = fs::read(host.path("root/etc/vmseal/authorities/fedora.pem")).unwrap();
    for (text, why) in [(&b"no key"[..], "is not an authority key"), (&fedora, "template fedora")] {
        fs::write(old_key(&host), text).unwrap();
        host.reseal(&["--template", "debian", "--yes"]).refused(3).says("debian.pem.old").says(why);
        rotate(&["debian"]).refused(3).says("is not finished");
        rotate(&["debian", "--finish", "--yes"]).refused(3).says(why);
        host.vmseal(&["template", "check", "debian"]).code(3).says(why);
        assert_eq!(fs::read(file(&host, "a")).unwrap(), delivered);
    }
    fs::write(old_key(&host), good).unwrap();
    host.reseal(&["--template", "debian"]).ok();
    // What only the new key has signed opens nobody who is still enrolled with the other.
    let both: Value = serde_json::from_slice(&fs::read(file(&host, "a")).unwrap()).unwrap();
    let shown = authority(&host, &["show", "debian", "--json"]).ok().json();
    let of_new = both["sha256"].as_array().unwrap().iter();
    let of_new: Vec<&Value> = of_new.filter(|one| one["pkfp"] == shown["pkfp"]).collect();
    fs::write(file(&host, "a"), serde_json::json!({ "sha256": of_new }).to_string()).unwrap();
    let ran = host.vmseal(&["template", "check", "debian"]).code(20);
    assert!(
        ran.stdout.contains("a does not open: it is signed for by the new key only"),
        "{ran:#?}"
    );
    // A key elsewhere, as its template tells.
    let elsewhere = host.path("elsewhere.pem");
    let named = format!("authority = {elsewhere:?}");
    host.template("debian", BASE, &named, VMS);
    authority(&host, &["init", "debian", "--key", elsewhere.to_str().unwrap()]).ok();
    assert_eq!(rotate(&["debian", "--json"]).ok().json()["path"], elsewhere.to_str().unwrap());
}

/// Both keys' signatures are more than a value in QubesDB takes: the oldest boot gives way, and it is said.
#[test]
fn what_qubesdb_has_no_room_for_is_told() {
    let host = Host::new();
    let old = host.authority("debian");
    let account = host.path("root/var/lib/vmseal/host/debian.json");
    let mut oldest = String::new();
    for boot in 0..3 {
        let template = Template::of(BASE, host.delivery("debian"));
        let cmdline = format!("{} x={boot}", template.cmdline);
        let template = Template { kind: "qubesdb", machines: VMS, cmdline, ..template };
        host.write("debian", &template);
        host.reseal(&["--template", "debian", "--yes"]).ok();
        // Has all of them count for longer than one approval more, in their order.
        let mut json: Value = serde_json::from_slice(&fs::read(&account).unwrap()).unwrap();
        let generation = json["generation"].clone();
        let boots = json["vms"]["a"]["boots"].as_object_mut().unwrap();
        if boot == 0 {
            oldest.clone_from(boots.keys().next().unwrap());
        }
        for (name, of) in boots.iter_mut().filter(|(_, of)| **of != generation) {
            *of = if *name == oldest { 9.into() } else { 10.into() };
        }
        boots.values_mut().filter(|of| **of == generation).for_each(|of| *of = 11.into());
        json["generation"] = 9.into();
        fs::write(&account, json.to_string()).unwrap();
    }
    assert_eq!(signed(&file(&host, "a"), &[&old]), [3]);
    authority(&host, &["rotate", "debian"]).ok();
    host.reseal(&["--template", "debian"]).ok().says("no room for 2 signatures of boots");
    let file = file(&host, "a");
    assert_eq!(signed(&file, &[&old, &exported(&host)]), [2, 2]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.len() <= 3072 && !text.contains(&oldest), "{text}");
    let ran = host.reseal(&["--template", "debian"]).ok();
    assert!(ran.stdout.contains("approved already"), "{ran:#?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    authority(&host, &["rotate", "debian", "--finish", "--yes"]).ok();
    host.vmseal(&["template", "check", "debian"]).ok();
}

/// Wherever a rotation is killed, the key is there whole, and what is delivered opens.
#[test]
fn a_rotation_may_be_killed_at_any_instant() {
    let (host, old) = approved();
    let a = machine(&old, BASE);
    let first = fs::read(key(&host)).unwrap();
    let saved = host.path("saved");
    copy(&host.path("root"), &saved);
    let of = |arguments: &[&str]| {
        let mut command = Command::new(VMSEAL);
        command.args(["authority", "rotate", "debian"]).args(arguments);
        command.arg("--root").arg(host.path("root"));
        command
    };
    let begun = |point: &str| {
        let now = fs::read(key(&host)).unwrap();
        authority(&host, &["show", "debian"]).ok();
        opens(&a, &file(&host, "a")).ok();
        let again = authority(&host, &["rotate", "debian"]);
        assert_eq!(again.code, Some(if now == first { 0 } else { 3 }), "{point}: {again:#?}");
        assert_eq!(fs::read(old_key(&host)).unwrap(), first, "{point}");
        assert_ne!(fs::read(key(&host)).unwrap(), first, "{point}");
        host.vmseal(&["journal", "--verify"]).ok();
    };
    let calls = ["write", "fsync", "fchmod", "chmod", "rename", "link", "linkat"];
    let points = kill_everywhere(&of(&[]), &calls, || copy(&saved, &host.path("root")), begun);
    for call in ["write", "fsync", "rename"] {
        assert!(points.contains_key(call), "{points:?}");
    }
    assert!(points.contains_key("link") || points.contains_key("linkat"), "{points:?}");

    host.reseal(&["--template", "debian"]).ok();
    let new = exported(&host);
    let c = machine(&new, BASE);
    let (root, delivered) = (host.path("rotated"), host.path("delivered-by-both"));
    copy(&host.path("root"), &root);
    copy(&host.path("delivered"), &delivered);
    let restore = || {
        copy(&root, &host.path("root"));
        copy(&delivered, &host.path("delivered"));
    };
    let finished = |point: &str| {
        opens(&c, &file(&host, "c")).ok();
        let is_there = old_key(&host).exists();
        let again = authority(&host, &["rotate", "debian", "--finish", "--yes"]);
        assert_eq!(again.code, Some(if is_there { 0 } else { 3 }), "{point}: {again:#?}");
        assert!(!old_key(&host).exists(), "{point}");
        for vm in ["a", "b", "c"] {
            assert_eq!(signed(&file(&host, vm), &[&old, &new]), [0, 1], "{point}");
        }
        host.vmseal(&["journal", "--verify"]).ok();
    };
    let calls = ["fsync", "rename", "syncfs", "unlink"];
    let points = kill_everywhere(&of(&["--finish", "--yes"]), &calls, restore, finished);
    assert!(calls.iter().all(|call| points.contains_key(call)), "{points:?}");
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    tool("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()]);
}
