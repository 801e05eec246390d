//! `vmseal enroll --attach-to-root`: a data volume that opens by a key file in the encrypted root.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::enroll::attach::{
    self, Attached, Crypttab, Entry, KEYS_FOLDER, KeyFile, is_name, is_root_encrypted,
};
use vmseal::enroll::{check_pinned, pin_volume};
use vmseal::luks::{Device, HeaderCopy, Metadata};
use vmseal::reseal::Kind;
use vmseal::secret::VolumeKey;

use super::Done;
use super::keeper::Keeper;
use super::terminal::{self, Talk};
use crate::cli::{Enroll, Global};

/// What crypttab has, or will have.
struct Line {
    table: Crypttab,
    path: PathBuf,
    name: String,
    /// The line that is there already.
    there: Option<Entry>,
    /// The key file, as the running system sees it.
    key: String,
}

/// Checks, asks for the passphrase, writes key file, keyslot, pin and crypttab, in this order.
pub fn run(global: &Global, args: &Enroll, talk: Talk) -> Done {
    let path = args.volume.device.as_path();
    let copy = HeaderCopy::read(path, None).map_err(Error::from)?;
    check_pinned(&global.pins, copy.metadata(), None)?;
    if !is_root_encrypted(&global.root) {
        if !args.allow_unencrypted_root {
            return Err(Error::RootNotEncrypted { folder: KEYS_FOLDER.into() }.into());
        }
        talk.remark("WARNING: the key file is not known to be encrypted: whoever has the root's disk has this volume too");
    }
    let line = Line::find(global, args, copy.metadata(), path)?;
    drop(copy);
    let below = global.root.join(line.key.trim_start_matches('/'));
    let file = KeyFile::read_or_make(&below)?;
    if args.dry_run {
        let state = if file.is_new() { "would be written" } else { "is there" };
        talk.prose(format_args!("key file {} {state}", line.key));
        line.say(talk);
        talk.prose("nothing was changed");
        return Ok(());
    }
    let prompt = format!("Passphrase of {}: ", path.display());
    let passphrase = terminal::passphrase(args.unlock_key_file.as_deref(), &prompt)?;
    let mut device = Device::open(path, None).map_err(Error::from)?;
    let (_, volume_key) = device.open_keyslot(None, &passphrase).map_err(Error::from)?;
    drop(passphrase);
    check_pinned(&global.pins, device.metadata(), Some(&volume_key))?;
    if file.is_new() {
        attach::require_space(&device)?;
    }
    let keeper = Keeper::of(global, path, device.metadata().uuid(), talk);
    let what = json!({ "policy": "key-file", "key_file": line.key, "name": line.name });
    let announced = keeper.as_ref().map(|keeper| keeper.announce(Kind::Enroll, what, |_| ()));
    let announced = announced.transpose()?;
    let made = make(global, (&mut device, &volume_key), &file, &line);
    match (&made, &announced) {
        (Ok((attached, is_written)), Some(announced)) => {
            announced.conclude(Kind::Apply, to_json(&line, *attached, *is_written), |_| ());
        }
        (Err(error), Some(announced)) => announced.refuse(error, |_| ()),
        (_, None) => {}
    }
    let (attached, is_written) = made?;
    report(talk, &line, attached, is_written);
    Ok(())
}

/// Writes. What cannot be finished is taken back. Returns whether crypttab has a new line, too.
fn make(
    global: &Global,
    (device, volume_key): (&mut Device, &VolumeKey),
    file: &KeyFile,
    line: &Line,
) -> Result<(Attached, bool), Error> {
    file.write()?;
    let attached =
        attach::attach(device, volume_key, file.key()).inspect_err(|_| file.take_back())?;
    let uuid = device.metadata().uuid().to_owned();
    let finished =
        pin_volume(&global.pins, device.metadata(), volume_key).and_then(|_| line.write(&uuid));
    let is_written = finished.inspect_err(|_| {
        // The pin is true in any case. The file goes last: without it nobody could tell the keyslot.
        if attach::take_back(device, attached).is_ok() {
            file.take_back();
        }
    })?;
    Ok((attached, is_written))
}

impl Line {
    fn find(
        global: &Global,
        args: &Enroll,
        metadata: &Metadata,
        device: &Path,
    ) -> Result<Self, Error> {
        let key = format!("{KEYS_FOLDER}/{}", attach::file_name(metadata)?);
        let path = global.root.join("etc/crypttab");
        let table = Crypttab::read(&path)?;
        let there = table.entry(metadata.uuid(), device);
        let default = || format!("luks-{}", metadata.uuid());
        let known = there.as_ref().map(|entry| entry.name.clone());
        let name = known.unwrap_or_else(|| args.name.clone().unwrap_or_else(default));
        let refused = |cause: String| Error::Crypttab { path: path.clone(), cause };
        if there.is_none() && !is_name(&name) {
            return Err(refused("no line can have this name".into()));
        }
        if there.is_none() && table.has_name(&name) {
            return Err(refused(format!("{name} is another volume")));
        }
        Ok(Self { table, path, name, there, key })
    }

    /// Adds the line, unless there is one for the volume.
    fn write(&self, uuid: &str) -> Result<bool, Error> {
        if self.there.is_some() {
            return Ok(false);
        }
        // It may have changed while the passphrase was typed.
        let mut table = Crypttab::read(&self.path)?;
        if table != self.table {
            let cause = "it was changed at the same time".to_owned();
            return Err(Error::Crypttab { path: self.path.clone(), cause });
        }
        table.add(&format!("{} UUID={uuid} {} luks", self.name, self.key))?;
        Ok(true)
    }

    /// What is, or will be, in crypttab.
    fn say(&self, talk: Talk) {
        match &self.there {
            None => talk.prose(format_args!("crypttab gets a line for {}", self.name)),
            Some(entry) if entry.key_file.as_ref() == Some(&self.key) => {
                talk.prose(format_args!("crypttab has {} with this key file", self.name));
            }
            Some(_) => talk.remark(format_args!(
                "the line of {} in crypttab stays as it is: to open by the key file, it must have {} as its third word",
                self.name, self.key
            )),
        }
    }
}

fn to_json(line: &Line, attached: Attached, is_written: bool) -> Value {
    json!({
        "keyslot": attached.keyslot,
        "token": attached.token,
        "added": attached.is_new,
        "key_file": line.key,
        "name": line.name,
        "crypttab_written": is_written,
    })
}

fn report(talk: Talk, line: &Line, attached: Attached, is_written: bool) {
    if talk.json {
        talk.object(&to_json(line, attached, is_written));
    }
    let is = if attached.is_new { "opens" } else { "opened already" };
    talk.prose(format_args!("the key file {} {is} keyslot {}", line.key, attached.keyslot));
    if is_written {
        talk.prose(format_args!("added {} to crypttab", line.name));
    } else {
        line.say(talk);
    }
}

/// The key file that opens a keyslot, before that is removed: the file's name comes from the header,
/// so that only what it opens shows that it is this volume's.
pub fn key_file_of(global: &Global, device: &mut Device, keyslot: Option<u32>) -> Option<PathBuf> {
    let name = attach::file_name(device.metadata()).ok()?;
    let path = global.root.join(KEYS_FOLDER.trim_start_matches('/')).join(name);
    let key = KeyFile::read(&path).ok()??;
    let opened = attach::keyslot_of(device, &key).ok()??;
    (Some(opened) == keyslot).then_some(path)
}

/// Removes the key file of a keyslot that is gone.
pub fn forget_key_file(path: &Path, talk: Talk) {
    match fs::remove_file(path) {
        Ok(()) => talk.prose(format_args!(
            "removed {}; a line in crypttab that names it stays",
            path.display()
        )),
        Err(error) => talk.remark(format_args!("{} stays: {error}", path.display())),
    }
}
