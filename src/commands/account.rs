//! What the journal and the state are told of a keyslot that is sealed.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::enroll::{Enrolled, Plan};
use vmseal::luks::Metadata;
use vmseal::measurement::Digest;
use vmseal::measurement::diff::Expected;
use vmseal::reseal::{Approved, Kind, Standing, VolumeState};

use super::keeper::{Announced, Keeper};

/// A keyslot that is about to be sealed.
pub struct Sealing<'a> {
    /// To what.
    pub plan: &'a Plan,
    /// The loader's name for the boot.
    pub entry: Option<&'a str>,
    /// Its events, where they are known.
    pub expected: Option<&'a Expected>,
    /// SHA-256 of the files that were approved with it.
    pub artifacts: BTreeMap<String, Digest>,
    /// What is done.
    pub kind: Kind,
}

impl Sealing<'_> {
    /// Puts into the journal what is about to be done, `body`, and into the state that it is
    /// approved.
    ///
    /// # Errors
    /// [`Error::Store`]: then it must not be sealed.
    pub fn announce<'a>(
        &self,
        keeper: &'a Keeper,
        mut body: Value,
        metadata: &Metadata,
    ) -> Result<Announced<'a>, Error> {
        let (plan, there) = (self.plan, metadata.keyslots());
        let policy = if plan.authority.is_some() { "authority" } else { "pcr" };
        if let Some(body) = body.as_object_mut() {
            body.insert("policy".into(), policy.into());
        }
        let entry = |generation| {
            let mut entry = Approved::new(plan.policy_digest(), plan.values.clone(), generation);
            entry.entry = self.entry.map(ToOwned::to_owned);
            entry.artifacts.clone_from(&self.artifacts);
            entry
        };
        if let Some(expected) = self.expected {
            keeper.keep_events(&entry(0), expected)?;
        }
        keeper.announce(self.kind.clone(), body, |volume| {
            volume.retain_keyslots(|keyslot| there.iter().any(|slot| slot.id == keyslot));
            volume.authority = plan.authority.as_ref().map(|key| key.fingerprint().to_string());
            volume.uncovered = plan.uncovered.iter().map(ToString::to_string).collect();
            volume.approve(entry(volume.generation.saturating_add(1)));
        })
    }
}

/// Puts into the journal how it ended, and into the state what was made.
pub fn conclude(announced: &Announced<'_>, plan: &Plan, enrolled: Result<&Enrolled, &Error>) {
    let policy = plan.policy_digest();
    let enrolled = match enrolled {
        Ok(enrolled) => enrolled,
        Err(error) => {
            return announced.refuse(error, |volume| volume.withdraw_unmade(&policy, &plan.values));
        }
    };
    let Enrolled { keyslot, token, superseded, kept, proven } = enrolled;
    let done = json!({
        "keyslot": keyslot, "token": token, "superseded": superseded, "kept": kept,
        "proven": proven,
    });
    announced.conclude(Kind::Apply, done, |volume: &mut VolumeState| {
        // Signatures of other boots open the new keyslot as they opened the old one.
        if plan.authority.is_some() {
            volume.move_to(&policy, *keyslot);
        }
        volume.retain_keyslots(|keyslot| !superseded.contains(&keyslot));
        if let Some(entry) = volume.entry_mut(&policy, &plan.values) {
            entry.keyslot = Some(*keyslot);
            entry.standing = if *proven { Standing::Confirmed } else { Standing::New };
        }
    });
}
