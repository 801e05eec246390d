//! `vmseal revoke`: removes a keyslot with its tokens, or everything that needs the TPM.

use serde_json::json;
use vmseal::Error;
use vmseal::luks::Device;

use super::terminal::Talk;
use super::{Done, attach, authority, carriers, inputs};
use crate::cli::{Global, Revoke};
use vmseal::enroll::{Target, revoke};

/// Removes, and says what was removed.
pub fn run(global: &Global, args: &Revoke, talk: Talk) -> Done {
    let target = args.keyslot.map_or(Target::Tpm, Target::Keyslot);
    let mut device =
        Device::open(&args.volume.device, args.volume.header.as_deref()).map_err(Error::from)?;
    let key_file = attach::key_file_of(global, &mut device, args.keyslot);
    let revoked = revoke(&mut device, target)?;
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
