//! What the firmware measures before it starts anything: its own code (PCR 0), the machine (PCR 1),
//! Secure Boot (PCR 7), the partition table (PCR 5).

use super::plan::{Planned, pcr};
use super::tally::Unpredictable;
use crate::artifact::efivar::{PolicyVariable, PolicyVariables};
use crate::artifact::mok::is_shim_state;
use crate::artifact::qemu_kernel::{MachineType, QemuMachine};
use crate::measurement::{Event, EventData, EventLog, EventType, PcrBank};

/// What changes about the machine and its firmware.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Another firmware than that of the boot that ran.
    pub firmware: bool,
    /// Its amount of memory, in MiB.
    pub memory: Option<u64>,
    /// The same of the boot that ran, where that is known.
    pub memory_of_base: Option<u64>,
    /// Another number of processors.
    pub processors: Option<u32>,
    /// Version of QEMU, as major and minor.
    pub qemu: Option<(u32, u32)>,
    /// Variables of Secure Boot, where they change.
    pub policy: Option<PolicyVariables>,
    /// The payloads that variables come from, by [`Target::artifact`]; the others are those that the
    /// firmware has.
    ///
    /// [`Target::artifact`]: crate::artifact::variable_update::Target::artifact
    pub payloads: Vec<(PolicyVariable, String)>,
    /// What shim or its MokManager was asked to change, with the PCR that it is measured into.
    pub shim_requests: Vec<(&'static str, u8)>,
    /// Data of the event of the partition table, where that changes.
    pub partitions: Option<Vec<u8>>,
}

/// PCRs that cannot be told because of what changes about the machine.
pub(super) fn open(log: &EventLog, machine: &Machine) -> Vec<Unpredictable> {
    let mut open = Vec::new();
    let mut add = |number: u8, event: &str, why: &str| {
        open.push(Unpredictable { pcr: pcr(number), event: event.into(), why: why.into() });
    };
    for (request, number) in
        machine.shim_requests.iter().filter(|_| log.events().iter().any(is_shim_state))
    {
        add(*number, "shim's variables", &format!("{request} asks for a change in the next boot"));
    }
    if machine.firmware {
        add(0, "firmware code", "another firmware; its code in memory is known once it has run");
        add(1, "configuration tables", "another firmware");
        add(2, "drivers", "another firmware may start other drivers");
    }
    let is_same =
        |memory: &u64| machine.memory_of_base == Some(*memory) || is_memory_of_base(log, *memory);
    let memory = machine.memory.filter(|memory| !is_same(memory));
    let what = match (memory, machine.processors) {
        (None, None) => return open,
        (Some(_), None) => "another amount of memory",
        (None, Some(_)) => "another number of processors",
        (Some(_), Some(_)) => "another amount of memory and number of processors",
    };
    add(1, "configuration tables", what);
    // Before 2025.02 the volume with the early code holds what depends on both.
    if edk2_release(log).is_none_or(|release| release < (2025, 2)) {
        add(0, "firmware code", what);
    }
    open
}

/// Bytes below the end of low memory in which EDK II places the first images that it loads, less
/// what it keeps for itself there: about 40 MiB.
const TOP: u64 = 64 << 20;

/// Whether the boot that ran had this much memory, in MiB, as far as that decides where images lie:
/// the firmware loads the first ones right below the end of low memory.
fn is_memory_of_base(log: &EventLog, memory: u64) -> bool {
    let Some(memory) = memory.checked_mul(1 << 20) else { return false };
    let end = QemuMachine { kind: MachineType::Q35, memory }.low_memory();
    let images = log.events().iter().filter_map(|event| match event.data() {
        EventData::Image { location, length, .. } if event.pcr == 4 => location.checked_add(length),
        _ => None,
    });
    let highest = images.max();
    highest.is_some_and(|highest| highest <= end && end - highest <= TOP)
}

/// Year and month of the EDK II release that the firmware calls itself after: `2025.02-8+deb13u1`,
/// `edk2-20250221-8.fc42`.
pub(super) fn edk2_release(log: &EventLog) -> Option<(u32, u32)> {
    let mut versions = log.events().iter().filter_map(|event| match event.data() {
        EventData::CrtmVersion { version } if event.pcr == 0 => Some(version.as_str().to_owned()),
        _ => None,
    });
    let version = versions.next()?;
    let start = version.find("20")?;
    let digits: String = version.get(start..)?.chars().filter(|c| *c != '.').take(6).collect();
    let (year, month) = digits.split_at_checked(4)?;
    let (year, month) = (year.parse().ok()?, month.parse().ok()?);
    ((2000..2100).contains(&year) && (1..=12).contains(&month)).then_some((year, month))
}

/// The events of Secure Boot's variables, in place of those of the log.
pub(super) fn policy(
    policy: &PolicyVariables,
    payloads: &[(PolicyVariable, String)],
    banks: &[PcrBank],
) -> Vec<Planned> {
    // One word a payload: its name has no space.
    let source = |variable| {
        let own = payloads.iter().filter(|(of, _)| *of == variable).map(|(_, name)| name.as_str());
        let own: Vec<&str> = own.collect();
        if own.is_empty() { "firmware variables".to_owned() } else { own.join(" ") }
    };
    let measured = policy.measured_each(banks).into_iter();
    measured
        .map(|(variable, measured)| Planned {
            pcr: measured.pcr,
            what: measured.words,
            digests: Ok(measured.digests),
            source: Some(source(variable)),
        })
        .collect()
}

/// The event of a partition table, in place of that of the log.
pub(super) fn partitions(data: &[u8], banks: &[PcrBank]) -> Planned {
    let event = Event {
        number: 0,
        pcr: 5,
        event_type: EventType::EfiGptEvent,
        digests: Vec::new(),
        raw: data.to_vec(),
    };
    Planned {
        pcr: pcr(5),
        what: event.data().to_string(),
        digests: Ok(banks.iter().map(|bank| bank.hash(data)).collect()),
        source: Some("partition table".to_owned()),
    }
}
