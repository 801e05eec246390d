//! `vmseal revoke`: removes a keyslot with its tokens, or everything that needs the TPM.

use serde_json::json;
use vmseal::Error;
use vmseal::luks::Device;

use super::keeper::{Announced, Keeper};
use super::terminal::Talk;
use super::{Done, attach, authority, carriers, inputs};
use crate::cli::{Global, Revoke};
use vmseal::enroll::{self, Target, revoke};
use vmseal::reseal::{Kind, VolumeState};

/// Removes, and says what was removed.
pub fn run(global: &Global, args: &Revoke, talk: Talk) -> Done {
    let target = args.keyslot.map_or(Target::Tpm, Target::Keyslot);
    let mut device =
        Device::open(&args.volume.device, args.volume.header.as_deref()).map_err(Error::from)?;
    // What cannot be done is not announced.
    enroll::check_revocable(device.metadata(), target)?;
    let keeper = Keeper::of(global, &args.volume.device, device.metadata().uuid(), talk);
    let key_file = attach::key_file_of(global, &mut device, args.keyslot);
    let what = json!({ "keyslot": args.keyslot, "tpm": args.tpm });
    let announced = keeper.as_ref().map(|keeper| keeper.announce(Kind::Revoke, what, |_| ()));
    let announced = announced.transpose()?;
    let revoked = revoke(&mut device, target, announced.as_ref().map(Announced::head));
    let left = device.metadata().keyslots();
    let forget = |volume: &mut VolumeState| {
        volume.retain_keyslots(|keyslot| left.iter().any(|slot| slot.id == keyslot));
    };
    let revoked = match (revoked, &announced) {
        (Ok(revoked), Some(announced)) => {
            let done = json!({ "keyslots": revoked.keyslots, "tokens": revoked.tokens });
            announced.conclude(Kind::Apply, done, forget);
            revoked
        }
        (Err(error), Some(announced)) => {
            announced.refuse(&error, forget);
            return Err(error.into());
        }
        (revoked, None) => revoked?,
    };
    for keyslot in &revoked.keyslots {
        inputs::forget_expected(global, *keyslot, talk);
    }
    if let Some(path) = key_file {
        attach::forget_key_file(&path, talk);
    }
    if talk.json {
        talk.object(&json!({ "keyslots": revoked.keyslots, "tokens": revoked.tokens }));
    }
    for keyslot in &revoked.keyslots {
        talk.prose(format_args!("removed keyslot {keyslot}"));
    }
    for token in &revoked.tokens {
        talk.prose(format_args!("removed token {token}"));
    }
    drop(device);
    let store = authority::store(global, None);
    carriers::retire_old_key(global, &store, Some(&args.volume), talk);
    Ok(())
}
