//! What the journal and the state are told of an enrolment.

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::enroll::{Enrolled, Plan};
use vmseal::luks::Metadata;
use vmseal::reseal::{Approved, Kind, Standing, VolumeState};

use super::inputs;
use super::keeper::{Announced, Keeper};
use crate::cli::Global;

/// Puts into the journal what is about to be sealed, `body`, and into the state that it is approved.
///
/// # Errors
/// [`Error::Store`]: then it must not be sealed.
pub fn announce<'a>(
    keeper: &'a Keeper,
    plan: &Plan,
    mut body: Value,
    recovery_key: bool,
    metadata: &Metadata,
) -> Result<Announced<'a>, Error> {
    let there = metadata.keyslots();
    let policy = if plan.authority.is_some() { "authority" } else { "pcr" };
    if let Some(body) = body.as_object_mut() {
        body.insert("policy".into(), policy.into());
        body.insert("recovery_key".into(), recovery_key.into());
    }
    keeper.announce(Kind::Enroll, body, |volume| {
        volume.retain_keyslots(|keyslot| there.iter().any(|slot| slot.id == keyslot));
        volume.authority = plan.authority.as_ref().map(|key| key.fingerprint().to_string());
        let generation = volume.generation.saturating_add(1);
        volume.approve(Approved::new(plan.policy_digest(), plan.values.clone(), generation));
    })
}

/// Puts into the journal how it ended, and into the state what was made.
pub fn conclude(
    global: &Global,
    announced: &Announced<'_>,
    plan: &Plan,
    enrolled: Result<&Enrolled, &Error>,
) {
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
        volume.retain_keyslots(|keyslot| !superseded.contains(&keyslot));
        if let Some(entry) = volume.entry_mut(&policy, &plan.values) {
            entry.keyslot = Some(*keyslot);
            entry.standing = if *proven { Standing::Confirmed } else { Standing::New };
            entry.expected = inputs::own_expected_folder(global)
                .map(|folder| folder.join(format!("expected-{keyslot}.json")))
                .map(|path| path.to_string_lossy().into_owned());
        }
    });
}
