//! Volumes that are sealed to literal values: a keyslot of its own for each boot, for which their
//! passphrase is needed.

use vmseal::Error;
use vmseal::boot::{self, Approvals};
use vmseal::enroll::{self, To, With};
use vmseal::luks::Device;
use vmseal::measurement::diff::Expected;
use vmseal::reseal::{Approved, Kind, NewBoot};
use vmseal::secret::VolumeKey;
use vmseal::tpm::Tpm;

use super::signed::Approving;
use crate::cli::Global;
use crate::commands::account::{self, Sealing};
use crate::commands::inputs;
use crate::commands::keeper::{Announced, Keeper};
use crate::commands::terminal::{self, Talk};

/// Seals a keyslot to each boot that was approved, and removes those of boots that lost approval.
///
/// # Errors
/// [`Error::NoPassphrase`], those of [`enroll::apply`] and of revoking.
pub fn seal(approving: &Approving<'_>, tpm: &Tpm) -> Result<(), Error> {
    let (target, plan) = (&approving.work.target, &approving.work.plan);
    let mut device = Device::open(&target.device, None)?;
    let keeper = approving.keeper();
    if plan.new_boots().next().is_some() {
        let prompt = format!("Passphrase of {}: ", target.device.display());
        drop(device);
        let file = approving.args.unlock_key_file.as_deref();
        let passphrase = terminal::passphrase(file, &prompt)?;
        device = Device::open(&target.device, None)?;
        let (opened, key) = device.open_keyslot(None, &passphrase)?;
        drop(passphrase);
        for (boot, new) in plan.new_boots() {
            let name = Some(boot.entry.as_str());
            let opened = (opened, &key);
            seal_one(approving, (&mut device, opened), tpm, keeper.as_ref(), (name, new))?;
        }
    }
    if plan.retired.is_empty() {
        return Ok(());
    }
    let announced = keeper.as_ref().map(|keeper| {
        let names: Vec<_> = plan.retired.iter().map(Approved::name).collect();
        keeper.announce(Kind::Revoke, serde_json::json!({ "boots": names }), |_| ())
    });
    let announced = announced.transpose()?;
    retire(approving.global, &mut device, &plan.retired, announced.as_ref(), approving.talk)
}

/// Removes the keyslots of boots that lost approval, and then the boots from the state: after power
/// loss in between, the next run finds them there and goes on.
///
/// # Errors
/// Those of [`enroll::retire`].
pub fn retire(
    global: &Global,
    device: &mut Device,
    retired: &[Approved],
    announced: Option<&Announced<'_>>,
    talk: Talk,
) -> Result<(), Error> {
    let mut removed = vec![];
    for entry in retired {
        let Some(keyslot) = entry.keyslot else { continue };
        let head = announced.map(Announced::head);
        match enroll::retire(device, keyslot, &entry.policy_hash, head) {
            // Gone already: its number may be another's by now.
            Ok(None) => continue,
            Ok(Some(_)) => {}
            Err(error) => {
                if let Some(announced) = announced {
                    announced.refuse(&error, |_| ());
                }
                return Err(error);
            }
        }
        inputs::forget_expected(global, keyslot, talk);
        talk.prose(format_args!("removed keyslot {keyslot}: {}", entry.name()));
        removed.push(keyslot);
    }
    if let Some(announced) = announced {
        let body = serde_json::json!({ "keyslots": removed });
        announced.conclude(Kind::Apply, body, |volume| {
            retired.iter().for_each(|entry| volume.withdraw(entry));
        });
    }
    Ok(())
}

fn seal_one(
    approving: &Approving<'_>,
    (device, opened): (&mut Device, (u32, &VolumeKey)),
    tpm: &Tpm,
    keeper: Option<&Keeper>,
    (name, new): (Option<&str>, &NewBoot),
) -> Result<(), Error> {
    let plan = &new.next.plan;
    let bank = plan.values.bank();
    let expected = Expected::new(bank, plan.policy_digest().to_string(), new.next.notes.clone());
    let sealing = Sealing {
        plan,
        entry: name,
        expected: Some(&expected),
        artifacts: approving.shown.artifacts.of(new),
        kind: Kind::Approval,
    };
    let body = serde_json::json!({ "how": approving.approval.name(), "entry": name });
    let announced = keeper.map(|keeper| sealing.announce(keeper, body, device.metadata()));
    let announced = announced.transpose()?;
    let approvals = Approvals::default();
    let with = With {
        pins: &approving.global.pins,
        extra: &[],
        pin: None,
        approvals: &approvals,
        journal_head: announced.as_ref().map(Announced::head),
        signatures: None,
        replaced: None,
    };
    let enrolled = enroll::apply(device, opened, To::Tpm(tpm), plan, &with);
    if let Some(announced) = &announced {
        account::conclude(announced, plan, enrolled.as_ref());
    }
    let enrolled = enrolled?;
    if let Some(folder) = inputs::own_expected_folder(approving.global)
        && let Err(error) = boot::write_expected(folder, enrolled.keyslot, &expected)
    {
        approving.talk.remark(format_args!("cannot keep this boot's events: {error}"));
    }
    approving.talk.prose(format_args!(
        "sealed keyslot {} to {}",
        enrolled.keyslot,
        name.unwrap_or("the next boot")
    ));
    Ok(())
}
