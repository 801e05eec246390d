//! On a host: the key of a template. It is replaced in two steps, so that no machine is locked out: both
//! keys sign until it is said that every machine is enrolled with the new one.

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::artifact::hashing::Memory;
use vmseal::authority::{AuthorityError, Holder, Store};
use vmseal::policy::{AuthorityKey, SigningKey};
use vmseal::reseal::{Kind, Store as Journal};
use vmseal::template::Templates;

use super::{key_json, store_of_template, tell_made, tell_whether_encrypted};
use crate::cli::{Global, NewKey};
use crate::commands::Done;
use crate::commands::keeper::note_template;
use crate::commands::reseal::{TemplateWork as Work, count};
use crate::commands::terminal::Talk;

/// Where it lies is for whoever runs the host to decide: a host has no disk that a TPM opens for it.
pub fn init(global: &Global, name: &str, args: &NewKey, talk: Talk) -> Done {
    let store = store_of_template(global, name, args.key.as_deref())?;
    require_no_image(&store, args, talk)?;
    let key = SigningKey::generate().map_err(AuthorityError::from).map_err(Error::from)?;
    store.init(&Holder::Template(name.to_owned()), &key).map_err(Error::from)?;
    tell_made(&store, key.public(), talk);
    tell_whether_encrypted(&store, talk);
    Ok(())
}

/// Tells of the key, and of the one before it while that still signs.
pub fn show(store: &Store, name: &str, talk: Talk) -> Done {
    let keys = store.keys_of(name).map_err(Error::from)?;
    let (key, old) = (keys.present().public(), keys.old().map(SigningKey::public));
    if talk.json {
        let mut object = to_json(store, name, key, old);
        if let Some(object) = object.as_object_mut() {
            object.insert("encrypted".into(), store.is_encrypted().into());
        }
        talk.object(&object);
    }
    talk.prose(format_args!("authority key {}", store.path().display()));
    talk.prose(format_args!("fingerprint {}", key.fingerprint()));
    talk.prose(format_args!("template {name}"));
    tell_whether_encrypted(store, talk);
    if let Some(old) = old {
        tell_old(store, name, old, talk);
    }
    Ok(())
}

/// Puts a new key in the place of the present one, which stays beside it and goes on signing.
pub fn rotate(global: &Global, name: &str, args: &NewKey, talk: Talk) -> Done {
    let _alone = Journal::below(&global.root).alone().map_err(Error::from)?;
    let templates = Templates::below(&global.root);
    // One that a mistake in its template keeps from being read may have leaked all the same.
    let named = templates.read(name).ok().and_then(|template| template.authority);
    let store = store_of_template(global, name, args.key.as_deref().or(named.as_deref()))?;
    require_no_image(&store, args, talk)?;
    let old = store.rotatable(name).map_err(Error::from)?;
    let account = templates.account(name).map_err(Error::from)?;
    let (machines, boots) = match account.pkfp == old.fingerprint().to_string() {
        true => (account.vms.len(), account.boots().len()),
        false => (0, 0),
    };
    let key = SigningKey::generate().map_err(AuthorityError::from).map_err(Error::from)?;
    let body = json!({
        "pkfp": key.public().fingerprint().to_string(), "old_pkfp": old.fingerprint().to_string(),
        "still_open": { "machines": machines, "boots": boots },
    });
    let head = note_template(global, Kind::Rotate, name, body, talk)?;
    let rotated = store.rotate_template(name, &key);
    let (kind, body) = match &rotated {
        Ok(_) => (Kind::Apply, json!({ "of": head.seq })),
        Err(error) => (Kind::Refusal, json!({ "of": head.seq, "cause": error.to_string() })),
    };
    if let Err(error) = note_template(global, kind, name, body, talk) {
        talk.remark(format_args!("WARNING: how it ended is not in the journal: {error}"));
    }
    let old = rotated.map_err(Error::from)?;
    if talk.json {
        let mut object = to_json(&store, name, key.public(), Some(&old));
        if let Some(object) = object.as_object_mut() {
            object.insert("machines".into(), machines.into());
            object.insert("boots".into(), boots.into());
        }
        talk.object(&object);
    }
    talk.prose(format_args!("new authority key {}", store.path().display()));
    talk.prose(format_args!("fingerprint {}", key.public().fingerprint()));
    tell_old(&store, name, &old, talk);
    talk.remark(format_args!(
        "what the old key has signed ({}, {}) opens as before, and so does whatever a holder of that key \
         signs, until a machine is enrolled again and its old keyslot removed; with a copy of its LUKS2 \
         header from before, until it is reencrypted",
        count(machines, "machine"),
        count(boots, "boot"),
    ));
    for step in [
        format!("next: vmseal reseal --template {name}"),
        format!("then give each machine what this prints: vmseal authority export {name}"),
        "in each: vmseal enroll DEVICE --policy authority --authority-public FILE; then vmseal \
         revoke DEVICE --keyslot N, of the old keyslot"
            .to_owned(),
        format!("at last: vmseal authority rotate {name} --finish"),
    ] {
        talk.prose(step);
    }
    Ok(())
}

/// Removes the key before, once it is said that no machine opens by it alone.
pub fn finish(global: &Global, name: &str, yes: bool, talk: Talk) -> Done {
    let _alone = Journal::below(&global.root).alone().map_err(Error::from)?;
    let templates = Templates::below(&global.root);
    let named = templates.read(name).map_err(Error::from)?.authority;
    let store = store_of_template(global, name, named.as_deref())?;
    let work = Work::of(global, &templates, name, &Memory::default(), talk)?;
    let present = work.keys.present().public().clone();
    let (old, files) = work.finish(global, &store, yes, talk)?;
    if talk.json {
        let mut object = to_json(&store, name, &present, None);
        if let Some(object) = object.as_object_mut() {
            object.insert("files".into(), files.into());
        }
        talk.object(&object);
    }
    talk.prose(format_args!("removed the key before, fingerprint {old}"));
    let files = count(files, "file");
    talk.prose(format_args!("template {name}: {files} written, signed by the new key alone"));
    talk.remark("where a machine's old keyslot was not removed, what the old key has signed still opens it, for whoever kept that: vmseal revoke DEVICE --keyslot N in it");
    Ok(())
}

/// Refuses an image from which machines are made, unless told so; then it says so.
fn require_no_image(store: &Store, args: &NewKey, talk: Talk) -> Result<(), Error> {
    match store.require_no_image() {
        Err(error) if !args.allow_unprotected => Err(error.into()),
        Err(error) => {
            talk.remark(format_args!("WARNING: {error}"));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn tell_old(store: &Store, name: &str, old: &AuthorityKey, talk: Talk) {
    talk.prose(format_args!("the key before it is kept in {}", store.old_path().display()));
    talk.prose(format_args!(
        "its fingerprint {}: it signs too, until vmseal authority rotate {name} --finish",
        old.fingerprint()
    ));
}

fn to_json(store: &Store, name: &str, key: &AuthorityKey, old: Option<&AuthorityKey>) -> Value {
    let mut object = key_json(store, key);
    let old =
        old.map(|old| json!({ "path": store.old_path(), "pkfp": old.fingerprint().to_string() }));
    if let Some(object) = object.as_object_mut() {
        object.insert("template".into(), name.into());
        object.insert("old".into(), old.into());
    }
    object
}
