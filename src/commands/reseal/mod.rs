//! `vmseal reseal`: predicts the boots to come, shows what changes, has it approved, and brings
//! the volumes to open for them too.

mod ask;
mod header;
mod literal;
mod shown;
mod signed;
mod target;
mod template;

pub use header::{Events, Header};
pub use literal::retire;
pub use target::Target;
pub use template::{
    Work as TemplateWork, ask, count, delivered, fingerprint, forecasts, given, path_of, paths,
};

use serde_json::Value;
use vmseal::Error;
use vmseal::authority::Store as AuthorityStore;
use vmseal::enroll;
use vmseal::luks::Device;
use vmseal::policy::{AuthorityKey, SigningKey};
use vmseal::reseal::{Kind, Plan, Store, Wanted};
use vmseal::tpm::Tpm;

use super::keeper::Keeper;
use super::predict::Foreseen;
use super::terminal::Talk;
use super::{Done, authority, inputs, motd, terminal};
use crate::cli::{Global, Reseal};
use shown::Shown;
use signed::Approving;

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

/// Reseals, and leaves a message where nobody was there to see that it was refused.
pub fn run(global: &Global, args: &Reseal, talk: Talk) -> Done {
    if args.all || !args.template.is_empty() {
        return template::run(global, args, talk);
    }
    let done = reseal(global, args, talk);
    let nobody = args.unattended || (!args.yes && !terminal::can_ask());
    // What holds for one volume says nothing of the others.
    if !args.dry_run && (if done.is_ok() { args.devices.is_empty() } else { nobody }) {
        motd::of_next_boot(global, &done, talk);
    }
    done
}

/// Plans, shows, has it approved, applies.
fn reseal(global: &Global, args: &Reseal, talk: Talk) -> Done {
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
    let foreseen = Foreseen::with_payloads(global, &args.set)?;
    foreseen.require_entries(&args.entry)?;
    let wanted = Wanted { entries: args.entry.clone(), narrow: args.narrow, retire: false };
    let mut works = vec![];
    for target in targets {
        let this = target.this_boot(keys.public(), &logs, &tpm)?;
        let plan = target.plan(global, &this, &logs, &foreseen, &wanted)?;
        works.push(Work { target, this, plan });
    }
    let shown = Shown {
        works: &works,
        artifacts: ask::artifacts(global, &works, &foreseen)?,
        foreseen: &foreseen,
    };
    if args.dry_run {
        shown.tell(|line| talk.prose(line));
        shown.to_json(None, talk);
        talk.prose("nothing was changed");
        return Ok(());
    }
    let (changing, settled): (Vec<_>, Vec<_>) =
        works.iter().partition(|work| !work.plan.is_empty());
    if changing.is_empty() {
        finish_what_was_cut_short(global, &settled, &keys, talk)?;
        shown.to_json(None, talk);
        talk.prose("every boot that can be started is approved already");
        return told(&works);
    }
    // Before it is approved it is talk, also for those who only want the data.
    shown.tell(|line| talk.remark(line));
    let approval = match ask::approve(global, args, &changing, &shown.artifacts) {
        Err(error) => {
            changing.iter().for_each(|work| work.refused(global, &shown, &error, talk));
            return Err(error.into());
        }
        Ok(approval) => approval,
    };
    if let Some(path) = foreseen.changed() {
        return Err(Error::ChangedSince { path }.into());
    }
    finish_what_was_cut_short(global, &settled, &keys, talk)?;
    for work in changing {
        let approved = Approving { global, args, work, shown: &shown, approval, talk };
        match keys.header(&work.target, &work.this) {
            Some(header) => approved.sign(&header)?,
            None => literal::seal(&approved, &tpm)?,
        }
    }
    shown.to_json(Some(approval), talk);
    told(&works)
}

/// The boot that will be started by itself must be among what was approved.
fn told(works: &[Work]) -> Done {
    match works.iter().find_map(|work| work.plan.default_is_unforeseen()) {
        Some(error) => Err(error.clone().into()),
        None => Ok(()),
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
    fn policy(&self) -> &'static str {
        if self.target.volume.authority.is_some() { "authority" } else { "pcr" }
    }

    /// The keeper of this volume's account.
    fn keeper(&self, global: &Global, talk: Talk) -> Option<Keeper> {
        Keeper::of(global, &self.target.device, &self.target.uuid, talk)
    }

    /// The plan as the journal tells it.
    fn on_record(&self, shown: &Shown<'_>, how: &str) -> Value {
        let mut body = self.plan.to_json();
        shorten(&mut body);
        if let Some(body) = body.as_object_mut() {
            body.insert("how".into(), how.into());
            body.insert("artifacts".into(), shown.artifacts.to_json());
            body.insert("variables".into(), shown.variables());
            body.insert("policy".into(), self.policy().into());
        }
        body
    }

    /// Puts on record what was shown and not approved. Each update calls for it: once is enough.
    fn refused(&self, global: &Global, shown: &Shown<'_>, error: &Error, talk: Talk) {
        let Some(keeper) = self.keeper(global, talk) else { return };
        let body = self.on_record(shown, "refused");
        if keeper.is_last_of_kind(&Kind::Plan, &body) {
            return;
        }
        match keeper.announce(Kind::Plan, body, |_| ()) {
            Ok(announced) => announced.refuse(error, |_| ()),
            Err(error) => talk.remark(format_args!("WARNING: it is not in the journal: {error}")),
        }
    }
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
