//! `vmseal reseal --template`: a host approves the boots of machines that hold the public half of a
//! template's key only. The machines boot recorded `-kernel` boots.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod host;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use host::{BASE, Host, VMS, machine, opens};
use serde_json::Value;
use testkit::run::is_killed;
use testkit::virtual_boot::{fixture_folder, log_before};
use testkit::{run, tool};
use vmseal::measurement::{EventLog, PcrBank};
use vmseal::prediction::{
    Base, DigestTable, KnownFiles, LoaderVariables, Next, Spelled, pcr_9_with, predict,
};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
/// Boots of the machine of `BASE`: with another kernel, with another command line, with more memory.
const KERNEL: &str = "direct-qemu10.0.13-ovmf2025.02/kernel";
const CMDLINE: &str = "direct-qemu10.0.13-ovmf2025.02/cmdline";
const M2048: &str = "direct-qemu10.0.13-ovmf2025.02/m2048";

#[test]
fn one_reseal_opens_every_machine_of_the_template_and_writes_no_header() {
    let host = Host::new();
    let public = host.authority("debian");
    host.template("debian", BASE, "", VMS);
    let mut machines = ["a", "b", "c"].map(|name| (name, machine(&public, BASE)));
    let file = |name: &str| host.delivery("debian").join(format!("{name}.json"));
    let shown = host.reseal(&["--template", "debian", "--dry-run"]).ok();
    assert!(shown.stdout.contains("nothing was changed"), "{shown:#?}");
    assert!(!file("a").exists());
    let refused = host.reseal(&["--template", "debian"]).code(20);
    assert!(!file("a").exists() && refused.stderr.contains("not approved"), "{refused:#?}");
    host.reseal(&["--template", "debian", "--yes"]).ok();
    let before = machines.each_ref().map(|(name, machine)| {
        opens(machine, &file(name)).ok();
        machine.image.snapshot()
    });

    // The host gives another kernel: nobody opens before it is approved.
    host.template("debian", KERNEL, "", VMS);
    for (name, machine) in &mut machines {
        machine.boot(KERNEL);
        opens(machine, &file(name)).refused(19).says("pcr 4");
    }
    let ran = host.reseal(&["--template", "debian", "--yes"]).ok();
    assert!(ran.stderr.contains("PCR 4  kernel: 782467f0 -> a2064605"), "{ran:#?}");
    assert!(!ran.stderr.contains("PCR 9"), "{ran:#?}");
    for ((name, machine), before) in machines.iter().zip(&before) {
        opens(machine, &file(name)).ok();
        assert!(machine.image.snapshot() == *before, "the header of {name} was written");
    }
    // The kernel before is still approved, as long as no other approval comes after.
    machines[0].1.boot(BASE);
    opens(&machines[0].1, &file("a")).ok();
    host.reseal(&["--template", "debian", "--narrow", "--yes"]).ok();
    opens(&machines[0].1, &file("a")).refused(19);

    // Nothing new: nothing is written, and nobody is asked.
    let written = fs::metadata(file("b")).unwrap().modified().unwrap();
    let ran = host.reseal(&["--template", "debian"]).ok();
    assert!(ran.stdout.contains("approved already"), "{ran:#?}");
    assert_eq!(fs::metadata(file("b")).unwrap().modified().unwrap(), written);
    // What was approved is delivered again where it was lost or changed.
    let good = fs::read(file("b")).unwrap();
    fs::write(file("b"), "{}").unwrap();
    fs::remove_file(file("c")).unwrap();
    host.reseal(&["--all"]).ok().says("2 files");
    assert_eq!(fs::read(file("b")).unwrap(), good);
    assert!(file("c").exists());
    let journal = host.vmseal(&["journal", "--verify"]).ok();
    assert!(journal.stdout.contains("the journal is whole: 6 lines"), "{journal:#?}");
}

#[test]
fn a_machine_that_is_not_as_the_template_tells_is_listed_and_stays_closed() {
    let host = Host::new();
    let public = host.authority("debian");
    let fourth = "[[vm]]\nname = \"d\"\ncmdline = \"audit=0 vmseal.x=1\"\n";
    host.template("debian", BASE, "", &format!("{VMS}{fourth}"));
    let ran = host.reseal(&["--template", "debian", "--yes", "--json"]).code(20);
    let ran = ran.says("not covered: d: audit=0 is no word").says("vmseal: d is not covered");
    let json = ran.json();
    let machines = json["templates"][0]["machines"].as_array().unwrap();
    let outlook = |name: &str| {
        let machine = machines.iter().find(|machine| machine["name"] == name).unwrap();
        (machine["outlook"].as_str().unwrap(), PathBuf::from(machine["file"].as_str().unwrap()))
    };
    assert_eq!(outlook("a").0, "new");
    let (d, file) = outlook("d");
    assert!(d == "not-covered" && !file.exists());
    let qemu = machines[0]["qemu"].as_str().unwrap();
    assert!(qemu.starts_with("-fw_cfg name=opt/org.vmseal/policy,file=/"), "{qemu}");

    // Given another machine's file, it does not open either.
    let mut machine = machine(&public, BASE);
    machine.boot(CMDLINE);
    let (_, of_a) = outlook("a");
    opens(&machine, &of_a).refused(19).says("pcr 9");
    // Allowed by the template, it is approved as any other.
    let allowed = "own_words = [\"audit=\", \"vmseal.x=\"]";
    host.template("debian", BASE, allowed, &format!("{VMS}{fourth}"));
    host.reseal(&["--template", "debian", "--yes"])
        .ok()
        .says("new machine d with audit=0 vmseal.x=1");
    opens(&machine, &file).ok();
    // Once it is no machine of the template any more, it is not given anything.
    host.template("debian", BASE, allowed, VMS);
    host.reseal(&["--template", "debian", "--yes"]).ok().says("no longer a machine of it: d");
    assert!(!file.exists());
}

#[test]
fn a_signature_for_one_template_opens_no_machine_of_another() {
    let host = Host::new();
    let (debian, fedora) = (host.authority("debian"), host.authority("fedora"));
    host.template("debian", BASE, "", VMS);
    host.template("fedora", BASE, "", VMS);
    host.reseal(&["--all", "--yes"]).ok();
    let file = |name: &str| host.delivery(name).join("a.json");
    let (of_debian, of_fedora) = (machine(&debian, BASE), machine(&fedora, BASE));
    for (machine, own, other) in
        [(&of_debian, "debian", "fedora"), (&of_fedora, "fedora", "debian")]
    {
        opens(machine, &file(other)).refused(19);
        opens(machine, &file(own)).ok();
    }
    // Nor does the host sign by the wrong key.
    let keys = host.path("root/etc/vmseal/authorities");
    fs::copy(keys.join("fedora.pem"), keys.join("debian.pem")).unwrap();
    host.reseal(&["--template", "debian"]).refused(3).says("the key of the template fedora");
}

#[test]
fn other_memory_and_processors_are_computed_or_refused_by_name() {
    let host = Host::new();
    let public = host.authority("debian");
    host.template("debian", BASE, "memory = [1024, 2048]\ncpus = [1, 2]", VMS);
    host.reseal(&["--template", "debian", "--yes"]).ok();
    let machine = machine(&public, M2048);
    opens(&machine, &host.delivery("debian").join("a.json")).ok();

    // An older firmware measures both into PCR 0: a reference boot of each kind is needed.
    let name = "root/etc/vmseal/templates.d/debian.toml";
    let old = "direct-qemu10.0.2-ovmf2022.11/base";
    let text = fs::read_to_string(host.path(name)).unwrap();
    let reference = fixture_folder(BASE).join("log.bin").display().to_string();
    let other = fixture_folder(old).join("log.bin").display().to_string();
    fs::write(host.path(name), text.replace(&reference, &other)).unwrap();
    let ran = host.reseal(&["--template", "debian", "--dry-run"]).ok();
    assert!(
        ran.stdout.contains("not covered: a, b, c: with 2048 MiB and 1 processor:"),
        "{ran:#?}"
    );
}

#[test]
fn what_a_host_is_not_told_well_is_refused_before_anything_is_signed() {
    let host = Host::new();
    host.reseal(&["--all"]).refused(3).says("there is no template in");
    host.reseal(&["--template", "debian"]).refused(3).says("there is no template");
    host.template("debian", BASE, "", VMS);
    host.reseal(&["--template", "debian"]).refused(3).says("authority init NAME");
    host.authority("debian");
    let file = host.path("root/etc/vmseal/templates.d/debian.toml");
    let good = fs::read_to_string(&file).unwrap();
    let refused = |from: &str, to: &str, why: &str| {
        assert!(good.contains(from), "{from}");
        fs::write(&file, good.replacen(from, to, 1)).unwrap();
        host.reseal(&["--template", "debian", "--yes"]).refused(3).says(why);
        assert!(!host.delivery("debian").exists());
    };
    refused("boot =", "boots =", "line 1: unknown field");
    refused("kernel = \"@", "kernel = \"/no/", "/no/");
    refused("log = \"", "log = \"/no", "/no");
    // Nor may a file of the host be passed over.
    refused(&format!("{BASE}/log.bin"), "uki/base/log.bin", "not given its kernel by the host");
    // A reference boot that was measured only in part is none.
    const EVENT_TAG: u32 = 6;
    let log = fixture_folder(BASE).join("log.bin");
    let part = host.path("part.bin");
    fs::write(&part, log_before(&log, EVENT_TAG)).unwrap();
    refused(log.to_str().unwrap(), part.to_str().unwrap(), "initrd");
    fs::write(&file, &good).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(&file, open).unwrap();
    host.reseal(&["--all", "--yes"]).refused(3).says("others than its owner may write");
    for arguments in [
        &["--template", "debian", "--all"][..],
        &["--template", "debian", "/dev/vda"],
        &["--all", "--unattended"],
        &["--all", "--set", "dbx=payload"],
    ] {
        host.reseal(arguments).code(2);
    }
}

/// Wherever a run is killed, the next one completes it, and what is delivered is whole.
#[test]
fn a_run_that_is_killed_is_taken_up_by_the_next() {
    let host = Host::new();
    let public = host.authority("debian");
    host.template("debian", BASE, "", VMS);
    host.reseal(&["--all", "--yes"]).ok();
    let mut machine = machine(&public, BASE);
    machine.boot(KERNEL);
    let before = host.path("before");
    copy(&host.path("root"), &before);
    copy(&host.path("delivered"), &host.path("delivered-before"));
    host.template("debian", KERNEL, "", "[[vm]]\nname = \"a\"\n[[vm]]\nname = \"b\"\n");
    let template = "etc/vmseal/templates.d/debian.toml";
    fs::copy(host.path("root").join(template), before.join(template)).unwrap();
    for call in ["rename", "fsync", "syncfs", "unlink"] {
        let mut kills = 0;
        for nth in 1.. {
            copy(&before, &host.path("root"));
            copy(&host.path("delivered-before"), &host.path("delivered"));
            let mut command = Command::new(VMSEAL);
            command.args(["reseal", "--template", "debian", "--yes", "--root"]);
            if !is_killed(command.arg(host.path("root")), call, nth) {
                break;
            }
            kills += 1;
            host.reseal(&["--template", "debian", "--yes"]).ok();
            for name in ["a", "b"] {
                opens(&machine, &host.delivery("debian").join(format!("{name}.json"))).ok();
            }
            assert!(!host.delivery("debian").join("c.json").exists(), "{call} {nth}");
            host.vmseal(&["journal", "--verify"]).ok();
        }
        assert!(kills > 0, "{call}");
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    tool("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()]);
}

/// For many machines only PCR 9 is computed anew: it must be what a boot with that command line
/// measures.
#[test]
fn another_command_line_is_what_such_a_boot_measured() {
    let file = |boot: &str, name: &str| fs::read(fixture_folder(boot).join(name)).unwrap();
    let log = EventLog::parse(&file(BASE, "log.bin")).unwrap();
    let known = KnownFiles::parse(&file(BASE, "artifacts.json")).unwrap();
    let table = known.files().iter().map(|(path, known)| (Spelled::parse(path), known.clone()));
    let files = DigestTable::listed(table);
    let line = |boot| String::from_utf8(file(boot, "inputs/append")).unwrap().trim().to_owned();
    let next = Next {
        files: &files,
        trees: &files,
        cmdline: Some(line(BASE)),
        loader: LoaderVariables::default(),
        sections: vec![],
        machine: vmseal::prediction::Machine::default(),
    };
    let base = Base { log: &log, early: None, files: None };
    let entry = predict(&base, &next).unwrap().entries.remove(0);
    for boot in [BASE, CMDLINE] {
        let pcrs: Value = serde_json::from_slice(&file(boot, "pcrs.json")).unwrap();
        let told = pcr_9_with(&entry, PcrBank::Sha256, &line(boot)).unwrap();
        assert_eq!(pcrs["sha256"]["9"], told.to_string(), "{boot}");
    }
    // QEMU takes the video mode out of it: more than its digest may depend on it.
    assert_eq!(pcr_9_with(&entry, PcrBank::Sha256, "ro vga=ask"), None);
}

/// Seconds of processor time, and KiB at most, of a run.
fn measured(host: &Host, arguments: &[&str]) -> (f64, u64) {
    let account = host.path("account");
    let mut command = Command::new("/usr/bin/time");
    command.args(["--format", "%U %S %M", "--output"]).arg(&account).arg(VMSEAL).args(arguments);
    run(command.arg("--root").arg(host.path("root"))).ok();
    let account = fs::read_to_string(&account).unwrap();
    let numbers: Vec<f64> = account.split_whitespace().map(|it| it.parse().unwrap()).collect();
    (numbers[0] + numbers[1], numbers[2] as u64)
}

/// `seconds` of processor time are allowed in a release build, more where nothing is optimized.
#[track_caller]
fn many_machines(templates: usize, machines: usize, seconds: f64) {
    let host = Host::new();
    let vms: String = (0..machines)
        .map(|vm| {
            let id = format!("systemd.machine_id={vm:032x}");
            format!("[[vm]]\nname = \"vm{vm}\"\ncmdline = \"{id}\"\n")
        })
        .collect();
    for number in 0..templates {
        let name = format!("t{number}");
        host.authority(&name);
        host.template(&name, BASE, "", &vms);
    }
    let (took, peak) = measured(&host, &["reseal", "--all", "--yes", "--quiet"]);
    let (idle, _) = measured(&host, &["reseal", "--all", "--quiet"]);
    let said =
        format!("{templates} x {machines}: {took:.2} s, {peak} KiB; nothing new: {idle:.2} s");
    let _ = writeln!(std::io::stderr(), "{said}");
    assert_eq!(fs::read_dir(host.delivery("t0")).unwrap().count(), machines);
    let allowed = if cfg!(debug_assertions) { seconds * 5.0 } else { seconds };
    assert!(took <= allowed && idle <= allowed, "{took} s and {idle} s, at most {allowed} s");
    assert!(peak < 300 << 10, "{peak} KiB");
}

#[test]
fn a_thousand_machines_are_signed_for_in_seconds() {
    many_machines(1, 1_000, 2.0);
}

#[test]
#[ignore = "a minute in a debug build"]
fn ten_thousand_machines_of_twenty_templates() {
    many_machines(20, 500, 20.0);
}
