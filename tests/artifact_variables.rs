//! Variables and partition tables, predicted from their inputs and compared with recorded boots.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vmseal::artifact::authority::{Voucher, authority_events, voucher};
use vmseal::artifact::efivar::{
    LoggedVariable, PolicyVariable, PolicyVariables, is_policy_event, variable_data,
};
use vmseal::artifact::gpt::{gpt_event_data, gpt_measurement};
use vmseal::artifact::mok::is_shim_state;
use vmseal::artifact::signature_list::SignatureLists;
use vmseal::artifact::variable_store::VariableStore;
use vmseal::artifact::variable_update::{Update, Write};
use vmseal::artifact::{Measured, Source};
use vmseal::measurement::{Digest, Event, EventLog, EventType, PcrBank};

const BANK: PcrBank = PcrBank::Sha256;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn log(name: &str) -> EventLog {
    EventLog::parse(&fs::read(fixtures().join("eventlogs").join(name).join("log.bin")).unwrap())
        .unwrap()
}

/// Every recorded boot that has a log, with its folder.
fn logs() -> Vec<(PathBuf, EventLog)> {
    let mut found = vec![];
    for family in fs::read_dir(fixtures().join("eventlogs")).unwrap() {
        for case in fs::read_dir(family.unwrap().path()).unwrap() {
            let folder = case.unwrap().path();
            if let Ok(bytes) = fs::read(folder.join("log.bin")) {
                found.push((folder, EventLog::parse(&bytes).unwrap()));
            }
        }
    }
    assert!(found.len() > 30);
    found
}

fn in_pcr_7(log: &EventLog, wanted: impl Fn(&Event) -> bool) -> Vec<Digest> {
    let events = log.events().iter().filter(|event| event.pcr == 7 && event.extends());
    events.filter(|event| wanted(event)).map(|event| event.digest(BANK).unwrap()).collect()
}

fn digests(measured: &[Measured]) -> Vec<Digest> {
    measured.iter().map(|measured| *measured.digest(BANK).unwrap()).collect()
}

#[test]
fn every_boots_variables_are_measured_again() {
    for (folder, log) in logs() {
        let variables = PolicyVariables::from_log(&log).unwrap();
        let measured = variables.measured(&[BANK]);
        assert_eq!(digests(&measured), in_pcr_7(&log, is_policy_event), "{}", folder.display());
        let words: Vec<String> = log
            .events()
            .iter()
            .filter(|event| is_policy_event(event))
            .map(|event| event.data().to_string())
            .collect();
        let said: Vec<String> = measured.into_iter().map(|measured| measured.words).collect();
        assert_eq!(said, words, "{}", folder.display());
    }
}

/// A signed payload around the lists, as `sign-efi-sig-list -a` writes it. The signature is not
/// looked at.
fn payload(lists: &[u8]) -> Vec<u8> {
    let signature = [0x30, 0x82, 1, 2, 3];
    let mut out = vec![0; 16];
    out.extend((24 + signature.len() as u32).to_le_bytes());
    out.extend([0, 2, 0xf1, 0x0e]);
    out.extend(hex::decode("9dd2af4adf68ee498aa9347d375665a7").unwrap());
    out.extend(signature);
    out.extend(lists);
    out
}

/// The whole of PCR 7: variables, separator, then who vouched for the image.
fn predicted_pcr_7(variables: &PolicyVariables, entry: &[u8]) -> Vec<Digest> {
    let mut all = digests(&variables.measured(&[BANK]));
    all.push(BANK.hash(&[0; 4]));
    all.extend(digests(&authority_events([entry], &[BANK])));
    all
}

#[test]
fn a_certificate_appended_to_db_is_predicted() {
    let (base, appended) = (log("uki-secureboot-db/base"), log("uki-secureboot-db/db-append"));
    let mut variables = PolicyVariables::from_log(&base).unwrap();
    let present = variables.get(PolicyVariable::Db).to_vec();
    let wanted = PolicyVariables::from_log(&appended).unwrap();
    let added = wanted.get(PolicyVariable::Db).strip_prefix(present.as_slice()).unwrap();
    assert_eq!(SignatureLists::parse(added).unwrap().lists().len(), 1);
    let authority = |event: &Event| event.event_type == EventType::EfiVariableAuthority;
    let vouched = base.events().iter().find(|event| authority(event)).unwrap();
    let entry = LoggedVariable::parse(&vouched.raw).unwrap().data;
    // Once with a certificate that is there already, which must be left out.
    for lists in [added.to_vec(), [&present, added].concat()] {
        for payload in [payload(&lists), lists.clone()] {
            let update = Update::parse(&payload);
            let db = update.apply(PolicyVariable::Db, &present, Write::Append).unwrap();
            variables.set(PolicyVariable::Db, db);
            assert_eq!(predicted_pcr_7(&variables, entry), in_pcr_7(&appended, |_| true));
            assert_ne!(predicted_pcr_7(&variables, entry), in_pcr_7(&base, |_| true));
        }
    }
    let replaced = Update::parse(added).apply(PolicyVariable::Db, &present, Write::Replace);
    assert_eq!(replaced.unwrap(), added);
}

#[test]
fn the_event_of_authority_is_the_entry_of_db() {
    for case in ["uki-secureboot-db/base", "uki-secureboot-db/db-append"] {
        let log = log(case);
        let variables = PolicyVariables::from_log(&log).unwrap();
        let db = SignatureLists::parse(variables.get(PolicyVariable::Db)).unwrap();
        let (_, entry) = db.entries().next().unwrap();
        let measured = authority_events([entry], &[BANK]);
        let authority = |event: &Event| event.event_type == EventType::EfiVariableAuthority;
        assert_eq!(digests(&measured), in_pcr_7(&log, authority), "{case}");
        assert_eq!(voucher(&db, &[], None), Voucher::Nobody);
    }
}

/// Debian's snakeoil variables, with the erased rest of the flash.
fn snakeoil() -> Vec<u8> {
    let mut bytes = fs::read(fixtures().join("vars/snakeoil-head.bin")).unwrap();
    bytes.resize(0x84000, 0xff);
    bytes
}

#[test]
fn a_hosts_vars_file_gives_the_variables_that_its_boot_measured() {
    let store = VariableStore::parse(&snakeoil()).unwrap();
    let logged = PolicyVariables::from_log(&log("uki-secureboot-db/base")).unwrap();
    let stored = store.policy(&logged);
    for variable in [PolicyVariable::SecureBoot, PolicyVariable::Pk, PolicyVariable::Kek] {
        assert_eq!(stored.get(variable), logged.get(variable), "{}", variable.name());
        assert!(!stored.get(variable).is_empty());
    }
    assert!(stored.secure_boot());
    // The firmware without Secure Boot measures the keys too, but no such variable.
    let without = store.policy(&PolicyVariables::from_values([]));
    assert_eq!(without.get(PolicyVariable::Pk), stored.get(PolicyVariable::Pk));
    assert!(without.get(PolicyVariable::SecureBoot).is_empty());
}

#[test]
fn an_old_firmware_says_that_secure_boot_is_off_in_one_byte() {
    let old = PolicyVariables::from_log(&log("direct-qemu10.0.2-ovmf2022.11/base")).unwrap();
    assert_eq!(old.get(PolicyVariable::SecureBoot), [0]);
    let new = PolicyVariables::from_log(&log("uki/base")).unwrap();
    assert!(new.get(PolicyVariable::SecureBoot).is_empty());
    assert!(!old.secure_boot() && !new.secure_boot());
    let empty = VariableStore::from_variables(vec![]);
    for base in [old, new] {
        assert_eq!(empty.policy(&base).measured(&[BANK]), base.measured(&[BANK]));
    }
}

#[test]
fn what_a_log_did_not_measure_is_not_believed() {
    let log = log("uki-secureboot-db/base");
    let mut events = log.events().to_vec();
    let db = events.iter().position(|event| is_policy_event(event) && event.raw[32] == b'd');
    events[db.unwrap()].raw = variable_data(PolicyVariable::Db.guid(), "db", b"");
    let forged = EventLog::from_events(log.format().clone(), events.clone());
    let error = PolicyVariables::from_log(&forged).unwrap_err().to_string();
    assert_eq!(error, "the log does not tell the value of db");
    events.remove(db.unwrap());
    let lacking = EventLog::from_events(log.format().clone(), events);
    assert!(PolicyVariables::from_log(&lacking).is_err());
}

#[test]
fn shims_state_is_recognised() {
    let log = log("shim-nosb-deb13/base");
    let of_shim = log.events().iter().filter(|event| is_shim_state(event));
    let words: Vec<String> = of_shim.map(|event| event.data().to_string()).collect();
    assert_eq!(
        words,
        [
            "shim's MokList",
            "shim's MokListX",
            "SbatLevel sbat,1,2021030218\\n",
            "shim's MokListTrusted"
        ]
    );
}

struct Blocks(Vec<u8>);

impl Source for Blocks {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let rest = self.0.get(offset as usize..).ok_or(io::ErrorKind::UnexpectedEof)?;
        let found = rest.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }
}

#[test]
fn every_recorded_partition_table_is_measured_again() {
    let mut compared = 0;
    for (folder, log) in logs() {
        let Ok(blocks) = fs::read(folder.join("inputs/gpt-first-34-sectors.bin")) else { continue };
        let is_gpt = |event: &&Event| event.event_type == EventType::EfiGptEvent;
        let event = log.events().iter().find(is_gpt).unwrap();
        assert_eq!(gpt_event_data(&Blocks(blocks.clone())).unwrap(), event.raw);
        let measured = gpt_measurement(&Blocks(blocks), &[BANK]).unwrap();
        assert_eq!(measured.digest(BANK), event.digest(BANK).as_ref(), "{}", folder.display());
        assert_eq!(measured.words, event.data().to_string());
        compared += 1;
    }
    assert!(compared >= 10, "{compared}");
}
