//! Causes in the firmware, in its variables and in the machine that the host made.

use super::note::Role;
use super::{Change, Findings, described};

/// Secure Boot switched, its keys changed, another signer. The keys that come or go with the switch
/// are no causes of their own.
pub(super) fn secure_boot(found: &mut Findings<'_>) {
    let is_switch = |change: &Change<'_>| {
        change.role() == Role::SecureBoot
            && change.both().is_none_or(|(old, new)| old.text != new.text)
    };
    let mut switch = found.take(is_switch);
    if let Some(now) = switch.first().and_then(|change| change.new) {
        let text =
            format!("Secure Boot was switched {}", now.shown(80).trim_start_matches("SecureBoot "));
        switch.extend(found.take_roles(&[Role::Keys, Role::Authority, Role::ShimPolicy]));
        // With Secure Boot on, systemd-stub starts its kernel by itself; with it off, shim's GRUB
        // does. The firmware then measures no kernel.
        switch.extend(found.take(|change| {
            matches!(change.role(), Role::InnerKernel | Role::MemoryKernel)
                && (change.old.is_none() || change.new.is_none())
        }));
        found.add("secure_boot", &switch, text, None);
        return;
    }
    found.left.extend(switch);
    for change in found.take_roles(&[Role::Keys]) {
        let name = change.note().map(|note| note.key().to_owned()).unwrap_or_default();
        let usual = match name.as_str() {
            "dbx" => Some("after an update of the revocation list"),
            "db" | "KEK" => Some("after an update of the Secure Boot keys"),
            _ => None,
        };
        let text = match change.both() {
            Some((old, new)) if old.text == new.text => {
                format!("the Secure Boot variable {} changed", new.shown(80))
            }
            Some((old, new)) => {
                let now = new.shown(80);
                let value = now.strip_prefix(name.as_str()).unwrap_or(&now);
                format!(
                    "the Secure Boot variable {} became{}",
                    old.shown(80),
                    value.trim_start_matches(':')
                )
            }
            None => format!("the Secure Boot variable {}", described(&change, 80)),
        };
        found.add("keys", &[change], text, usual);
    }
    let signers = found.take_roles(&[Role::Authority]);
    if let Some(change) = signers.first() {
        let text = match (change.old, change.new) {
            (Some(_), Some(_)) => "another key vouches for what was started",
            (None, _) => "one more key vouches for what was started",
            (_, None) => "a key that vouched for what was started does so no more",
        };
        let usual =
            Some("after an update of a boot loader or kernel that is signed by another key");
        found.add("signer", &signers, text.to_owned(), usual);
    }
}

/// Other firmware code, or the same that found another machine.
pub(super) fn firmware(found: &mut Findings<'_>) {
    let mut code = found.take_roles(&[Role::FirmwareVersion, Role::FirmwareCode]);
    // OVMF before 2023 writes the memory map into the code of its early phase before measuring it.
    let regions = |change: &&Change<'_>| change.role() == Role::FirmwareCode;
    let only_early = match code.as_slice() {
        [only] => only.both().is_some_and(|(old, new)| old.text == new.text) && regions(&only),
        _ => false,
    };
    if only_early {
        let text = "one part of the firmware's code differs, the rest is the same".to_owned();
        let usual = Some("with OVMF 2022.11 when memory size or CPU count changed");
        return found.add("machine", &code, text, usual);
    }
    let version = code.iter().find(|change| change.role() == Role::FirmwareVersion);
    let text = match version.and_then(Change::both) {
        Some((old, new)) => {
            let named = |text: String| if text.is_empty() { "(none)".to_owned() } else { text };
            format!(
                "other firmware: version {} instead of {}",
                named(new.shown(60)),
                named(old.shown(60))
            )
        }
        None => "other firmware code".to_owned(),
    };
    if code.is_empty() {
        return;
    }
    // Another build logs other tables, and Secure Boot that is off in another form.
    code.extend(found.take_roles(&[Role::SecureBoot, Role::Machine]));
    found.add("firmware", &code, text, Some("after an update of the host's firmware"));
}

/// Keys and decisions of shim.
pub(super) fn keys_of_shim(found: &mut Findings<'_>) {
    for change in found.take_roles(&[Role::Mok]) {
        let name = change.note().map(|note| note.shown(40)).unwrap_or_default();
        let usual = Some("after mokutil enrolled or removed a key, or after an update of shim");
        found.add("mok", &[change], format!("shim's list of keys {name} changed"), usual);
    }
    for change in found.take_roles(&[Role::ShimPolicy]) {
        let text = described(&change, 80);
        found.add("shim_policy", &[change], text, Some("after an update of shim"));
    }
}

/// What the host gave to the machine: memory, CPUs, devices, boot order, disk.
pub(super) fn machine(found: &mut Findings<'_>) {
    let drivers = found.take_roles(&[Role::Driver]);
    if let Some(change) = drivers.first() {
        let text = super::replaced("a firmware driver or option ROM", change);
        found.add("driver", &drivers, text, Some("when the host gave the machine another device"));
    }
    let tables = found.take_roles(&[Role::Machine]);
    let text = "memory size, CPU count or devices of the machine changed (its tables differ)";
    let usual = Some("when the host's settings of the machine changed");
    found.add("machine", &tables, text.to_owned(), usual);
    let order = found.take_roles(&[Role::BootOrder, Role::BootOption]);
    if let Some(change) = order.first() {
        let text = format!("the firmware's boot options changed: {}", described(change, 60));
        found.add("boot_order", &order, text, Some("when disks were added, or by efibootmgr"));
    }
    let table = found.take_roles(&[Role::PartitionTable]);
    if let Some(change) = table.first() {
        let text = match change.both() {
            Some((old, new)) if old.text == new.text => {
                format!("the {} was changed", new.shown(80))
            }
            _ => described(change, 80),
        };
        found.add("partition_table", &table, text, Some("after a partition was made or resized"));
    }
}
