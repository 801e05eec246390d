//! `vmseal reseal` before and after an update of Secure Boot's variables: approved with the payload
//! before it is written, or with what the firmware has once it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
// Each test takes what it needs of the guest.
#![allow(unused_imports)]

mod guest;

use std::fs;
use std::path::PathBuf;

use guest::*;
use serde_json::Value;
use testkit::{Ran, run};
use vmseal::artifact::efivar::{
    LoggedVariable, PolicyVariable, PolicyVariables, is_policy_event, variable_data,
};
use vmseal::artifact::signature_list::{SignatureList, SignatureLists};
use vmseal::measurement::efi::Guid;
use vmseal::measurement::{EventLog, PcrBank};

const LOG: &str = "sys/kernel/security/tpm0/binary_bios_measurements";
/// The variables of a boot under Secure Boot, and the same with one more certificate in db.
const BASE: &str = "uki-secureboot-db/base";
const APPENDED: &str = "uki-secureboot-db/db-append";
/// `EFI_CERT_SHA256_GUID`.
const CERT_SHA256: [u8; 16] = [
    0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28,
];

fn variables(case: &str) -> PolicyVariables {
    let log = EventLog::parse(&fs::read(fixture(case).join("log.bin")).unwrap()).unwrap();
    PolicyVariables::from_log(&log).unwrap()
}

fn efivar(guest: &Guest, variable: PolicyVariable) -> PathBuf {
    let name = format!("{}-{}", variable.name(), variable.guid());
    guest.path("sys/firmware/efi/efivars").join(name)
}

fn write_variable(guest: &Guest, variable: PolicyVariable, value: &[u8]) {
    let path = efivar(guest, variable);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, [&[0x27, 0, 0, 0], value].concat()).unwrap();
}

/// A log as a firmware with these variables writes it.
fn with_variables(log: &[u8], case: &str) -> Vec<u8> {
    let (log, now) = (EventLog::parse(log).unwrap(), variables(case));
    let mut events = log.events().to_vec();
    for event in events.iter_mut().filter(|event| is_policy_event(event)) {
        let name = LoggedVariable::parse(&event.raw).unwrap().name;
        let variable = PolicyVariable::from_name(&name).unwrap();
        event.raw = variable_data(variable.guid(), &name, now.get(variable));
        for digest in &mut event.digests {
            let bank = PcrBank::from_alg_id(digest.alg_id).unwrap();
            digest.bytes = bank.hash(&event.raw).as_bytes().to_vec();
        }
    }
    EventLog::from_events(log.format().clone(), events).to_bytes()
}

/// Boots with the variables that a case has.
fn boot(guest: &mut Guest, case: &str) {
    guest.reboot();
    start(guest, &guest.next_log(), case);
}

fn start(guest: &mut Guest, log: &[u8], case: &str) {
    guest.put(LOG, &with_variables(log, case));
    let now = variables(case);
    for variable in PolicyVariable::ALL {
        if !now.get(variable).is_empty() {
            write_variable(guest, variable, now.get(variable));
        }
    }
    guest.machine.boot_log(guest.path(LOG));
}

/// A guest with an authority of its own, which has proved its first boot.
fn enrolled() -> Guest {
    enrolled_by("authority")
}

fn enrolled_by(policy: &str) -> Guest {
    let mut guest = Guest::with_hook(SDBOOT).with_identity();
    let log = guest.base_log();
    start(&mut guest, &log, BASE);
    guest.enroll(&["--policy", policy]).ok();
    boot(&mut guest, BASE);
    assert!(guest.boot_step());
    vmseal(&guest, &["confirm"]).ok();
    guest
}

fn vmseal(guest: &Guest, arguments: &[&str]) -> Ran {
    run(&mut guest.command(arguments))
}

/// What makes the one boot's db the other's, as it is shipped: with a signature in front.
fn payload(guest: &Guest) -> String {
    let (old, new) = (variables(BASE), variables(APPENDED));
    let db = PolicyVariable::Db;
    let lists = new.get(db).strip_prefix(old.get(db)).unwrap();
    let mut bytes = vec![0; 16];
    bytes.extend(29u32.to_le_bytes());
    bytes.extend([0, 2, 0xf1, 0x0e]);
    bytes.extend(hex::decode("9dd2af4adf68ee498aa9347d375665a7").unwrap());
    bytes.extend([0x30, 0x82, 1, 2, 3]);
    bytes.extend(lists);
    guest.put("a payload", &bytes);
    guest.path("a payload").to_str().unwrap().to_owned()
}

/// Another list of hashes for dbx.
fn hashes(byte: u8) -> Vec<u8> {
    let list = SignatureList::new(Guid::from_bytes(CERT_SHA256), &[&[byte; 48]]).unwrap();
    SignatureLists::from(vec![list]).to_bytes()
}

fn approved(guest: &Guest) -> usize {
    let state = fs::read(guest.path("var/lib/vmseal/state.json")).unwrap();
    let state: Value = serde_json::from_slice(&state).unwrap();
    let volume = state["volumes"].as_object().unwrap().values().next().unwrap();
    volume["entries"].as_array().unwrap().len()
}

#[test]
fn a_payload_is_approved_before_it_is_written_and_the_boot_before_it_still_opens() {
    let mut guest = enrolled();
    let set = format!("db={}", payload(&guest));
    let header = guest.machine.image.snapshot();
    let ran = vmseal(&guest, &["reseal", "--dry-run", "--set", &set]).ok();
    assert!(
        ran.stdout
            .contains("Secure Boot variable db:\n  + certificate held2 second db cert, sha256 "),
        "{ran:#?}"
    );
    assert!(ran.stdout.contains("once the variables are updated: new: PCR 7"), "{ran:#?}");
    assert!(ran.stdout.contains("a\\040payload: vouched by nobody"), "{ran:#?}");
    assert_eq!(guest.machine.image.snapshot(), header);
    // Nobody was asked.
    let ran = vmseal(&guest, &["reseal", "--unattended", "--set", &set]).code(20);
    ran.says("Secure Boot or its keys changed: db=/").says("vouched by nobody");
    assert_eq!(guest.machine.image.snapshot(), header);

    let said = vmseal(&guest, &["reseal", "--yes", "--json", "--set", &set]).ok().json();
    assert_eq!(said["variables"][0]["name"], "db");
    let boots = said["volumes"][0]["boots"].as_array().unwrap();
    let seen = |boot: &Value| (boot["outlook"].clone(), boot["updated"].clone());
    assert_eq!(
        boots.iter().map(seen).collect::<Vec<_>>(),
        [("new".into(), true.into()), ("approved".into(), false.into())]
    );
    // Neither a reseal for something else nor a boot before the update takes the approval back.
    vmseal(&guest, &["reseal", "--unattended"]).ok();
    boot(&mut guest, BASE);
    assert!(guest.boot_step());
    vmseal(&guest, &["confirm"]).ok();
    assert_eq!(approved(&guest), 2);

    boot(&mut guest, APPENDED);
    assert!(guest.boot_step());
    let said = vmseal(&guest, &["confirm", "--json"]).ok().json();
    assert_eq!(said["volumes"][0]["opened_by"], "tpm");
    assert_eq!(approved(&guest), 1);
    boot(&mut guest, BASE);
    assert!(!guest.boot_step());
}

/// What was approved with and without the payload at once: the boot without it proves itself first.
#[test]
fn a_payload_is_waited_for_while_another_update_of_the_same_approval_proves_itself() {
    let mut guest = enrolled();
    let set = format!("db={}", payload(&guest));
    let mut initrd = fs::read(guest.path(guest.initrd)).unwrap();
    initrd.extend(b"an update");
    fs::write(guest.path(guest.initrd), initrd).unwrap();
    vmseal(&guest, &["reseal", "--yes", "--set", &set]).ok();
    assert_eq!(approved(&guest), 3);
    boot(&mut guest, BASE);
    assert!(guest.boot_step());
    vmseal(&guest, &["confirm"]).ok();
    boot(&mut guest, APPENDED);
    assert!(guest.boot_step());
    vmseal(&guest, &["confirm"]).ok();
    assert_eq!(approved(&guest), 1);
}

/// With literal values each boot has a keyslot of its own.
#[test]
fn a_payload_gets_a_keyslot_where_values_are_literal() {
    let mut guest = enrolled_by("pcr");
    let (set, key) = (format!("db={}", payload(&guest)), guest.machine.key_file());
    let options = ["reseal", "--yes", "--unlock-key-file", key.to_str().unwrap(), "--set", &set];
    vmseal(&guest, &options).ok();
    guest.machine.unlock(&[]).ok();
    boot(&mut guest, APPENDED);
    assert!(guest.boot_step());
    vmseal(&guest, &["confirm"]).ok();
    assert_eq!(guest.verdicts(), ["fits"]);
}

#[test]
fn another_payload_takes_the_place_of_the_one_that_was_never_written() {
    let guest = enrolled();
    for byte in 1..9 {
        guest.put("dbx", &hashes(byte));
        let set = format!("dbx={}", guest.path("dbx").display());
        vmseal(&guest, &["reseal", "--yes", "--set", &set]).ok();
        assert_eq!(approved(&guest), 2);
    }
    run(&mut guest.command(&["journal", "--verify"])).ok();
}

#[test]
fn the_configuration_may_allow_what_somebody_vouches_for() {
    let guest = enrolled();
    let path = payload(&guest);
    let set = format!("db={path}");
    guest.put("etc/vmseal/reseal.conf", b"secure-boot = vouched\n");
    vmseal(&guest, &["reseal", "--unattended", "--set", &set]).code(20).says("vouched by nobody");
    let md5 = run(std::process::Command::new("md5sum").arg(&path)).ok().stdout;
    let sum = md5.split(' ').next().unwrap();
    guest.put("var/lib/dpkg/info/fwupd.md5sums", format!("{sum}  usr/share/dbx.bin\n").as_bytes());
    let status =
        b"Package: fwupd\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.0\n";
    guest.put("var/lib/dpkg/status", status);
    let said = vmseal(&guest, &["reseal", "--unattended", "--json", "--set", &set]).ok().json();
    let artifacts = said["artifacts"].as_object().unwrap();
    let (name, artifact) = artifacts.iter().next().unwrap();
    assert!(name.starts_with("db=/"), "{name}");
    assert_eq!(artifact["voucher"], "vouched by package fwupd 2.0");
}

#[test]
fn what_the_firmware_has_by_now_is_approved() {
    let mut guest = enrolled();
    let appended = variables(APPENDED);
    write_variable(&guest, PolicyVariable::Db, appended.get(PolicyVariable::Db));
    let ran = vmseal(&guest, &["reseal", "--unattended"]).code(20);
    ran.says("Secure Boot or its keys changed");
    // Who logs in before the reboot is told.
    let message = fs::read_to_string(guest.path("run/motd.d/vmseal-next")).unwrap();
    assert!(message.contains("may ask for the passphrase: not approved: Secure Boot"), "{message}");
    assert!(message.ends_with("vmseal reseal\n"), "{message}");
    let ran = vmseal(&guest, &["reseal", "--yes"]).ok();
    assert!(ran.stderr.contains("vmseal:   + certificate "), "{ran:#?}");
    assert!(ran.stderr.contains("PCR 7  db: 1 certificates"), "{ran:#?}");
    assert!(!guest.path("run/motd.d/vmseal-next").exists());
    vmseal(&guest, &["reseal", "--unattended"]).ok();
    boot(&mut guest, APPENDED);
    assert!(guest.boot_step());
}

/// A variable that is gone from efivarfs is measured empty, and one that cannot be read is no reason to
/// guess.
#[test]
fn deleted_and_unreadable_variables_are_not_taken_for_what_they_were() {
    let guest = enrolled();
    fs::remove_file(efivar(&guest, PolicyVariable::Kek)).unwrap();
    let ran = vmseal(&guest, &["reseal", "--dry-run"]).ok();
    assert!(ran.stdout.contains("Secure Boot variable KEK:\n  - certificate "), "{ran:#?}");
    fs::write(efivar(&guest, PolicyVariable::Kek), [1]).unwrap();
    vmseal(&guest, &["reseal", "--yes"]).refused(3).says("KEK-8be4df61");
}

#[test]
fn a_payload_or_variable_that_changes_while_somebody_is_asked_is_not_approved() {
    let guest = enrolled();
    let path = payload(&guest);
    let db = efivar(&guest, PolicyVariable::Dbx);
    let before = guest.machine.image.snapshot();
    for meanwhile in [format!("printf x >>'{path}'"), format!("printf x >>'{}'", db.display())] {
        let command = guest.command(&["reseal", "--set", &format!("db={path}")]);
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let words: Vec<String> =
            words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        let script = format!(
            "(sleep 4; {meanwhile}; echo y; sleep 1) | script -qec \"{}\" /dev/null",
            words.join(" ")
        );
        let ran = run(std::process::Command::new("sh").args(["-c", &script])).code(20);
        assert!(ran.stdout.contains("changed since it was shown"), "{ran:#?}");
        assert_eq!(guest.machine.image.snapshot(), before);
        payload(&guest);
    }
}

#[test]
fn what_is_no_variable_or_no_payload_is_refused_by_name() {
    let guest = enrolled();
    let path = payload(&guest);
    for name in ["MokList", "boot/vmlinuz", "db:other", "gpt", "cmdline"] {
        let set = format!("{name}={path}");
        vmseal(&guest, &["reseal", "--yes", "--set", &set]).refused(2).says("expected db, dbx");
    }
    vmseal(&guest, &["reseal", "--yes", "--set", "db"]).refused(2).says("expected db, dbx");
    guest.put("text", b"no lists");
    let set = format!("db={}", guest.path("text").display());
    vmseal(&guest, &["reseal", "--yes", "--set", &set]).refused(3).says("signature list");
}

/// A dbx that forbids what boots is shown as what it is.
#[test]
fn a_payload_that_forbids_the_image_that_boots_is_called_out() {
    let guest = enrolled();
    let log = EventLog::parse(&guest.next_log()).unwrap();
    let image = log
        .events()
        .iter()
        .find(|event| event.pcr == 4 && event.data().to_string().starts_with("image"));
    let digest = image.unwrap().digest(PcrBank::Sha256).unwrap();
    let entry = [&[0; 16], digest.as_bytes()].concat();
    let list = SignatureList::new(Guid::from_bytes(CERT_SHA256), &[&entry]).unwrap();
    guest.put("dbx", &SignatureLists::from(vec![list]).to_bytes());
    let set = format!("dbx={}", guest.path("dbx").display());
    let ran = vmseal(&guest, &["reseal", "--dry-run", "--set", &set]).ok();
    assert!(ran.stdout.contains("WARNING: dbx forbids image "), "{ran:#?}");
}
