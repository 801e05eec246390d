//! The volumes that a reseal is about: those that boots are approved for on this machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vmseal::Error;
use vmseal::boot::BootLogs;
use vmseal::coverage::Component;
use vmseal::enroll::{self, Chosen};
use vmseal::luks::HeaderCopy;
use vmseal::measurement::diff::Expected;
use vmseal::measurement::{PcrIndex, PcrSelection, PcrValues};
use vmseal::policy::{AuthorityKey, PolicyDigest};
use vmseal::reseal::{Approved, Plan, Situation, State, Store, VolumeState, Wanted};
use vmseal::tpm::{Tpm, TpmError};

use crate::cli::Global;
use crate::commands::inputs;
use crate::commands::predict::Foreseen;
use crate::commands::terminal::Talk;

/// A volume that boots are approved for.
pub struct Target {
    /// Its UUID.
    pub uuid: String,
    /// Where it is.
    pub device: PathBuf,
    /// What is approved for it.
    pub volume: VolumeState,
    /// The approved boot that was entered last: what the volume is sealed to.
    newest: Approved,
}

impl Target {
    /// Those of `devices`, or all of the state that are there.
    ///
    /// # Errors
    /// [`Error::NothingApproved`], and those of reading a header that was named.
    pub fn all(
        global: &Global,
        devices: &[PathBuf],
        state: &State,
        talk: Talk,
    ) -> Result<Vec<Self>, Error> {
        if !devices.is_empty() {
            let of = |device: &PathBuf| {
                let uuid = HeaderCopy::read(device, None)?.metadata().uuid().to_owned();
                let volume = state.volumes.get(&uuid);
                let target = volume.and_then(|volume| Self::of(&uuid, device, volume));
                target.ok_or(Error::NothingApproved { uuid: Some(uuid) })
            };
            return devices.iter().map(of).collect();
        }
        let mut targets = vec![];
        for (uuid, volume) in &state.volumes {
            match find(global, uuid, volume) {
                Some(device) => targets.extend(Self::of(uuid, &device, volume)),
                None if volume.entries.iter().any(|entry| entry.keyslot.is_some()) => {
                    talk.remark(format_args!("volume {uuid} is not there, and is left as it is"));
                }
                None => {}
            }
        }
        match targets.is_empty() {
            true => Err(Error::NothingApproved { uuid: None }),
            false => Ok(targets),
        }
    }

    fn of(uuid: &str, device: &Path, volume: &VolumeState) -> Option<Self> {
        let newest = volume.entries.iter().rev().find(|entry| entry.keyslot.is_some())?.clone();
        let (uuid, device) = (uuid.to_owned(), device.to_owned());
        Some(Self { uuid, device, volume: volume.clone(), newest })
    }

    /// The keyslot that approved boots open, and its policy.
    pub fn sealed(&self) -> (u32, PolicyDigest) {
        (self.newest.keyslot.unwrap_or_default(), self.newest.policy_hash)
    }

    /// This boot, in the PCRs that the volume is sealed to, under its policy: that of `own` where an
    /// authority approves its boots.
    ///
    /// # Errors
    /// [`Error::NotApproved`] where another key does; those of [`enroll::plan`].
    pub fn this_boot(
        &self,
        own: Option<&AuthorityKey>,
        logs: &BootLogs,
        tpm: &Tpm,
    ) -> Result<enroll::Plan, Error> {
        let selection = self.newest.values.selection();
        let mut pcrs = selection.pcrs.clone();
        pcrs.remove(&PcrIndex::LATCH);
        let live = |selection: &PcrSelection| -> Result<PcrValues, Error> {
            let values = tpm.read_pcrs(std::slice::from_ref(selection))?.pop();
            let values = values.filter(|values| values.selection() == *selection);
            values.ok_or(TpmError::BankInactive { bank: selection.bank }.into())
        };
        let (chosen, bank) = (Chosen::Pcrs(pcrs), selection.bank);
        let plan = enroll::plan(logs, &chosen, bank, &self.uncovered(), live)?;
        let keyslot = self.sealed().0;
        let is_sealed = |plan: &enroll::Plan| {
            let newest = enroll::Plan { values: self.newest.values.clone(), ..plan.clone() };
            newest.policy_digest() == self.newest.policy_hash
        };
        let Some(authority) = &self.volume.authority else {
            // Without its PIN, a further keyslot would open without any.
            return match is_sealed(&plan) {
                true => Ok(plan),
                false if is_sealed(&enroll::Plan { pin: true, ..plan }) => {
                    let device = self.device.display();
                    let reason = format!(
                        "{device} is sealed to literal values with a PIN: run vmseal enroll {device} --pin"
                    );
                    Err(Error::NotApproved { reasons: vec![reason] })
                }
                false => Err(Error::KeyslotGone { keyslot }),
            };
        };
        let own = own.filter(|key| key.fingerprint().to_string() == *authority);
        let Some(own) = own else {
            let reason = format!(
                "the boots of {} are approved by the key {authority}, which is not this machine's",
                self.device.display()
            );
            return Err(Error::NotApproved { reasons: vec![reason] });
        };
        let with = |pin| enroll::Plan { authority: Some(own.clone()), pin, ..plan.clone() };
        let plans = [false, true].map(with);
        plans.into_iter().find(is_sealed).ok_or(Error::KeyslotGone { keyslot })
    }

    /// What would be done.
    ///
    /// # Errors
    /// Those of [`Plan::of`].
    pub fn plan(
        &self,
        global: &Global,
        this: &enroll::Plan,
        logs: &BootLogs,
        foreseen: &Foreseen,
        wanted: &Wanted,
    ) -> Result<Plan, Error> {
        let cmdline = inputs::cmdline(global);
        let store = Store::below(&global.root);
        let events = self.volume.entries.iter().filter_map(|boot| store.events(boot));
        let expected: Vec<Expected> = events.collect();
        let situation = Situation {
            volume: &self.volume,
            expected: &expected,
            this,
            logs,
            cmdline: cmdline.as_deref(),
            prediction: &foreseen.prediction,
            before: foreseen.before.as_ref(),
        };
        Plan::of(&situation, wanted)
    }

    /// What was accepted to be uncovered when the volume was enrolled.
    fn uncovered(&self) -> Vec<Component> {
        let named: BTreeSet<&str> = self.volume.uncovered.iter().map(String::as_str).collect();
        let is_named = |component: &Component| named.contains(component.name());
        Component::ALL.into_iter().filter(is_named).collect()
    }
}

/// Where a volume of the state is: where it was last, or elsewhere.
fn find(global: &Global, uuid: &str, volume: &VolumeState) -> Option<PathBuf> {
    let is_it = |device: &PathBuf| {
        HeaderCopy::read(device, None).is_ok_and(|copy| copy.metadata().uuid() == uuid)
    };
    let hint = volume.device.as_ref().map(PathBuf::from).filter(&is_it);
    hint.or_else(|| inputs::block_devices(global).into_iter().find(is_it))
}
