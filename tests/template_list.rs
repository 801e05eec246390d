//! `vmseal template list`: what a host has, one line a template, malformed ones too.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod host;

use std::fs;

use host::{BASE, Host, VMS};
use serde_json::{Value, json};

#[test]
fn each_template_is_a_line() {
    let host = Host::new();
    let list = |more: &[&str]| host.vmseal(&[&["template", "list"], more].concat());
    let ran = list(&[]).ok();
    assert!(ran.stdout.contains("there is no template in"), "{ran:#?}");
    assert_eq!(list(&["--json"]).ok().json(), json!({ "templates": [] }));

    host.template("debian", BASE, "", VMS);
    host.template_of("fedora", "boot = \"uki\"\nuki = \"/no/such.efi\"", &host.path("no.log"), "");
    let folder = |name: &str| host.delivery(name).display().to_string();
    let ran = list(&[]).ok();
    let expected = format!(
        "debian: kernel, 3 machines, fw_cfg by {}, no key, never approved\n\
         fedora: uki, 1 machine, files by {}, no key, never approved\n",
        folder("debian"),
        folder("fedora"),
    );
    assert_eq!(ran.stdout, expected);

    host.authority("debian");
    host.reseal(&["--template", "debian", "--yes"]).ok();
    let first = list(&["--json"]).ok().json()["templates"][0].clone();
    let shown = host.vmseal(&["authority", "show", "debian", "--json"]).ok().json();
    assert_eq!(
        first,
        json!({
            "name": "debian", "fault": null, "boot": "kernel", "machines": 3,
            "delivery": { "kind": "fw_cfg", "folder": folder("debian") },
            "pkfp": shown["pkfp"], "old_pkfp": null, "approvals": 1,
        })
    );
    // The account counts approvals by a key; while another takes its place they still count.
    host.vmseal(&["authority", "rotate", "debian"]).ok();
    let rotated = list(&["--json"]).ok().json()["templates"][0].clone();
    assert_eq!((&rotated["old_pkfp"], &rotated["approvals"]), (&shown["pkfp"], &1.into()));
    let ran = list(&[]).ok();
    let key = format!(
        "key {}, and {} before it, approval 1\n",
        rotated["pkfp"].as_str().unwrap(),
        shown["pkfp"].as_str().unwrap()
    );
    assert!(ran.stdout.contains(&key), "{ran:#?}");
}

#[test]
fn what_is_wrong_is_listed_with_the_reason() {
    let host = Host::new();
    host.template("debian", BASE, "", VMS);
    let folder = host.path("root/etc/vmseal/templates.d");
    fs::write(folder.join("arch.toml"), "boot = \"\x1b[2J\"\n").unwrap();
    let ran = host.vmseal(&["template", "list"]).code(3).says("template arch");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with("arch: wrong: ") && !lines[0].contains('\x1b'), "{lines:?}");
    assert!(lines[1].starts_with("debian: kernel, 3 machines") && lines.len() == 2, "{lines:?}");
    let ran = host.vmseal(&["template", "list", "--json"]).code(3).json();
    let [arch, debian] = [&ran["templates"][0], &ran["templates"][1]];
    assert!(arch["fault"].as_str().unwrap().contains("is no template"), "{arch}");
    assert_eq!((&arch["boot"], &debian["fault"]), (&Value::Null, &Value::Null));

    // So are a key that cannot be used, and an account that cannot be read.
    fs::remove_file(folder.join("arch.toml")).unwrap();
    let key = host.path("root/etc/vmseal/authorities/debian.pem");
    fs::create_dir_all(key.parent().unwrap()).unwrap();
    fs::write(&key, "no key").unwrap();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    host.vmseal(&["template", "list"]).code(3).says("is not an authority key");
    fs::remove_file(&key).unwrap();
    let account = host.path("root/var/lib/vmseal/host/debian.json");
    fs::create_dir_all(account.parent().unwrap()).unwrap();
    fs::write(account, "{}").unwrap();
    host.vmseal(&["template", "list"]).code(3).says("does not tell what was approved");
}
