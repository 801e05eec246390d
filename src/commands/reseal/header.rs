//! Brings what the boot reads in line with the state: header, signature file, expected events.

use std::collections::BTreeMap;

use vmseal::Error;
use vmseal::authority::{AuthorityError, leave_signatures};
use vmseal::boot;
use vmseal::enroll::{self, Endorsement, check_endorsable, endorse};
use vmseal::luks::Device;
use vmseal::policy::{AuthorityKey, PolicyDigest, Signatures, SigningKey, verified};
use vmseal::reseal::{Approved, Store, VolumeState};
use vmseal::token::{BootEntry, JournalHead, Record};

use super::target::Target;
use crate::cli::Global;
use crate::commands::inputs;
use crate::commands::terminal::Talk;

/// What a header is to say of a volume whose boots this machine's key approves.
pub struct Header<'a> {
    /// The volume.
    pub target: &'a Target,
    /// This boot, under the volume's policy.
    pub this: &'a enroll::Plan,
    /// The key.
    pub key: &'a SigningKey,
    /// The key before it, while volumes may still open by it.
    pub old: Option<&'a AuthorityKey>,
}

impl Header<'_> {
    /// Refuses, before anything is written, what the header has no room for.
    ///
    /// # Errors
    /// Those of [`check_endorsable`] and of signing.
    pub fn check(&self, device: &Device, volume: &VolumeState) -> Result<(), Error> {
        check_endorsable(device, &self.endorsement(device, volume, None)?)
    }

    /// Writes it. Whether it said something else before.
    ///
    /// # Errors
    /// Those of [`endorse`] and of signing.
    pub fn write(
        &self,
        device: &mut Device,
        volume: &VolumeState,
        events: &Events,
        head: Option<JournalHead>,
    ) -> Result<bool, Error> {
        let mut endorsement = self.endorsement(device, volume, head)?;
        for boot in &mut endorsement.boots {
            boot.events = events.get(&boot.id()).cloned().unwrap_or_default();
        }
        endorse(device, &endorsement)
    }

    /// What others find: signatures of these boots, and none of those that are withdrawn.
    pub fn leave(&self, global: &Global, volume: &VolumeState, gone: &[Approved], talk: Talk) {
        let keys: Vec<_> = [self.key.public()].into_iter().chain(self.old).collect();
        let withdrawn: Vec<PolicyDigest> =
            gone.iter().filter_map(|boot| self.plan(boot).to_be_signed()).collect();
        let left = self.signatures(volume).map(|signatures| {
            leave_signatures(&global.root, &keys, &signatures, &withdrawn)
                .map_err(|error| error.to_string())
        });
        if let Err(error) = left.map_err(|error| error.to_string()).and_then(|left| left) {
            talk.remark(format_args!("cannot leave the signatures in a file: {error}"));
        }
        self.leave_expected(global, volume, talk);
    }

    /// Copies of the expected events, for explanations at boot.
    fn leave_expected(&self, global: &Global, volume: &VolumeState, talk: Talk) {
        let Some(folder) = inputs::own_expected_folder(global) else { return };
        let (keyslot, _) = self.target.sealed();
        let store = Store::below(&global.root);
        let boots = self.boots(volume);
        let ids: Vec<String> = boots.iter().map(|boot| boot.id()).collect();
        let write = |boot: &&Approved| match store.events(boot) {
            Some(events) => boot::write_further_expected(folder, keyslot, &boot.id(), &events),
            None => Ok(()),
        };
        let written = boots.iter().try_for_each(write);
        let swept = written.and_then(|()| boot::keep_further_expected(folder, keyslot, &ids));
        if let Err(error) = swept {
            talk.remark(format_args!(
                "cannot keep the events of approved boots in {}, so that refusals will say less: {error}",
                folder.display()
            ));
        }
    }

    fn endorsement(
        &self,
        device: &Device,
        volume: &VolumeState,
        journal_head: Option<JournalHead>,
    ) -> Result<Endorsement, Error> {
        let (keyslot, policy) = self.target.sealed();
        let boot = |boot: &&Approved| {
            BootEntry::new(keyslot, policy, boot.values.clone(), BTreeMap::new())
        };
        let mut signatures = self.signatures(volume)?;
        if let (Some(old), Some((_, Ok(record)))) =
            (self.old, Record::find(&device.metadata().tokens()))
        {
            signatures.merge(verified(&record.signatures, &[old]));
        }
        let boots = self.boots(volume).iter().map(boot).collect();
        Ok(Endorsement { keyslot, policy, boots, signatures, journal_head })
    }

    /// The approved boots of the keyslot.
    fn boots<'b>(&self, volume: &'b VolumeState) -> Vec<&'b Approved> {
        let (keyslot, policy) = self.target.sealed();
        let is_its = |boot: &&Approved| boot.keyslot == Some(keyslot) && boot.policy_hash == policy;
        volume.entries.iter().filter(is_its).collect()
    }

    /// Signed anew from the state: what the header has is not believed.
    fn signatures(&self, volume: &VolumeState) -> Result<Signatures, Error> {
        let mut all = Signatures::default();
        for boot in self.boots(volume) {
            let plan = self.plan(boot);
            if let (Some(authorization), Some(digest)) = (plan.authorization(), plan.to_be_signed())
            {
                all.merge(self.key.sign(&authorization, digest).map_err(AuthorityError::from)?);
            }
        }
        Ok(all)
    }

    fn plan(&self, boot: &Approved) -> enroll::Plan {
        enroll::Plan { values: boot.values.clone(), ..self.this.clone() }
    }
}

/// The first bytes of the events of boots, by the boots' ids.
pub type Events = BTreeMap<String, BTreeMap<vmseal::measurement::PcrIndex, Vec<[u8; 4]>>>;
