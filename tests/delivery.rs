//! The ways in which a machine gets what its host approved: what the host writes, and that the
//! machine finds it there.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod host;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use host::{BASE, Host, Template, machine};
use serde_json::Value;
use testkit::{Machine, Ran, run};
use vmseal::policy::disk::from_disk;

const KERNEL: &str = "direct-qemu10.0.13-ovmf2025.02/kernel";
/// A folder whose name is a trap.
const FOLDER: &str = "it's a, b & c";

/// Has a machine `a` delivered to in this way, with these words at the end of its command line.
fn template(host: &Host, boot: &str, kind: &str, words: &str) {
    let template = Template::of(boot, host.path(FOLDER));
    let cmdline = format!("{}{words}", template.cmdline);
    host.write("debian", &Template { kind, cmdline, machines: "[[vm]]\nname = \"a\"", ..template });
}

fn file(host: &Host, name: &str) -> PathBuf {
    host.path(FOLDER).join(name)
}

fn reseal(host: &Host) -> Ran {
    host.reseal(&["--template", "debian", "--yes"])
}

fn unlock(machine: &Machine) -> Ran {
    machine.unlock(&["--root", machine.file("root").to_str().unwrap()])
}

/// Shows a machine a disk, as its kernel would.
fn give_disk(machine: &Machine, disk: &[u8]) {
    let device = machine.file("root/sys/block/vdb");
    fs::create_dir_all(device.join("device")).unwrap();
    fs::create_dir_all(machine.file("root/dev")).unwrap();
    fs::write(device.join("ro"), "1\n").unwrap();
    fs::write(device.join("size"), format!("{}\n", disk.len() / 512)).unwrap();
    fs::write(machine.file("root/dev/vdb"), disk).unwrap();
}

fn signatures(file: &[u8]) -> Vec<Value> {
    let json: Value = serde_json::from_slice(file).unwrap();
    json["sha256"].as_array().unwrap().clone()
}

#[test]
fn a_disk_opens_the_machine_that_is_given_it() {
    let host = Host::new();
    let public = host.authority("debian");
    template(&host, BASE, "disk", "");
    let mut machine = machine(&public, BASE);
    let ran = host.vmseal(&["reseal", "--template", "debian", "--yes", "--json"]).ok();
    let told = &ran.json()["templates"][0]["machines"][0];
    let path = file(&host, "a.img");
    assert_eq!(told["file"], path.to_str().unwrap());
    let folder = host.path("it's a,, b & c").display().to_string();
    let option = format!("-drive if=virtio,format=raw,readonly=on,file={folder}/a.img");
    assert_eq!(told["qemu"], option);
    let xml = told["libvirt"].as_str().unwrap();
    assert!(xml.contains("/it&apos;s a, b &amp; c/a.img'/>"), "{xml}");
    assert!(xml.contains("<readonly/>"), "{xml}");

    let disk = fs::read(&path).unwrap();
    assert!(disk.starts_with(b"vmseal-policy 1\n") && disk.len().is_multiple_of(512));
    assert_eq!(signatures(from_disk(&disk).unwrap()).len(), 1);
    unlock(&machine).refused(19);
    give_disk(&machine, &disk);
    unlock(&machine).ok();

    // Another kernel: the disk is old until the host approves, and the check says so.
    template(&host, KERNEL, "disk", "");
    host.vmseal(&["template", "check", "debian"]).code(20);
    machine.boot(KERNEL);
    unlock(&machine).refused(19);
    let ran = reseal(&host).ok();
    assert!(ran.stdout.contains("start each with -drive"), "{ran:#?}");
    assert!(ran.stdout.contains("or by libvirt: <disk"), "{ran:#?}");
    let disk = fs::read(&path).unwrap();
    assert_eq!(signatures(from_disk(&disk).unwrap()).len(), 2);
    give_disk(&machine, &disk);
    unlock(&machine).ok();
    host.vmseal(&["template", "check", "debian"]).ok();
    // What was damaged is written anew, with what was signed for the boot before where that is whole.
    fs::write(&path, &disk[1..]).unwrap();
    host.vmseal(&["template", "check", "debian"]).code(20).says("a of template debian");
    reseal(&host).ok().says("written anew");
    host.vmseal(&["template", "check", "debian"]).ok();
    assert_eq!(signatures(from_disk(&fs::read(&path).unwrap()).unwrap()).len(), 1);
}

/// Newer approvals push the oldest ones out, and it is said.
#[test]
fn what_qubesdb_has_no_room_for_is_told() {
    let host = Host::new();
    host.authority("debian");
    let (path, account) =
        (file(&host, "a.json"), host.path("root/var/lib/vmseal/host/debian.json"));
    let mut approved: Vec<String> = vec![];
    for boot in 0..8 {
        template(&host, BASE, "qubesdb", &format!(" boot={boot}"));
        let ran = reseal(&host).ok();
        let mut json: Value = serde_json::from_slice(&fs::read(&account).unwrap()).unwrap();
        let generation = json["generation"].as_u64().unwrap();
        let boots = json["vms"]["a"]["boots"].as_object_mut().unwrap();
        approved.push(boots.keys().find(|boot| !approved.contains(boot)).unwrap().clone());
        let file = fs::read(&path).unwrap();
        assert!(file.len() <= 3072, "{}", file.len());
        let delivered = signatures(&file);
        let fit = &approved[approved.len().saturating_sub(5)..];
        assert_eq!(delivered.len(), fit.len());
        assert!(delivered.iter().all(|one| fit.iter().any(|boot| one["pol"] == **boot)));
        let is_full = approved.len() > 5;
        assert_eq!(ran.stderr.contains("no room for 1 signatures"), is_full, "{ran:#?}");
        host.vmseal(&["template", "check", "debian"]).ok();
        // Has all of them count for longer than one approval more, in their order.
        for (index, boot) in (0..).zip(&approved) {
            if let Some(of) = boots.get_mut(boot) {
                *of = (generation + index).into();
            }
        }
        fs::write(&account, json.to_string()).unwrap();
    }
    let before = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    reseal(&host).ok();
    let after = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    assert_eq!(after, before);
}

/// Where others can write beside what is delivered, root must not follow what they plant.
#[test]
fn what_is_planted_beside_a_delivery_is_neither_followed_nor_waited_for() {
    let host = Host::new();
    host.authority("debian");
    template(&host, BASE, "files", "");
    reseal(&host).ok();
    let [path, new] = ["a.json", "a.json.new"].map(|name| file(&host, name));
    let victim = host.path("victim");
    let delivered = fs::read(&path).unwrap();
    fs::write(&victim, "precious").unwrap();
    let plants: [&dyn Fn(); 4] = [
        &|| symlink(&victim, &new).unwrap(),
        &|| fs::hard_link(&victim, &new).unwrap(),
        // What a crash leaves.
        &|| fs::write(&new, "half").unwrap(),
        &|| drop(run(Command::new("mkfifo").arg(&new)).ok()),
    ];
    for plant in plants {
        fs::remove_file(&path).unwrap();
        plant();
        reseal(&host).ok();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read(&path).unwrap(), delivered);
        assert!(!new.exists());
    }
    // What cannot be put aside is named, and nothing is delivered into it.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&new).unwrap();
    reseal(&host).code(3).says("a.json");
    assert!(!path.exists());
}
