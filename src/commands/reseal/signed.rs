//! Volumes that open by signatures: what was approved goes on record, then into the header.

use serde_json::json;
use vmseal::Error;
use vmseal::luks::Device;
use vmseal::measurement::diff::Expected;
use vmseal::reseal::{Approved, Kind, Plan, Store, VolumeState};

use super::ask::Approval;
use super::shown::Shown;
use super::{Events, Header, Work};
use crate::cli::{Global, Reseal};
use crate::commands::keeper::{Announced, Keeper};
use crate::commands::terminal::Talk;

/// What was approved for one volume.
pub struct Approving<'a> {
    pub global: &'a Global,
    pub args: &'a Reseal,
    pub work: &'a Work,
    pub shown: &'a Shown<'a>,
    pub approval: Approval,
    pub talk: Talk,
}

impl Approving<'_> {
    /// The keeper of this volume's account.
    pub fn keeper(&self) -> Option<Keeper> {
        self.work.keeper(self.global, self.talk)
    }

    /// The boots as the state has them.
    fn entries(&self, volume: &VolumeState) -> Vec<Approved> {
        let (keyslot, policy) = self.work.target.sealed();
        let generation = volume.generation.saturating_add(1);
        let entry = |(boot, new): (&vmseal::reseal::BootPlan, &vmseal::reseal::NewBoot)| {
            let mut entry = Approved::new(policy, new.next.plan.values.clone(), generation);
            entry.keyslot = Some(keyslot);
            entry.entry = Some(boot.entry.clone());
            entry.artifacts = self.shown.artifacts.of(new);
            entry
        };
        self.work.plan.new_boots().map(entry).collect()
    }

    /// On record first, then in the header: whatever comes between, what opens is on record.
    pub fn sign(&self, header: &Header<'_>) -> Result<(), Error> {
        let (target, plan) = (&self.work.target, &self.work.plan);
        let entries = self.entries(&target.volume);
        let mut device = Device::open(&target.device, None)?;
        let mut then = target.volume.clone();
        change(&mut then, &entries, &plan.retired);
        header.check(&device, &then)?;
        keep_events(self.global, plan, &entries)?;
        let body = self.work.on_record(self.shown, self.approval.name());
        let keeper = self.keeper();
        let announced = keeper.as_ref().map(|keeper| {
            keeper.announce(Kind::Approval, body, |volume| change(volume, &entries, &plan.retired))
        });
        let announced = announced.transpose()?;
        let mut events = Events::default();
        for (entry, (_, new)) in entries.iter().zip(plan.new_boots()) {
            events.insert(entry.id(), new.next.plan.events.clone());
        }
        let head = announced.as_ref().map(Announced::head);
        if let Err(error) = header.write(&mut device, &then, &events, head) {
            if let Some(announced) = &announced {
                announced.refuse(&error, |volume| {
                    entries.iter().for_each(|entry| volume.withdraw(entry));
                    plan.retired.iter().for_each(|entry| volume.approve(entry.clone()));
                });
            }
            return Err(error);
        }
        drop(device);
        header.leave(self.global, &then, &plan.retired, self.talk);
        if let Some(announced) = &announced {
            let (keyslot, _) = target.sealed();
            announced.conclude(Kind::Apply, json!({ "keyslot": keyslot }), |_| ());
        }
        self.report(&entries);
        Ok(())
    }

    fn report(&self, entries: &[Approved]) {
        let device = self.work.target.device.display();
        for entry in entries {
            self.talk.prose(format_args!("approved: {device} opens for {}", entry.name()));
        }
        for entry in &self.work.plan.retired {
            self.talk
                .prose(format_args!("withdrawn: {device} no longer opens for {}", entry.name()));
        }
        if !self.work.plan.retired.is_empty() {
            self.talk.remark("who kept a copy of the header from before can still open it by the boots that were withdrawn, until it is reencrypted");
        }
    }
}

/// Brings the state of a volume to what was approved.
fn change(volume: &mut VolumeState, new: &[Approved], retired: &[Approved]) {
    retired.iter().for_each(|entry| volume.withdraw(entry));
    new.iter().for_each(|entry| volume.approve(entry.clone()));
}

/// What later boots are compared with, before the boots are approved.
fn keep_events(global: &Global, plan: &Plan, entries: &[Approved]) -> Result<(), Error> {
    let store = Store::below(&global.root);
    for (entry, (_, new)) in entries.iter().zip(plan.new_boots()) {
        let (bank, policy) = (entry.values.bank(), entry.policy_hash.to_string());
        let expected = Expected::new(bank, policy, new.next.notes.clone());
        store.keep_events(entry, &expected)?;
    }
    Ok(())
}
