//! `vmseal confirm`: after a boot, compares what was approved with what was seen, and withdraws what
//! nothing starts any more.

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::boot::{BootLogs, BootReport, OpenedBy, VolumeReport};
use vmseal::enroll::{self, KeyslotUse};
use vmseal::luks::{Device, HeaderCopy};
use vmseal::measurement::text::printable;
use vmseal::reseal::{Approved, Kind, Standing, Store, VolumeState, Wanted};

use super::boots;
use super::keeper::{Announced, Keeper};
use super::predict::Foreseen;
use super::reseal::{Events, Keys, Target, retire};
use super::terminal::Talk;
use super::{Done, inputs, motd};
use crate::cli::{Confirm, Global};

/// Confirms the boots of every volume that the boot step opened.
pub fn run(global: &Global, args: &Confirm, talk: Talk) -> Done {
    let store = Store::below(&global.root);
    let Some(report) = BootReport::read(&global.root) else {
        talk.prose("the boot step of vmseal has not run in this boot: there is nothing to confirm");
        return Ok(());
    };
    let _alone = store.alone().map_err(Error::from)?;
    let state = store.read().map_err(Error::from)?.state;
    let targets = match Target::all(global, &[], &state, talk) {
        Err(Error::NothingApproved { .. }) => {
            talk.prose("no boot was approved on this machine: there is nothing to confirm");
            return Ok(());
        }
        targets => targets?,
    };
    // A boot by passphrase may be one without TPM or log, and is put on record all the same.
    let logs = inputs::boot_logs(global, global.eventlog.as_deref(), None);
    // What the boots to come are only tells what may be withdrawn.
    let foreseen = Foreseen::of_running(global)
        .inspect_err(|error| talk.detail(format_args!("nothing is withdrawn: {error}")));
    let mut told = vec![];
    for target in &targets {
        let is_its = |volume: &&VolumeReport| volume.uuid.as_deref() == Some(&target.uuid);
        let Some(volume) = report.volumes.iter().find(is_its) else { continue };
        let seen = Seen { global, target, volume, talk };
        told.push(match volume.by {
            Some(OpenedBy::Tpm) => {
                let logs = logs.as_ref().map_err(Clone::clone)?;
                let tpm = inputs::tpm(global)?;
                let key = args.authority_key.as_deref();
                let keys = Keys::of(global, key, std::slice::from_ref(target), &tpm)?;
                let this = target.this_boot(keys.public(), logs, &tpm)?;
                let boot = ThisBoot { this: &this, logs, keys: &keys };
                seen.opened(&boot, foreseen.as_ref().ok())?
            }
            Some(OpenedBy::Passphrase) => seen.typed(logs.as_ref().ok(), foreseen.as_ref().ok())?,
            None => continue,
        });
    }
    post(global, &told, talk);
    store.sweep_events(&store.read().map_err(Error::from)?.state);
    if talk.json {
        talk.object(&json!({ "volumes": told }));
    }
    Ok(())
}

/// Tells whoever logs in what a passphrase opened.
fn post(global: &Global, told: &[Value], talk: Talk) {
    let is_typed = |volume: &&Value| {
        matches!(volume["opened_by"].as_str(), Some("passphrase" | "recovery-key"))
    };
    let lines: String = told
        .iter()
        .filter(is_typed)
        .map(|volume| {
            let text = |name: &str| printable(volume[name].as_str().unwrap_or_default(), 300);
            format!(
                "vmseal: {} was opened by {}: {}\n",
                text("device"),
                text("opened_by"),
                text("cause")
            )
        })
        .collect();
    motd::of_this_boot(global, &lines, talk);
}

/// One volume of this boot.
struct Seen<'a> {
    global: &'a Global,
    target: &'a Target,
    volume: &'a VolumeReport,
    talk: Talk,
}

/// This boot, in the PCRs of a volume, and who approves it.
struct ThisBoot<'a> {
    this: &'a enroll::Plan,
    logs: &'a BootLogs,
    keys: &'a Keys,
}

impl Seen<'_> {
    /// The TPM opened it: this boot has proved itself.
    fn opened(&self, boot: &ThisBoot<'_>, foreseen: Option<&Foreseen>) -> Result<Value, Error> {
        let (target, talk) = (self.target, self.talk);
        let device = target.device.display();
        let Some(entry) = target.volume.entry_of(&boot.this.values) else {
            talk.remark(format_args!(
                "WARNING: the TPM opened {device}, though this machine approved no such boot: vmseal status tells what else the header opens for"
            ));
            return Ok(self.told("unknown", None, &[]));
        };
        let wanted = Wanted { retire: true, ..Wanted::default() };
        let retired = match foreseen {
            Some(foreseen) => {
                let plan = target.plan(self.global, boot.this, boot.logs, foreseen, &wanted);
                plan.map(|plan| plan.retired).unwrap_or_default()
            }
            None => vec![],
        };
        self.tell_unseen(boot, &retired);
        let was_typed = boots::are_typed(self.global);
        if entry.standing != Standing::Confirmed || !retired.is_empty() || was_typed {
            self.confirm(boot, entry, &retired)?;
        }
        talk.prose(format_args!("{device} was opened by its TPM, as approved: {}", entry.name()));
        for entry in &retired {
            talk.prose(format_args!(
                "withdrawn, since nothing starts it any more: {}",
                entry.name()
            ));
        }
        Ok(self.told("tpm", Some(entry), &retired))
    }

    fn confirm(
        &self,
        boot: &ThisBoot<'_>,
        entry: &Approved,
        retired: &[Approved],
    ) -> Result<(), Error> {
        let target = self.target;
        let header = boot.keys.header(target, boot.this);
        // A keyslot is removed first, then the boot that it opened for is taken out of the state.
        let withdrawn = if header.is_some() { retired } else { &[] };
        let change = |volume: &mut VolumeState| {
            if let Some(entry) = volume.entry_mut(&entry.policy_hash, &entry.values) {
                entry.standing = Standing::Confirmed;
            }
            withdrawn.iter().for_each(|entry| volume.withdraw(entry));
        };
        let names: Vec<String> = retired.iter().map(Approved::name).collect();
        let body = json!({
            "entry": entry.name(), "pcrs": entry.values, "retired": names,
            "boot": boots::boot_id(self.global),
        });
        let keeper = Keeper::of(self.global, &target.device, &target.uuid, self.talk);
        let announced = keeper.as_ref().map(|keeper| keeper.announce(Kind::Confirm, body, change));
        let announced = announced.transpose()?;
        if retired.is_empty() {
            return Ok(());
        }
        let mut device = Device::open(&target.device, None)?;
        let Some(header) = header else {
            return retire(self.global, &mut device, retired, announced.as_ref(), self.talk);
        };
        let head = announced.as_ref().map(Announced::head);
        let mut then = target.volume.clone();
        change(&mut then);
        header.write(&mut device, &then, &Events::default(), head)?;
        drop(device);
        header.leave(self.global, &then, retired, self.talk);
        Ok(())
    }

    /// What was approved last and is not what runs.
    fn tell_unseen(&self, boot: &ThisBoot<'_>, retired: &[Approved]) {
        let is_unseen = |entry: &&Approved| {
            entry.standing == Standing::New
                && entry.values != boot.this.values
                && !retired.contains(entry)
        };
        for entry in self.target.volume.entries.iter().filter(is_unseen) {
            self.talk.prose(format_args!("approved, and not seen to open yet: {}", entry.name()));
        }
    }

    /// Somebody typed a passphrase: once for each boot that is on record, with the reason.
    fn typed(&self, logs: Option<&BootLogs>, foreseen: Option<&Foreseen>) -> Result<Value, Error> {
        let target = self.target;
        let boot = boots::boot_id(self.global);
        let metadata = HeaderCopy::read(&target.device, None)?;
        let by_key = self.volume.keyslot.map(|slot| KeyslotUse::of(metadata.metadata(), slot));
        drop(metadata);
        let (kind, by) = match by_key {
            Some(KeyslotUse::RecoveryKey) => (Kind::RecoveryKeyBoot, "recovery-key"),
            _ => (Kind::PassphraseBoot, "passphrase"),
        };
        let wrong =
            logs.zip(foreseen).and_then(|(logs, foreseen)| self.wrong_prediction(logs, foreseen));
        if !boots::is_on_record(self.global, &boot, &target.uuid) {
            let body = json!({ "boot": boot, "cause": self.volume.cause, "bug": wrong });
            let keeper = Keeper::of(self.global, &target.device, &target.uuid, self.talk);
            if let Some(keeper) = &keeper {
                keeper.announce(kind, body, |_| ())?;
            }
        }
        let cause = self.volume.cause.as_deref().unwrap_or("the TPM did not open it");
        let (device, cause) = (target.device.display(), printable(cause, 300));
        self.talk.prose(format_args!("{device} was opened by {by}: {cause}"));
        match &wrong {
            Some(bug) => self.talk.remark(format_args!(
                "the files are those that were approved, so that the prediction was wrong, which is a bug of vmseal: please report it, with: {bug}"
            )),
            None => self.talk.prose(
                "if you know why and want to keep what runs, look at it and approve it: vmseal reseal",
            ),
        }
        Ok(self.told(by, None, &[]))
    }

    /// The event in which this boot is not as predicted, though its files are as approved.
    fn wrong_prediction(&self, logs: &BootLogs, foreseen: &Foreseen) -> Option<String> {
        let store = Store::below(&self.global.root);
        let newest = self
            .target
            .volume
            .entries
            .iter()
            .rev()
            .find(|entry| entry.standing == Standing::New && !entry.artifacts.is_empty())?;
        let is_same = |(path, digest): (&String, &vmseal::measurement::Digest)| {
            let now = foreseen.digests(path).ok().flatten();
            now.is_some_and(|(_, now)| now.sha256 == *digest)
        };
        if !newest.artifacts.iter().all(is_same) {
            return None;
        }
        let expected = store.events(newest)?;
        let cmdline = inputs::cmdline(self.global);
        let seen = logs.notes(expected.bank, cmdline.as_deref());
        let selection = newest.values.selection();
        let findings = expected.explain(&seen);
        let mut moved =
            findings.iter().filter(|one| one.pcrs.iter().any(|pcr| selection.has(*pcr)));
        moved.next().map(|finding| printable(&finding.to_string(), 400))
    }

    fn told(&self, by: &str, entry: Option<&Approved>, retired: &[Approved]) -> Value {
        let retired: Vec<String> = retired.iter().map(Approved::name).collect();
        json!({
            "uuid": self.target.uuid, "device": self.target.device, "opened_by": by,
            "cause": self.volume.cause,
            "entry": entry.map(Approved::name), "retired": retired,
        })
    }
}
