//! Which volumes still open for what a key has signed.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vmseal::authority::Store;
use vmseal::enroll::keyslots_of;
use vmseal::luks::{HeaderCopy, Pins};
use vmseal::policy::AuthorityKey;

use super::inputs;
use super::terminal::Talk;
use crate::cli::{Global, Volume};

/// The volumes that open for what a key has signed.
pub struct Carriers {
    volumes: Vec<Carrier>,
    /// UUIDs of pinned volumes that are not there to be looked at.
    pub unseen: Vec<String>,
}

struct Carrier {
    device: PathBuf,
    uuid: String,
    keyslots: Vec<u32>,
}

impl Carriers {
    /// Looks at every volume of the system, and at `also`.
    pub fn of(global: &Global, key: &AuthorityKey, also: Option<&Volume>) -> Self {
        let also = also.map(|volume| (volume.device.clone(), volume.header.as_deref()));
        let all = inputs::block_devices(global).into_iter().map(|device| (device, None));
        let (mut seen, mut volumes) = (vec![], Vec::<Carrier>::new());
        for (device, header) in also.into_iter().chain(all) {
            let Some((uuid, keyslots)) = look(&device, header, key) else { continue };
            if !keyslots.is_empty() && !volumes.iter().any(|one| one.uuid == uuid) {
                volumes.push(Carrier { device, uuid: uuid.clone(), keyslots });
            }
            seen.push(uuid);
        }
        let pins = Pins::read(&global.pins).unwrap_or_default();
        let unseen = pins.uuids().filter(|uuid| !seen.iter().any(|seen| seen == uuid));
        Self { volumes, unseen: unseen.map(ToOwned::to_owned).collect() }
    }

    /// Says which they are, and what is to be done about them.
    pub fn say(&self, talk: Talk) {
        for Carrier { device, uuid, keyslots } in &self.volumes {
            let keyslots: Vec<_> = keyslots.iter().map(ToString::to_string).collect();
            talk.prose(format_args!(
                "{} ({uuid}) opens for the old key by keyslot {}: enroll it again, then remove the keyslot",
                device.display(),
                keyslots.join(", ")
            ));
        }
        for uuid in &self.unseen {
            talk.prose(format_args!(
                "{uuid} may open for the old key: it is not there to be looked at"
            ));
        }
    }

    /// The volumes, as `--json` tells them.
    pub fn to_json(&self) -> Value {
        let volumes = self.volumes.iter().map(|Carrier { device, uuid, keyslots }| {
            json!({ "device": device, "uuid": uuid, "keyslots": keyslots })
        });
        volumes.collect()
    }

    /// Whether no volume opens for the key, so far as all pinned ones have been looked at.
    fn is_none(&self) -> bool {
        self.volumes.is_empty() && self.unseen.is_empty()
    }
}

/// Removes the key before the present one, once no volume opens for it any more.
pub fn retire_old_key(global: &Global, store: &Store, also: Option<&Volume>, talk: Talk) {
    let Some(old) = store.old() else { return };
    let carriers = Carriers::of(global, &old, also);
    let path = store.old_path();
    if !carriers.is_none() {
        carriers.say(talk);
        talk.prose(format_args!("{} is kept until then", path.display()));
        return;
    }
    match store.forget_old() {
        Ok(()) => talk.prose(format_args!("removed {}: no volume needs it", path.display())),
        Err(error) => talk.remark(format_args!("{} stays: {error}", path.display())),
    }
}

fn look(device: &Path, header: Option<&Path>, key: &AuthorityKey) -> Option<(String, Vec<u32>)> {
    let copy = HeaderCopy::read(device, header).ok()?;
    let metadata = copy.metadata();
    Some((metadata.uuid().to_owned(), keyslots_of(metadata, key)))
}
