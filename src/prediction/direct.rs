//! A kernel that the host gives the firmware: QEMU's `-kernel`, `-initrd` and `-append`.

use super::EntryPrediction;
use super::account::{Account, Fate, LOAD_OPTIONS};
use super::artifacts::{Artifacts, Joint};
use super::firmware::{Machine, edk2_release};
use super::plan::{Planned, agrees, pcr};
use super::type1::{hashed, utf16_with_nul};
use crate::artifact::qemu_kernel::{KernelBlob, MachineType, QemuKernel, QemuMachine};
use crate::artifact::{Found, Volume};
use crate::measurement::{Digest, Event, EventLog, EventType, PcrBank, Tag};

/// The name by which the kernel of the host is known here; EDK II has the same.
pub const KERNEL: &str = "/kernel";
/// The same of the initrd.
pub const INITRD: &str = "/initrd";
/// What stands for a file where a command line that was given was measured.
pub const GIVEN_LINE: &str = "command line";

/// Whether the firmware gets the kernel as it is. `None` where that cannot be told.
///
/// QEMU writes into the kernel's header unless the firmware asks for the file as it is
/// (`etc/boot/kernel`), which takes EDK II 2025.02 and QEMU 10.0; the latter is taken for granted.
fn is_handed_over_unpatched(log: &EventLog, machine: &Machine) -> Option<bool> {
    if machine.qemu.is_some_and(|qemu| qemu < (10, 0)) {
        return Some(false);
    }
    match edk2_release(log) {
        Some(release) => Some(release >= (2025, 2)),
        // EDK II measures what QEMU gives as ACPI tables since 2023.02.
        None if !log.events().iter().any(is_acpi_data) => Some(false),
        None => None,
    }
}

fn is_acpi_data(event: &Event) -> bool {
    event.pcr == 1 && event.event_type == EventType::PlatformConfigFlags
}

/// The kernel's image.
pub(super) fn kernel(
    artifacts: &Artifacts<'_>,
    log: &EventLog,
    machine: &Machine,
    cmdline: Option<&str>,
    event: &Event,
) -> Planned {
    let carried = Planned::carried(event, pcr(4));
    let plain = artifacts.image_measurement(Volume::Esp, KERNEL);
    let plain = Planned { what: carried.what.clone(), ..plain };
    let is_as_logged = plain.digests.as_ref().is_ok_and(|digests| agrees(event, digests));
    let is_given = |path| !matches!(artifacts.files().find(Volume::Esp, path), Ok(None));
    // Only a kernel that is given again shows that its header was left alone.
    if is_given(KERNEL) && is_as_logged || is_handed_over_unpatched(log, machine) == Some(true) {
        return plain;
    }
    let is_new_initrd = is_given(INITRD) && !is_initrd_as_logged(artifacts, log);
    let is_same_kernel = !is_given(KERNEL);
    if is_same_kernel && !is_new_initrd && machine.memory.is_none() {
        return carried;
    }
    let digests = if is_handed_over_unpatched(log, machine) == Some(false) {
        patched(artifacts, machine, cmdline.unwrap_or_default())
    } else {
        Err("neither the log nor --qemu tells whether QEMU writes into the kernel's header"
            .to_owned())
    };
    Planned { digests, source: Some(KERNEL.to_owned()), ..carried }
}

/// The digest of a kernel into whose header QEMU has written where the initrd lies.
fn patched(
    artifacts: &Artifacts<'_>,
    machine: &Machine,
    cmdline: &str,
) -> Result<Vec<Digest>, String> {
    let needed = "QEMU writes the place of the initrd into the kernel's header: the bytes of kernel \
                  and initrd and --mem are needed";
    let find = |path| artifacts.files().find(Volume::Esp, path).map_err(|error| error.to_string());
    let (kernel, memory) = match (find(KERNEL)?, machine.memory) {
        (Some(Found::Bytes(kernel)), Some(memory)) => (kernel, memory),
        _ => return Err(needed.to_owned()),
    };
    let initrd = match find(INITRD)? {
        Some(Found::Bytes(initrd)) => Some(initrd.len()),
        Some(Found::Digests(known)) => Some(known.size.ok_or(needed)?),
        None => return Err(needed.to_owned()),
    };
    let memory = memory.checked_mul(1 << 20).ok_or("more memory than there is")?;
    let machine = QemuMachine { kind: MachineType::Q35, memory };
    let patched =
        QemuKernel::new(kernel.as_ref(), KernelBlob::Patched, machine, cmdline.as_bytes(), initrd);
    let patched = patched.map_err(|error| error.to_string())?;
    let pending = patched.image().map_err(|error| error.to_string())?;
    let measured = artifacts.measure(&[pending]).map_err(|error| error.to_string())?;
    Ok(measured.into_iter().flat_map(|measured| measured.digests).collect())
}

fn is_initrd_as_logged(artifacts: &Artifacts<'_>, log: &EventLog) -> bool {
    let event = log.events().iter().find(|event| event.data().has_tag(Tag::LinuxInitrd));
    let new = artifacts.plain(Volume::Esp, INITRD);
    event.is_some_and(|event| new.is_ok_and(|new| agrees(event, &new.digests)))
}

/// The kernel's own words: `cmdline` is what QEMU was given with `-append`.
pub(super) fn words(
    artifacts: &Artifacts<'_>,
    event: &Event,
    cmdline: Option<&str>,
    has_initrd: bool,
) -> Planned {
    let carried = Planned::carried(event, pcr(9));
    if event.data().has_tag(Tag::LinuxInitrd) {
        let joined = artifacts.joined(Volume::Esp, &[INITRD.to_owned()], Joint::Plain);
        let from_log = joined.as_ref().is_ok_and(|joined| joined.from_log);
        let source = (!from_log).then(|| INITRD.to_owned());
        return Planned { digests: joined.map(|joined| joined.digests), source, ..carried };
    }
    match cmdline {
        Some(text) if event.data().has_tag(Tag::LoadOptions) => {
            let whole = with_initrd(text, has_initrd);
            let digests = Ok(hashed(artifacts.banks(), &utf16_with_nul(&whole)));
            let what = format!("{LOAD_OPTIONS}{whole}");
            Planned { what, digests, source: Some(GIVEN_LINE.to_owned()), ..carried }
        }
        _ => carried,
    }
}

/// PCR 9 of a boot that differs from `entry` in nothing but the command line. `None` where that
/// does not follow: no host gave the kernel, or the line decides more than its own digest.
pub fn pcr_9_with(entry: &EntryPrediction, bank: PcrBank, cmdline: &str) -> Option<Digest> {
    let options = |account: &&Account| account.what.starts_with(LOAD_OPTIONS);
    let of_pcr_9 = || entry.events.iter().filter(|account| account.pcr == pcr(9));
    let [before] = of_pcr_9().filter(options).collect::<Vec<_>>()[..] else { return None };
    // QEMU writes the video mode into the kernel's header.
    let is_plain = ![cmdline, &before.what].iter().any(|text| text.contains("vga="));
    let has_initrd = of_pcr_9().any(|account| account.source.as_deref() == Some(INITRD));
    let is_open = entry.unpredictable.iter().any(|open| open.pcr == pcr(9));
    if !is_plain || !has_initrd || is_open {
        return None;
    }
    let whole = bank.hash(&utf16_with_nul(&with_initrd(cmdline, has_initrd)));
    let mut measured = of_pcr_9().filter(|account| account.fate != Fate::Gone);
    measured.try_fold(pcr(9).reset_value(bank), |value, account| {
        let new = account.new.as_ref().ok()?;
        let digest = new.iter().find(|digest| digest.bank() == bank)?;
        let digest = if options(&account) { &whole } else { digest };
        Some(value.extended_with(digest.as_bytes()))
    })
}

/// OVMF adds ` initrd=initrd` where there is one; `/proc/cmdline` of the guest has it already.
fn with_initrd(text: &str, has_initrd: bool) -> String {
    match has_initrd && !text.ends_with("initrd=initrd") {
        true => format!("{text} initrd=initrd"),
        false => text.to_owned(),
    }
}
