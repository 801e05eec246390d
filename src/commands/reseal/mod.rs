//! `vmseal reseal`: predicts the boots to come, shows what changes, has it approved, and brings
//! the volumes to open for them too.

mod ask;
mod header;
mod literal;
mod signing;
mod target;
mod template;
mod template_account;

pub use header::{Events, Header};
pub use target::Target;

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::authority::Store as AuthorityStore;
use vmseal::enroll;
use vmseal::luks::Device;
use vmseal::measurement::diff::Expected;
use vmseal::policy::{AuthorityKey, SigningKey};
use vmseal::reseal::{Approved, Artifacts, Kind, Plan, Store, VolumeState, Wanted};
use vmseal::tpm::Tpm;

use super::keeper::{Announced, Keeper};
use super::predict::Foreseen;
use super::terminal::Talk;
use super::{Done, authority, inputs};
use crate::cli::{Global, Reseal};
use ask::Approval;

/// This machine's own key, and the one before it.
pub struct Keys {
    key: Option<SigningKey>,
    old: Option<AuthorityKey>,
}

impl Keys {
    /// The keys, where a volume of `targets` opens by signatures.
    ///
    /// # Errors
    /// [`Error::Authority`].
    pub fn of(
        global: &Global,
        path: Option<&std::path::Path>,
        targets: &[Target],
        tpm: &Tpm,
    ) -> Result<Self, Error> {
        if targets.iter().all(|target| target.volume.authority.is_none()) {
            return Ok(Self { key: None, old: None });
        }
        let store: AuthorityStore = authority::store(global, path);
        let key = store.own(&authority::owner(global, tpm, false)?)?;
        Ok(Self { key: Some(key), old: store.old() })
    }

    /// The public half of the own key.
    pub fn public(&self) -> Option<&AuthorityKey> {
        self.key.as_ref().map(SigningKey::public)
    }

    /// What the header of a target is to say, where these keys approve its boots.
    pub fn header<'a>(&'a self, target: &'a Target, this: &'a enroll::Plan) -> Option<Header<'a>> {
        let key = self.key.as_ref().filter(|_| target.volume.authority.is_some())?;
        Some(Header { target, this, key, old: self.old.as_ref() })
    }
}

/// One volume and what is to be done about it.
struct Work {
    target: Target,
    this: enroll::Plan,
    plan: Plan,
}

/// Plans, shows, has it approved, applies.
pub fn run(global: &Global, args: &Reseal, talk: Talk) -> Done {
    if args.all || !args.template.is_empty() {
        return template::run(global, args, talk);
    }
    let store = Store::below(&global.root);
    // Where there is nothing to do, nothing is made to lock.
    if store.read().map_err(Error::from)?.state.volumes.is_empty() {
        return Err(Error::NothingApproved { uuid: None }.into());
    }
    let _alone = match args.dry_run {
        true => None,
        false => Some(store.alone()?),
    };
    let state = store.read().map_err(Error::from)?.state;
    let targets = Target::all(global, &args.devices, &state, talk)?;
    let tpm = inputs::tpm(global)?;
    let logs = inputs::boot_logs(global, global.eventlog.as_deref(), None)?;
    let keys = Keys::of(global, args.authority_key.as_deref(), &targets, &tpm)?;
    let foreseen = Foreseen::of_running(global)?;
    foreseen.require_entries(&args.entry)?;
    let wanted = Wanted { entries: args.entry.clone(), narrow: args.narrow, retire: false };
    let mut works = vec![];
    for target in targets {
        let this = target.this_boot(keys.public(), &logs, &tpm)?;
        let plan = target.plan(global, &this, &logs, &foreseen, &wanted)?;
        works.push(Work { target, this, plan });
    }
    let artifacts = ask::artifacts(global, &works, &foreseen)?;
    if args.dry_run {
        show(&works, &artifacts, |line| talk.prose(line));
        to_json(&works, &artifacts, None, talk);
        talk.prose("nothing was changed");
        return Ok(());
    }
    let (changing, settled): (Vec<_>, Vec<_>) =
        works.iter().partition(|work| !work.plan.is_empty());
    if changing.is_empty() {
        finish_what_was_cut_short(global, &settled, &keys, talk)?;
        to_json(&works, &artifacts, None, talk);
        talk.prose("every boot that can be started is approved already");
        return told(&works);
    }
    // Before it is approved it is talk, also for those who only want the data.
    show(&works, &artifacts, |line| talk.remark(line));
    let approval = ask::approve(global, args, &changing, &artifacts)?;
    if let Some(path) = foreseen.changed() {
        return Err(Error::ChangedSince { path }.into());
    }
    finish_what_was_cut_short(global, &settled, &keys, talk)?;
    for work in changing {
        let approved = Approving { global, args, work, artifacts: &artifacts, approval, talk };
        match keys.header(&work.target, &work.this) {
            Some(header) => approved.sign(&header)?,
            None => literal::seal(&approved, &tpm)?,
        }
    }
    to_json(&works, &artifacts, Some(approval), talk);
    told(&works)
}

/// The boot that will be started by itself must be among what was approved.
fn told(works: &[Work]) -> Done {
    match works.iter().find_map(|work| work.plan.default_is_unforeseen()) {
        Some(error) => Err(error.clone().into()),
        None => Ok(()),
    }
}

fn show(works: &[Work], artifacts: &Artifacts, say: impl Fn(&str)) {
    for work in works {
        say(&format!("{} ({})", work.target.device.display(), work.target.uuid));
        work.plan.to_string().lines().for_each(&say);
    }
    artifacts.lines().iter().for_each(|line| say(line));
}

/// The plan, and how it was approved, where it was.
fn to_json(works: &[Work], artifacts: &Artifacts, approval: Option<Approval>, talk: Talk) {
    if talk.json {
        let volumes: Vec<Value> = works.iter().map(Work::to_json).collect();
        talk.object(&json!({
            "volumes": volumes, "artifacts": artifacts.to_json(),
            "approved_by": approval.map(Approval::name),
        }));
    }
}

/// Where a run before this one ended after it was on record and before the header had it.
fn finish_what_was_cut_short(
    global: &Global,
    works: &[&Work],
    keys: &Keys,
    talk: Talk,
) -> Result<(), Error> {
    for work in works {
        let Some(header) = keys.header(&work.target, &work.this) else { continue };
        let mut device = Device::open(&work.target.device, None)?;
        if header.write(&mut device, &work.target.volume, &Events::default(), None)? {
            header.leave(global, &work.target.volume, &[], talk);
            talk.remark(format_args!(
                "finished what a run before this one had begun: {} opens for all approved boots",
                work.target.device.display()
            ));
        }
    }
    Ok(())
}

impl Work {
    fn to_json(&self) -> Value {
        let mut object = self.plan.to_json();
        if let Some(object) = object.as_object_mut() {
            object.insert("uuid".into(), self.target.uuid.as_str().into());
            object.insert("device".into(), self.target.device.to_string_lossy().into());
            let policy = if self.target.volume.authority.is_some() { "authority" } else { "pcr" };
            object.insert("policy".into(), policy.into());
        }
        object
    }
}

/// What was approved for one volume.
struct Approving<'a> {
    global: &'a Global,
    args: &'a Reseal,
    work: &'a Work,
    artifacts: &'a Artifacts,
    approval: Approval,
    talk: Talk,
}

impl Approving<'_> {
    /// The keeper of this volume's account.
    fn keeper(&self) -> Option<Keeper> {
        let target = &self.work.target;
        Keeper::of(self.global, &target.device, &target.uuid, self.talk)
    }

    /// The boots as the state has them.
    fn entries(&self, volume: &VolumeState) -> Vec<Approved> {
        let (keyslot, policy) = self.work.target.sealed();
        let generation = volume.generation.saturating_add(1);
        let entry = |(boot, new): (&vmseal::reseal::BootPlan, &vmseal::reseal::NewBoot)| {
            let mut entry = Approved::new(policy, new.next.plan.values.clone(), generation);
            entry.keyslot = Some(keyslot);
            entry.entry = Some(boot.entry.clone());
            entry.artifacts = self.artifacts.of(new);
            entry
        };
        self.work.plan.new_boots().map(entry).collect()
    }

    /// On record first, then in the header: whatever comes between, what opens is on record.
    fn sign(&self, header: &Header<'_>) -> Result<(), Error> {
        let (target, plan) = (&self.work.target, &self.work.plan);
        let entries = self.entries(&target.volume);
        let mut device = Device::open(&target.device, None)?;
        let mut then = target.volume.clone();
        change(&mut then, &entries, &plan.retired);
        header.check(&device, &then)?;
        keep_events(self.global, plan, &entries)?;
        let mut body = plan.to_json();
        shorten(&mut body);
        if let Some(body) = body.as_object_mut() {
            body.insert("how".into(), self.approval.name().into());
            body.insert("artifacts".into(), self.artifacts.to_json());
            body.insert("policy".into(), "authority".into());
        }
        let keeper = self.keeper();
        let announced = keeper.as_ref().map(|keeper| {
            keeper.announce(Kind::Approval, body, |volume| change(volume, &entries, &plan.retired))
        });
        let announced = announced.transpose()?;
        let mut events = Events::default();
        for (entry, (_, new)) in entries.iter().zip(plan.new_boots()) {
            events.insert(entry.id(), new.next.plan.events.clone());
        }
        let head = announced.as_ref().map(Announced::head);
        if let Err(error) = header.write(&mut device, &then, &events, head) {
            if let Some(announced) = &announced {
                announced.refuse(&error, |volume| {
                    entries.iter().for_each(|entry| volume.withdraw(entry));
                    plan.retired.iter().for_each(|entry| volume.approve(entry.clone()));
                });
            }
            return Err(error);
        }
        drop(device);
        header.leave(self.global, &then, &plan.retired, self.talk);
        if let Some(announced) = &announced {
            let (keyslot, _) = target.sealed();
            announced.conclude(Kind::Apply, json!({ "keyslot": keyslot }), |_| ());
        }
        self.report(&entries);
        Ok(())
    }

    fn report(&self, entries: &[Approved]) {
        let device = self.work.target.device.display();
        for entry in entries {
            self.talk.prose(format_args!("approved: {device} opens for {}", entry.name()));
        }
        for entry in &self.work.plan.retired {
            self.talk
                .prose(format_args!("withdrawn: {device} no longer opens for {}", entry.name()));
        }
        if !self.work.plan.retired.is_empty() {
            self.talk.remark("who kept a copy of the header from before can still open it by the boots that were withdrawn, until it is reencrypted");
        }
    }
}

/// Brings the state of a volume to what was approved.
fn change(volume: &mut VolumeState, new: &[Approved], retired: &[Approved]) {
    retired.iter().for_each(|entry| volume.withdraw(entry));
    new.iter().for_each(|entry| volume.approve(entry.clone()));
}

/// What later boots are compared with, before the boots are approved.
fn keep_events(global: &Global, plan: &Plan, entries: &[Approved]) -> Result<(), Error> {
    let store = Store::below(&global.root);
    for (entry, (_, new)) in entries.iter().zip(plan.new_boots()) {
        let (bank, policy) = (entry.values.bank(), entry.policy_hash.to_string());
        let expected = Expected::new(bank, policy, new.next.notes.clone());
        store.keep_events(entry, &expected)?;
    }
    Ok(())
}

/// Of hundreds of events a line of the journal tells the first ones.
fn shorten(body: &mut Value) {
    const MAX: usize = 24;
    let boots = body.get_mut("boots").and_then(Value::as_array_mut);
    for boot in boots.into_iter().flatten() {
        let Some(changes) = boot.get_mut("changes").and_then(Value::as_array_mut) else { continue };
        let left_out = changes.len().saturating_sub(MAX);
        changes.truncate(MAX);
        if let Some(boot) = boot.as_object_mut().filter(|_| left_out > 0) {
            boot.insert("more_changes".into(), left_out.into());
        }
    }
}
