//! What a guest measured in one boot.

use std::fs;
use std::process::Command;

use vmseal::measurement::{Digest, EventLog, PcrBank, PcrIndex, PcrValues, replay};

use super::Machine;
use crate::guest::{Boot, Guest};
use crate::hardware::{Hardware, Start};
use crate::workshop::text;

const READ: &str = "cat /sys/kernel/security/tpm0/binary_bios_measurements >/out/log &&
for file in /sys/class/tpm/tpm0/pcr-*/*; do
    bank=${file%/*}
    echo \"${bank##*/pcr-} ${file##*/} $(cat $file)\"
done >/out/pcrs && cat /proc/cmdline >/out/command-line";
/// IMA extends it after the firmware's log has ended.
const IMA: u8 = 10;
/// Where `tests/vm/disk` puts the partition of /boot.
const BOOT_OFFSET: u64 = (2048 + 131_072) * 512;

/// One boot, as the guest saw it.
pub struct Recording {
    /// The firmware's event log.
    pub log: Vec<u8>,
    /// What the PCRs held, by bank.
    pub pcrs: Vec<PcrValues>,
    /// What the kernel was told.
    pub command_line: String,
    /// GRUB's environment block as the boot left it, where GRUB booted.
    pub grubenv: Option<Vec<u8>>,
}

impl Recording {
    /// Boots hardware and reads what it measured. The log is a whole one: it gives the PCRs.
    pub fn of(guest: &Guest, hardware: &Hardware) -> Self {
        let mut console = guest.boot_hardware(hardware, &Boot::new().run(READ));
        console.exits(0);
        console.await_off();
        let log = guest.output("log");
        let pcrs = parse_pcrs(&String::from_utf8(guest.output("pcrs")).unwrap());
        let command_line = String::from_utf8(guest.output("command-line")).unwrap();
        let grubenv = match &hardware.start {
            Start::Disk(disk) => read_grubenv(text(disk)),
            _ => None,
        };
        let recording = Self { log, pcrs, command_line, grubenv };
        recording.replays();
        recording
    }

    /// The PCRs that differ between two boots, IMA's left out.
    pub fn moved(&self, other: &Self) -> Vec<u8> {
        let values = self.pcrs.iter().zip(&other.pcrs);
        let differ = |pcr: &u8| values.clone().any(|(one, two)| get(one, *pcr) != get(two, *pcr));
        (0..16).filter(|pcr| *pcr != IMA).filter(differ).collect()
    }

    fn replays(&self) {
        let replayed = replay(&EventLog::parse(&self.log).unwrap(), None);
        for values in &self.pcrs {
            let from_log = replayed.get(&values.bank()).expect("the log has the TPM's banks");
            for pcr in (0..16).filter(|pcr| *pcr != IMA) {
                assert_eq!(
                    get(from_log, pcr),
                    get(values, pcr),
                    "PCR {pcr} by the log and as read"
                );
            }
        }
    }
}

impl Machine {
    /// Boots it, with a TPM of its own and a copy of its files and variables.
    pub fn record(&self) -> Recording {
        let guest = Guest::bare(&self.path("variables"), self.banks);
        let recording = Recording::of(&guest, &self.hardware());
        let _ = fs::remove_file(self.path("disk.img"));
        recording
    }
}

/// What a PCR holds.
pub fn get(values: &PcrValues, pcr: u8) -> Option<String> {
    Some(hex::encode(values.get(index(pcr))?.as_bytes()))
}

fn index(pcr: u8) -> PcrIndex {
    PcrIndex::new(pcr.into()).unwrap()
}

fn parse_pcrs(lines: &str) -> Vec<PcrValues> {
    let mut banks: Vec<PcrValues> = vec![];
    for line in lines.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let bank: PcrBank = words[0].parse().unwrap();
        let value = Digest::from_hex(bank, &words[2].to_lowercase()).unwrap();
        if banks.last().is_none_or(|values| values.bank() != bank) {
            banks.push(PcrValues::new(bank));
        }
        banks.last_mut().unwrap().set(index(words[1].parse().unwrap()), value);
    }
    assert!(!banks.is_empty(), "the guest showed no PCRs");
    banks
}

fn read_grubenv(disk: &str) -> Option<Vec<u8>> {
    let mut debugfs = Command::new("debugfs");
    debugfs.args(["-R", "cat /grub/grubenv", &format!("{disk}?offset={BOOT_OFFSET}")]);
    let block = debugfs.output().unwrap().stdout;
    (block.len() == 1024).then_some(block)
}
