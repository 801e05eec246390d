//! `vmseal authority`: this machine's own key, which approves its boots; on a host, one key a template.

mod template;

use std::path::Path;

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::authority::{self, AuthorityError, Holder, Owner, Store, is_template_name};
use vmseal::policy::{AuthorityKey, SigningKey};
use vmseal::reseal::Kind;
use vmseal::tpm::{Tpm, TpmError};

use super::carriers::Carriers;
use super::keeper::{Scribe, who};
use super::terminal::Talk;
use super::{Done, inputs};
use crate::cli::{Authority, AuthorityCommand, Global, Key, NewKey};

/// Makes, shows or replaces the key.
pub fn run(global: &Global, args: &Authority, talk: Talk) -> Done {
    match &args.command {
        AuthorityCommand::Init(args) => match &args.name {
            Some(name) => template::init(global, name, &args.new, talk),
            None => init(global, &args.new, talk),
        },
        AuthorityCommand::Show(Key { name: Some(name), key }) => {
            template::show(&store_of_template(global, name, key.as_deref())?, name, talk)
        }
        AuthorityCommand::Show(key) => show(global, &store(global, key.key.as_deref()), talk),
        AuthorityCommand::Export(Key { name: Some(name), key }) => {
            let store = store_of_template(global, name, key.as_deref())?;
            print_public(store.of(name).map_err(Error::from)?.public(), talk)
        }
        AuthorityCommand::Export(key) => export(global, &store(global, key.key.as_deref()), talk),
        AuthorityCommand::Rotate(args) => match &args.name {
            Some(name) if args.finish => template::finish(global, name, args.yes, talk),
            Some(name) => template::rotate(global, name, &args.new, talk),
            None => rotate(global, &args.new, talk),
        },
    }
}

/// Where the key is.
pub fn store(global: &Global, key: Option<&Path>) -> Store {
    Store::new(&global.root, key)
}

/// Where the key of a template is.
///
/// # Errors
/// [`AuthorityError::Name`].
pub fn store_of_template(global: &Global, name: &str, key: Option<&Path>) -> Result<Store, Error> {
    match is_template_name(name) {
        true => Ok(Store::of_template(&global.root, name, key)),
        false => Err(AuthorityError::Name { found: name.to_owned() }.into()),
    }
}

/// This machine, by its ID and TPM. A storage root key is made where `create` says so.
///
/// # Errors
/// [`AuthorityError::NoMachineId`], and the TPM's.
pub fn owner(global: &Global, tpm: &Tpm, create: bool) -> Result<Owner, Error> {
    let srk = tpm.srk(create)?;
    if create && srk.is_none() {
        return Err(TpmError::NoSrk.into());
    }
    Ok(Owner::of_machine(&global.root, srk.as_ref().map(|srk| srk.name.as_slice()))?)
}

fn init(global: &Global, args: &NewKey, talk: Talk) -> Done {
    let store = store(global, args.key.as_deref());
    require_protected(&store, args, talk)?;
    let owner = owner(global, &inputs::tpm(global)?, true)?;
    let key = SigningKey::generate().map_err(AuthorityError::from).map_err(Error::from)?;
    store.init(&Holder::Machine(owner), &key).map_err(Error::from)?;
    tell_made(&store, key.public(), talk);
    Ok(())
}

fn tell_made(store: &Store, key: &AuthorityKey, talk: Talk) {
    if talk.json {
        talk.object(&key_json(store, key));
    }
    talk.prose(format_args!("made the authority key {}", store.path().display()));
    talk.prose(format_args!("fingerprint {}", key.fingerprint()));
}

fn tell_whether_encrypted(store: &Store, talk: Talk) {
    if !store.is_encrypted() {
        talk.remark("WARNING: it is not known to be on an encrypted file system");
    }
}

/// Refuses a place for the key that does not protect it, unless told so; then it says so.
fn require_protected(store: &Store, args: &NewKey, talk: Talk) -> Result<(), Error> {
    match store.require_protected() {
        Err(error) if args.allow_unprotected => {
            talk.remark(format_args!(
                "WARNING: {error}. Whoever gets the key can approve any boot of this machine"
            ));
            Ok(())
        }
        other => Ok(other?),
    }
}

fn show(global: &Global, store: &Store, talk: Talk) -> Done {
    let file = store.read().map_err(Error::from)?;
    let of = match &file.holder {
        Holder::Machine(owner) => owner,
        Holder::Template(name) => return template::show(store, name, talk),
    };
    inputs::tcti(global)?;
    // Without a TPM there is still much to tell.
    let machine = inputs::tpm(global).and_then(|tpm| owner(global, &tpm, false));
    let other = machine.as_ref().ok().map(|machine| of.differs_from(machine));
    let (key, old) = (file.key.public(), store.old());
    let carriers = old.as_ref().map(|old| Carriers::of(global, old, None));
    if talk.json {
        let mut object = key_json(store, key);
        if let Some(object) = object.as_object_mut() {
            object.insert("machine_id".into(), of.machine_id().into());
            object.insert("srk_name".into(), of.srk_name().into());
            object.insert("own".into(), other.as_ref().map(Option::is_none).into());
            object.insert("encrypted".into(), store.is_encrypted().into());
            object.insert("old".into(), old_json(store, old.as_ref(), carriers.as_ref()));
        }
        talk.object(&object);
    }
    talk.prose(format_args!("authority key {}", store.path().display()));
    talk.prose(format_args!("fingerprint {}", key.fingerprint()));
    talk.prose(format_args!("machine ID {}", of.machine_id()));
    talk.prose(format_args!("storage root key {}", of.srk_name()));
    match (&machine, other) {
        (Err(error), _) => {
            talk.remark(format_args!("whether it is this machine's cannot be told: {error}"));
        }
        (Ok(_), Some(Some(other))) => talk.remark(format_args!(
            "it is of another machine, by its {other}: this machine is a clone, or its TPM was replaced; run: vmseal authority rotate"
        )),
        (Ok(_), _) => talk.prose("it is this machine's"),
    }
    tell_whether_encrypted(store, talk);
    if let Some(carriers) = &carriers {
        talk.prose(format_args!("the key before it is kept in {}", store.old_path().display()));
        carriers.say(talk);
    }
    Ok(())
}

fn export(global: &Global, store: &Store, talk: Talk) -> Done {
    let machine = owner(global, &inputs::tpm(global)?, false)?;
    let key = store.own(&machine).map_err(Error::from)?;
    print_public(key.public(), talk)
}

fn print_public(key: &AuthorityKey, talk: Talk) -> Done {
    if talk.json {
        talk.object(&json!({ "pkfp": key.fingerprint().to_string(), "pem": key.pem() }));
        return Ok(());
    }
    // It was asked for: --quiet does not hide it.
    talk.data(key.pem().trim_end());
    Ok(())
}

fn rotate(global: &Global, args: &NewKey, talk: Talk) -> Done {
    let store = store(global, args.key.as_deref());
    let before = store.read();
    if let Err(error @ AuthorityError::Missing { .. }) = before {
        return Err(Error::from(error).into());
    }
    require_protected(&store, args, talk)?;
    let machine = owner(global, &inputs::tpm(global)?, true)?;
    let key = SigningKey::generate().map_err(AuthorityError::from).map_err(Error::from)?;
    let before = before.ok().map(|file| file.key.public().clone());
    let scribe = store.is_of_system().then(|| Scribe::of(global, talk));
    // Before it, signed by the old key; after it, by the new one, which names the old one.
    let body = json!({ "by": who(), "pkfp": key.public().fingerprint().to_string() });
    let announced = scribe.as_ref().map(|scribe| scribe.write(Kind::Rotate, body, |_| ()));
    let announced = announced.transpose().map_err(Error::from)?;
    let rotated = store.rotate(&machine, &key);
    if let (Some(scribe), Some(head)) = (&scribe, announced) {
        let (kind, body) = match &rotated {
            Ok(_) => {
                let old = before.as_ref().map(authority::replaced);
                (Kind::Apply, json!({ "of": head.seq, "replaced": old }))
            }
            Err(error) => (Kind::Refusal, json!({ "of": head.seq, "cause": error.to_string() })),
        };
        if let Err(error) = scribe.write(kind, body, |_| ()) {
            talk.remark(format_args!("WARNING: how it ended is not in the journal: {error}"));
        }
    }
    let rotated = rotated.map_err(Error::from)?;
    let replaced = rotated.old.clone().or(before);
    let carriers = replaced.as_ref().map(|key| Carriers::of(global, key, None));
    if talk.json {
        let mut object = key_json(&store, key.public());
        if let Some(object) = object.as_object_mut() {
            let old = rotated.old.as_ref();
            object.insert("old".into(), old_json(&store, old, carriers.as_ref()));
        }
        talk.object(&object);
    }
    talk.prose(format_args!("new authority key {}", store.path().display()));
    talk.prose(format_args!("fingerprint {}", key.public().fingerprint()));
    if let Some(carriers) = &carriers {
        carriers.say(talk);
    }
    match rotated.old {
        Some(_) => {
            talk.prose(format_args!(
                "kept the key before in {} until every volume is enrolled again",
                store.old_path().display()
            ));
            talk.remark("what the old key has signed opens a volume until its old keyslot is removed; with a copy of the LUKS2 header from before, until the volume is reencrypted");
        }
        None => talk.prose("the other machine's key is gone from this one"),
    }
    Ok(())
}

fn key_json(store: &Store, key: &AuthorityKey) -> Value {
    json!({ "path": store.path(), "pkfp": key.fingerprint().to_string() })
}

fn old_json(store: &Store, old: Option<&AuthorityKey>, carriers: Option<&Carriers>) -> Value {
    let Some((old, carriers)) = old.zip(carriers) else { return Value::Null };
    json!({
        "path": store.old_path(), "pkfp": old.fingerprint().to_string(),
        "volumes": carriers.to_json(), "unseen": carriers.unseen,
    })
}
