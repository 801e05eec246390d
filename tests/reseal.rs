//! `vmseal reseal` and `vmseal confirm` over the boots of a guest: what is approved opens, what is
//! not does not, and what ran before keeps opening until the new boot has proved itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod guest;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use guest::*;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use testkit::{Ran, run};

fn reseal(guest: &Guest, verb: &str, options: &[&str]) -> Ran {
    run(guest.command(&[verb]).args(options))
}

fn state(guest: &Guest) -> Value {
    serde_json::from_slice(&fs::read(guest.path("var/lib/vmseal/state.json")).unwrap()).unwrap()
}

fn entries(guest: &Guest) -> Vec<(String, String)> {
    let state = state(guest);
    let volume = state["volumes"].as_object().unwrap().values().next().unwrap().clone();
    let entry = |entry: &Value| {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        (text("entry"), text("state"))
    };
    volume["entries"].as_array().unwrap().iter().map(entry).collect()
}

#[test]
fn an_approved_update_opens_and_the_boot_before_it_until_it_has_proved_itself() {
    for case in [SDBOOT, GRUB] {
        let mut guest = Guest::approved(case);
        let before = fs::read(guest.path(guest.initrd)).unwrap();
        let old_log = guest.next_log();
        guest.update_initrd();
        let ran = reseal(&guest, "reseal", &["--yes"]).ok();
        assert!(ran.stderr.contains("PCR 9 "), "{case:?}: {ran:#?}");
        guest.machine.unlock(&[]).ok();
        guest.reboot();
        assert!(guest.boot_step(), "{case:?}");
        let said = reseal(&guest, "confirm", &["--json"]).ok().json();
        assert_eq!(said["volumes"][0]["opened_by"], "tpm");
        assert_eq!(said["volumes"][0]["retired"].as_array().unwrap().len(), 1, "{said}");
        // GRUB has a second entry of the same command line, which measures something else.
        let menu = if case == GRUB { 2 } else { 1 };
        let standings: Vec<String> = entries(&guest).into_iter().map(|(_, state)| state).collect();
        assert_eq!(standings.len(), menu, "{case:?}");
        assert!(standings.contains(&"confirmed".to_owned()), "{standings:?}");
        // The boot before it has lost its approval.
        fs::write(guest.path(guest.initrd), before).unwrap();
        assert_eq!(guest.next_log(), old_log);
        guest.reboot();
        assert!(!guest.boot_step(), "{case:?}");
        let said = reseal(&guest, "confirm", &["--json"]).ok().json();
        assert_eq!(said["volumes"][0]["opened_by"], "passphrase");
        let message = fs::read_to_string(guest.path("run/motd.d/vmseal")).unwrap();
        assert!(message.contains("PCR 9"), "{message}");
        run(&mut guest.command(&["journal", "--verify"])).ok();
        let journal = run(&mut guest.command(&["journal"])).ok();
        assert!(journal.stdout.contains("passphrase-boot"), "{journal:#?}");
    }
}

/// As where `/boot` is mounted after the service has started.
#[test]
fn without_the_files_of_this_boot_no_other_boot_is_withdrawn() {
    for case in [SDBOOT, GRUB] {
        let mut guest = Guest::approved(case);
        guest.update_initrd();
        reseal(&guest, "reseal", &["--yes"]).ok();
        guest.reboot();
        assert!(guest.boot_step(), "{case:?}");
        let before = entries(&guest).len();
        let mount = guest.path(guest.initrd.split('/').next().unwrap());
        let aside = mount.with_extension("aside");
        fs::rename(&mount, &aside).unwrap();
        fs::create_dir(&mount).unwrap();
        let said = reseal(&guest, "confirm", &["--json"]).ok().json();
        assert_eq!(said["volumes"][0]["retired"], json!([]), "{case:?}");
        assert_eq!(entries(&guest).len(), before, "{case:?}");
        fs::remove_dir(&mount).unwrap();
        fs::rename(&aside, &mount).unwrap();
        let said = reseal(&guest, "confirm", &["--json"]).ok().json();
        assert_eq!(said["volumes"][0]["retired"].as_array().unwrap().len(), 1, "{said}");
    }
}

#[test]
fn what_nobody_vouches_for_is_not_approved_with_nobody_asked() {
    let guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    let (header, before) = (guest.machine.image.snapshot(), entries(&guest));
    let ran = reseal(&guest, "reseal", &["--unattended"]).code(20);
    ran.says("the initrd changed").says("vouched by nobody");
    // Without a terminal it is the same.
    reseal(&guest, "reseal", &[]).code(20).says("approve it at a terminal");
    assert_eq!((guest.machine.image.snapshot(), entries(&guest)), (header, before));
    // What was shown and refused is on record, once.
    let journal = reseal(&guest, "journal", &["--json"]).ok().json();
    let lines = journal["lines"].as_array().unwrap();
    let [.., plan, refusal] = lines.as_slice() else { panic!("{journal}") };
    assert_eq!((&plan["kind"], &refusal["kind"]), (&json!("plan"), &json!("refusal")));
    assert_eq!((&refusal["body"]["of"], &refusal["body"]["exit"]), (&plan["seq"], &json!(20)));
    assert_eq!(lines.iter().filter(|line| line["kind"] == "plan").count(), 1, "{journal}");
}

#[test]
fn a_dry_run_changes_nothing_and_a_second_run_has_nothing_to_do() {
    let guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    let before = guest.machine.state();
    let said = reseal(&guest, "reseal", &["--dry-run", "--json"]).ok().json();
    let boots = said["volumes"][0]["boots"].as_array().unwrap();
    assert_eq!(boots[0]["outlook"], "new", "{said}");
    assert_eq!(boots[0]["changes"][0]["kind"], "initrd", "{said}");
    assert_eq!(guest.machine.state(), before);
    reseal(&guest, "reseal", &["--yes"]).ok();
    let header = guest.machine.image.snapshot();
    reseal(&guest, "reseal", &["--yes"]).ok();
    let ran = reseal(&guest, "reseal", &["--unattended"]).ok();
    assert!(ran.stdout.contains("approved already"), "{ran:#?}");
    assert_eq!(guest.machine.image.snapshot(), header);
    assert_eq!(entries(&guest).len(), 2);
}

#[test]
fn narrowing_waits_until_the_new_boot_was_seen() {
    let mut guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    reseal(&guest, "reseal", &["--yes"]).ok();
    reseal(&guest, "reseal", &["--yes", "--narrow"]).refused(3).says("not seen to open yet");
    guest.reboot();
    assert!(guest.boot_step());
    reseal(&guest, "confirm", &[]).ok();
    reseal(&guest, "reseal", &["--yes", "--narrow"]).ok();
    assert_eq!(entries(&guest).len(), 1);
}

#[test]
fn without_a_state_nothing_is_approved() {
    let guest = Guest::approved(SDBOOT);
    fs::remove_file(guest.path("var/lib/vmseal/state.json")).unwrap();
    guest.update_initrd();
    let header = guest.machine.image.snapshot();
    let ran = reseal(&guest, "reseal", &["--yes"]).refused(3);
    ran.says("approved on this machine");
    assert_eq!(guest.machine.image.snapshot(), header);
}

#[test]
fn literal_values_are_resealed_with_the_passphrase() {
    let mut guest = Guest::with_hook(SDBOOT);
    guest.enroll(&["--policy", "pcr"]).ok();
    guest.reboot();
    assert!(guest.boot_step());
    reseal(&guest, "confirm", &[]).ok();
    guest.update_initrd();
    reseal(&guest, "reseal", &["--unattended"]).code(20).says("takes its passphrase");
    let file = guest.machine.key_file();
    let file = file.to_str().unwrap();
    reseal(&guest, "reseal", &["--yes", "--unlock-key-file", file]).ok();
    guest.machine.unlock(&[]).ok();
    guest.reboot();
    assert!(guest.boot_step());
    let said = reseal(&guest, "confirm", &["--json"]).ok().json();
    assert_eq!(said["volumes"][0]["retired"].as_array().unwrap().len(), 1, "{said}");
    let tokens = guest.verdicts();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    assert_eq!(tokens, [json!("fits")]);
}

#[test]
fn what_this_machine_s_hook_built_is_approved_with_nobody_asked() {
    let mut guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    let initrd = guest.path(guest.initrd);
    reseal(&guest, "built", &[initrd.to_str().unwrap()]).ok();
    let said = reseal(&guest, "reseal", &["--unattended", "--json"]).ok().json();
    assert_eq!(said["approved_by"], "configuration");
    assert_eq!(said["artifacts"]["/deb/initrd"]["voucher"], "built by this machine's hook");
    guest.reboot();
    assert!(guest.boot_step());
}

#[test]
fn a_file_of_the_configuration_decides_and_a_slip_in_it_allows_nothing() {
    let guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    guest.put("etc/vmseal/reseal.conf", b"initrd = perhaps\n");
    reseal(&guest, "reseal", &["--unattended"]).code(20).says("reseal.conf:1: expected one of no");
    guest.put("etc/vmseal/reseal.conf", b"initrd = yes\n");
    reseal(&guest, "reseal", &["--unattended"]).ok();
}

/// Answers the prompt of `vmseal reseal` on a terminal, after `meanwhile` has run.
fn at_a_terminal(guest: &Guest, meanwhile: &str, answer: &str) -> Ran {
    let command = guest.command(&["reseal"]);
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let script = format!(
        "(sleep 4; {meanwhile}; echo {answer}; sleep 1) | script -qec \"{}\" /dev/null",
        words.join(" ")
    );
    run(std::process::Command::new("sh").args(["-c", &script]))
}

#[test]
fn at_a_terminal_somebody_is_asked() {
    let guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    let before = guest.machine.image.snapshot();
    let ran = at_a_terminal(&guest, "true", "n").code(20);
    assert!(ran.stdout.contains("Approve this?"), "{ran:#?}");
    assert_eq!(guest.machine.image.snapshot(), before);
    let ran = at_a_terminal(&guest, "true", "y").code(0);
    assert!(ran.stdout.contains("approved: "), "{ran:#?}");
    assert_ne!(guest.machine.image.snapshot(), before);
}

#[test]
fn a_file_that_changes_while_somebody_is_asked_is_not_approved() {
    let guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    let initrd = guest.path(guest.initrd).to_str().unwrap().to_owned();
    let good = format!("{initrd}.good");
    fs::copy(&initrd, &good).unwrap();
    let before = guest.machine.image.snapshot();
    for swap in [
        format!("printf x >> {initrd}"),
        format!("cp {good} {initrd}.new && mv {initrd}.new {initrd}"),
        format!("rm {initrd} && ln -s {good} {initrd}"),
    ] {
        let ran = at_a_terminal(&guest, &swap, "y").code(20);
        assert!(ran.stdout.contains("changed since it was shown"), "{swap}: {ran:#?}");
        assert_eq!(guest.machine.image.snapshot(), before, "{swap}");
    }
}

#[test]
fn what_the_header_says_is_not_believed() {
    let mut guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    reseal(&guest, "reseal", &["--yes"]).ok();
    let record = |json: &mut Value| {
        let tokens = json["tokens"].as_object_mut().unwrap();
        let record = tokens.values_mut().find(|token| token["type"] == "vmseal-record").unwrap();
        record["signatures"] = json!({});
        let entries = record["entries"].as_array_mut().unwrap();
        entries[0]["pcrs"]["9"] = "00".repeat(32).into();
    };
    guest.machine.image.edit_metadata(record);
    guest.machine.unlock(&[]).refused(19);
    let ran = reseal(&guest, "reseal", &["--unattended"]).ok();
    ran.says("finished what a run before this one had begun");
    guest.machine.unlock(&[]).ok();
    guest.reboot();
    assert!(guest.boot_step());
}

#[test]
fn two_at_once_wait_for_each_other() {
    let guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    let start = || {
        let mut command = guest.command(&["reseal", "--yes", "--quiet"]);
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let ended: Vec<_> = [start(), start()].map(|mut child| child.wait().unwrap().code()).into();
    assert_eq!(ended, [Some(0), Some(0)]);
    assert_eq!(entries(&guest).len(), 2);
    run(&mut guest.command(&["journal", "--verify"])).ok();
}

/// What is being approved was planned from the header and the state as they were: a keyslot that is
/// sealed meanwhile would lose its signatures to it.
#[test]
fn nothing_is_enrolled_while_boots_are_being_approved() {
    let guest = Guest::approved(SDBOOT);
    let lock = fs::File::open(guest.path("var/lib/vmseal/.reseal.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let before = (guest.machine.image.snapshot(), entries(&guest));
    guest.enroll(&[]).code(3).says("another vmseal holds");
    assert_eq!((guest.machine.image.snapshot(), entries(&guest)), before);
    drop(lock);
    guest.enroll(&[]).ok();
}

#[test]
fn another_machine_s_key_approves_nothing() {
    let guest = Guest::approved(SDBOOT);
    guest.put("etc/machine-id", b"fedcba9876543210fedcba9876543210\n");
    guest.update_initrd();
    let before = guest.machine.image.snapshot();
    reseal(&guest, "reseal", &["--yes"]).refused(3).says("authority rotate");
    assert_eq!(guest.machine.image.snapshot(), before);
}

/// A keyslot for the next boot must not do without what the one before it wants.
#[test]
fn a_pin_is_not_lost_on_the_way() {
    let mut guest = Guest::with_hook(SDBOOT);
    guest.put("pin", b"a long pin");
    let pin = guest.path("pin");
    let pin = pin.to_str().unwrap().to_owned();
    guest.enroll(&["--policy", "pcr", "--pin", "--pin-file", &pin]).ok();
    guest.reboot();
    guest.update_initrd();
    let file = guest.machine.key_file();
    let before = guest.machine.image.snapshot();
    let options = ["--yes", "--unlock-key-file", file.to_str().unwrap()];
    reseal(&guest, "reseal", &options).code(20).says("with a PIN");
    assert_eq!(guest.machine.image.snapshot(), before);
}

/// Whoever typed is told of it even where nothing was measured.
#[test]
fn a_boot_without_tpm_and_log_is_on_record() {
    let mut guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    guest.reboot();
    assert!(!guest.boot_step());
    fs::remove_file(guest.path("sys/kernel/security/tpm0/binary_bios_measurements")).unwrap();
    let mut confirm = std::process::Command::new(env!("CARGO_BIN_EXE_vmseal"));
    confirm.args(["confirm", "--tcti", "device:/dev/no-such-tpm", "--root"]);
    confirm.arg(guest.path("")).arg("--pins").arg(guest.machine.pins());
    let ran = run(&mut confirm).ok();
    assert!(ran.stdout.contains("was opened by passphrase"), "{ran:#?}");
    let journal = run(&mut guest.command(&["journal"])).ok();
    assert!(journal.stdout.contains("passphrase-boot"), "{journal:#?}");
}

#[test]
fn grub_s_menu_is_approved_where_it_was_built_here() {
    let guest = Guest::approved(GRUB);
    let menu = guest.path("boot/grub/grub.cfg");
    let mut text = fs::read_to_string(&menu).unwrap();
    text += "# another line\n";
    fs::write(&menu, text).unwrap();
    let ran = reseal(&guest, "reseal", &["--unattended"]).code(20);
    ran.says("the boot menu changed: ").says("grub.cfg vouched by nobody");
    // Where the configuration makes another one, it is not this machine's.
    let mkconfig = guest.path("usr/sbin/grub-mkconfig");
    fs::create_dir_all(mkconfig.parent().unwrap()).unwrap();
    for (makes, is_approved) in [("echo other", false), ("exit 1", false), ("", true)] {
        let cat = format!("#!/bin/sh\n{makes}\ncat {}\n", menu.display());
        fs::write(&mkconfig, cat).unwrap();
        fs::set_permissions(&mkconfig, fs::Permissions::from_mode(0o755)).unwrap();
        reseal(&guest, "built", &["--grub-menu"]).ok();
        let ran = reseal(&guest, "reseal", &["--unattended", "--dry-run", "--json"]).ok().json();
        let voucher = ran["artifacts"].to_string();
        assert_eq!(voucher.contains("this machine's hook"), is_approved, "{makes}: {ran}");
    }
    let said = reseal(&guest, "reseal", &["--unattended", "--json"]).ok().json();
    assert_eq!(said["approved_by"], "configuration", "{said}");
}

#[test]
fn an_entry_that_there_is_not_is_a_slip() {
    let guest = Guest::approved(SDBOOT);
    let ran = reseal(&guest, "reseal", &["--dry-run", "--entry", "rescue"]).refused(2);
    ran.says("no boot entry is called rescue");
}

/// After a boot that nobody approved, what nobody vouches for must be named, file by file.
#[test]
fn after_a_boot_that_was_not_approved_each_file_is_named() {
    let mut guest = Guest::approved(SDBOOT);
    guest.update_initrd();
    guest.reboot();
    assert!(!guest.boot_step());
    reseal(&guest, "reseal", &["--unattended"]).code(20).says("was not approved itself");
    reseal(&guest, "reseal", &["--yes"]).code(20).says("nobody vouches for /deb/initrd");
    reseal(&guest, "reseal", &["--yes", "--accept", "/deb/other"]).code(20);
    reseal(&guest, "reseal", &["--yes", "--accept", "/deb/initrd"]).ok();
    guest.reboot();
    assert!(guest.boot_step());
}
