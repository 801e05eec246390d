//! `vmseal reseal --template`: on a host, approves the boots to come of a template's machines. What
//! they measure follows from the host's own files and reference boots, never from what a guest says.

mod account;
mod finish;
mod gather;
mod given;
mod handover;
mod reader;
mod signing;

pub use given::delivered;
pub use signing::{fingerprint, path_of};

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::artifact::hashing::Memory;
use vmseal::authority::TemplateKeys;
use vmseal::files::Noted;
use vmseal::reference::References;
use vmseal::reseal::{Kind, Store};
use vmseal::template::wire::Question;
use vmseal::template::{
    Account, Delivered, Forecasts, Outlook, Plan, Template, TemplateError, Templates,
};

use super::ask::Approval;
use crate::cli::{Global, Reseal};
use crate::commands::keeper::note_template;
use crate::commands::terminal::{self, Talk};
use crate::commands::{Done, authority};
pub use account::count;
use account::{NAMED, body, both, lines, to_json};
pub use gather::{forecasts, given, paths};
use handover::Handover;
pub use reader::ask;
use signing::{in_parallel, outdated};

/// One template, before it is known what its machines will measure.
struct Draft {
    template: Template,
    text: String,
    keys: TemplateKeys,
    noted: Noted,
    account: Account,
}

/// One template and what is to be done about it.
pub struct Work {
    /// The template.
    pub template: Template,
    /// The keys that sign for it.
    pub keys: TemplateKeys,
    noted: Noted,
    account: Account,
    /// What its machines will measure.
    pub plan: Plan,
}

/// Plans, shows, has it approved, signs, delivers.
pub fn run(global: &Global, args: &Reseal, talk: Talk) -> Done {
    let templates = Templates::below(&global.root);
    let names = match args.all {
        true => templates.names().map_err(Error::from)?,
        false => args.template.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
    };
    let store = Store::below(&global.root);
    let _alone = match args.dry_run {
        true => None,
        false => Some(store.alone().map_err(Error::from)?),
    };
    let drafts = names.iter().map(|name| Draft::of(global, &templates, name, talk));
    let drafts = drafts.collect::<Result<Vec<_>, _>>()?;
    let (works, unread) = works(drafts, args.narrow, talk)?;
    require_own_files(&works)?;
    let changing = works.iter().any(|work| !work.plan.is_empty());
    if args.dry_run {
        works.iter().flat_map(Work::lines).for_each(|line| talk.prose(line));
        tell(&works, None, talk);
        talk.prose("nothing was changed");
        return unread.map_or(Ok(()), |error| Err(error.into()));
    }
    let mut approval = None;
    if changing {
        works.iter().flat_map(Work::lines).for_each(|line| talk.remark(line));
        approval = Some(approve(args)?);
        if let Some(path) = works.iter().find_map(|work| work.noted.changed()) {
            return Err(Error::ChangedSince { path: path.display().to_string() }.into());
        }
    }
    for work in &works {
        work.apply(global, &templates, approval, talk)?;
    }
    tell(&works, approval, talk);
    if let Some(error) = unread {
        return Err(error.into());
    }
    covered(&works)?;
    if !changing {
        talk.prose("every boot of the templates' machines is approved already");
    }
    Ok(())
}

/// What is to be done about each template. A disk that cannot be read well, which a guest can bring
/// about, keeps no other template waiting: the first such error is returned beside the rest.
fn works(
    drafts: Vec<Draft>,
    narrow: bool,
    talk: Talk,
) -> Result<(Vec<Work>, Option<Error>), Error> {
    let is_alone = drafts.len() == 1;
    let read =
        in_parallel(&drafts, |draft| Ok(reader::is_needed(&draft.template).then(|| draft.read())))?;
    let memory = Memory::default();
    let (mut works, mut unread) = (vec![], None);
    for (draft, read) in drafts.into_iter().zip(read) {
        match read {
            None => {
                let told = draft.read_here(&memory, talk)?;
                works.push(draft.into_work(told, narrow));
            }
            Some(Ok(told)) => works.push(draft.into_work(told, narrow)),
            Some(Err(error)) if is_alone => return Err(error),
            Some(Err(error)) => {
                talk.remark(format_args!("{error}: nothing of it is changed"));
                unread.get_or_insert(error);
            }
        }
    }
    Ok((works, unread))
}

fn approve(args: &Reseal) -> Result<Approval, Error> {
    if args.yes {
        return Ok(Approval::Yes);
    }
    match terminal::can_ask() && terminal::ask("Approve this? [y/N] ")? {
        true => Ok(Approval::Terminal),
        false => Err(Error::NotApproved { reasons: vec!["it was not wanted".to_owned()] }),
    }
}

/// A machine that is not covered must not go unnoticed.
fn covered(works: &[Work]) -> Done {
    let open = works.iter().flat_map(|work| work.plan.with(Outlook::NotCovered));
    let open: Vec<_> = open.collect();
    match open.first() {
        None => Ok(()),
        Some(first) => Err(Error::NotCoveredVms {
            count: open.len(),
            first: first.name.clone(),
            why: first.open.first().cloned().unwrap_or_default(),
        }
        .into()),
    }
}

/// Two machines with the same file would take each other's signatures away.
fn require_own_files(works: &[Work]) -> Result<(), Error> {
    let mut paths = BTreeSet::new();
    let all = works
        .iter()
        .flat_map(|work| work.plan.vms.iter().map(|vm| path_of(&work.template, &vm.name)));
    for path in all {
        if !paths.insert(path.clone()) {
            return Err(TemplateError::SameFile { path }.into());
        }
    }
    Ok(())
}

fn tell(works: &[Work], approval: Option<Approval>, talk: Talk) {
    if talk.json {
        let all: Vec<Value> =
            works.iter().map(|work| to_json(&work.template, &work.plan, &work.keys)).collect();
        talk.object(&json!({ "templates": all, "approved_by": approval.map(Approval::name) }));
    }
}

impl Draft {
    fn of(global: &Global, templates: &Templates, name: &str, talk: Talk) -> Result<Self, Error> {
        let mut text = templates.text(name)?;
        let mut template = templates.parse(name, &text)?;
        if template.references.is_empty() {
            let references = References::of(&global.root, name)?;
            references.lend(&mut template)?;
            text += &references.to_toml();
        }
        let store = authority::store_of_template(global, name, template.authority.as_deref())?;
        let keys = store.keys_of(name)?;
        let mut account = templates.account(name)?;
        // What the key before has approved stays approved.
        if !keys.all().map(fingerprint).any(|pkfp| pkfp == account.pkfp) {
            if !account.pkfp.is_empty() {
                talk.remark(format_args!(
                    "template {name} has another key than before: its machines must be enrolled anew"
                ));
            }
            account = Account::default();
        }
        let noted = Noted::of(paths(&template));
        let noted =
            noted.map_err(|(path, error)| Error::Artifact { path, cause: error.to_string() })?;
        Ok(Self { template, text, keys, noted, account })
    }

    /// What a process of its own reads.
    fn read(&self) -> Result<Forecasts, Error> {
        let question = Question {
            name: self.template.name.clone(),
            template: self.text.clone(),
            approved: self.account.shapes.clone(),
            public: self.keys.present().public().pem().to_owned(),
        };
        Ok(reader::ask(&self.template, &question)?)
    }

    /// The same in this process, of files that no guest has written.
    fn read_here(&self, memory: &Memory, talk: Talk) -> Result<Forecasts, Error> {
        let Self { template, keys, account, .. } = self;
        talk.detail(format_args!("template {}: reading kernel and initrd", template.name));
        forecasts(template, keys.present().public(), &account.shapes, memory)
    }

    fn into_work(self, forecasts: Forecasts, narrow: bool) -> Work {
        let Self { template, keys, noted, account, .. } = self;
        let plan = Plan::of(&template, forecasts, keys.present().public(), &account, narrow);
        Work { template, keys, noted, account, plan }
    }
}

impl Work {
    /// What is to be done about the template of this name. Nothing is written.
    ///
    /// # Errors
    /// Those of its files, its key, its account and its reference boots.
    pub fn of(
        global: &Global,
        templates: &Templates,
        name: &str,
        memory: &Memory,
        talk: Talk,
    ) -> Result<Self, Error> {
        let draft = Draft::of(global, templates, name, talk)?;
        let told = match reader::is_needed(&draft.template) {
            true => draft.read()?,
            false => draft.read_here(memory, talk)?,
        };
        Ok(draft.into_work(told, false))
    }

    /// Whether the present key is newer than all that was approved.
    fn is_rotated(&self) -> bool {
        self.keys.old().map(fingerprint).is_some_and(|old| old == self.account.pkfp)
    }

    fn lines(&self) -> Vec<String> {
        lines(&self.template, &self.plan, &self.keys)
    }

    /// On record first, then signed and delivered: what opens is on record. Where a run before this
    /// one was cut short in between, the rest is done.
    fn apply(
        &self,
        global: &Global,
        templates: &Templates,
        approval: Option<Approval>,
        talk: Talk,
    ) -> Result<(), Error> {
        let name = &self.template.name;
        let pkfp = fingerprint(self.keys.present());
        let approval = approval.filter(|_| !self.plan.is_empty());
        // What the key before has approved, the new one signs without a question.
        let how = approval.map(Approval::name).or(self.is_rotated().then_some("rotation"));
        let (account, line) = match how {
            Some(how) => {
                let body = body(&self.template, &self.plan, &self.keys, how);
                let head = note_template(global, Kind::Approval, name, body, talk)?;
                let account = match approval {
                    Some(_) => self.plan.approved(&self.account, &pkfp),
                    None => Account { pkfp, ..self.account.clone() },
                };
                // While they are on the account, a run that is cut short is taken up again.
                self.remove_gone(talk);
                templates.keep(name, &account)?;
                (account, Some(head))
            }
            None => (self.account.clone(), None),
        };
        let (files, dropped) = outdated(&self.template, &self.plan, &account, &self.keys)?;
        Delivered::write_all(&files)?;
        if let Some(head) = line {
            let body = json!({ "of": head.seq, "files": files.len() });
            if let Err(error) = note_template(global, Kind::Apply, name, body, talk) {
                talk.remark(format_args!("WARNING: how it ended is not in the journal: {error}"));
            }
        }
        if dropped > 0 {
            talk.remark(format_args!(
                "template {name}: no room for {dropped} signatures of boots that it no longer tells: \
                 they are not delivered"
            ));
        }
        self.report(how, files.len(), talk);
        Ok(())
    }

    fn remove_gone(&self, talk: Talk) {
        for vm in &self.plan.gone {
            let path = path_of(&self.template, vm);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    talk.remark(format_args!("{} stays: {error}", path.display()));
                }
                _ => {}
            }
        }
    }

    fn report(&self, how: Option<&str>, files: usize, talk: Talk) {
        let Template { name, delivery, .. } = &self.template;
        let folder = delivery.folder.display();
        match (how, files) {
            (None, 0) => return,
            (None, _) => talk.remark(format_args!(
                "template {name}: {files} files in {folder} were missing or changed, and are written anew"
            )),
            (Some("rotation"), _) => talk.prose(format_args!(
                "template {name}: what is approved is signed by the new key too, {files} files written in {folder}"
            )),
            (Some(_), _) => talk
                .prose(format_args!("approved: template {name}, {files} files written in {folder}")),
        }
        if let Some(both) = both(&self.keys) {
            talk.remark(format_args!("template {name}: {both}"));
        }
        let path = path_of(&self.template, "MACHINE");
        let handover = Handover::of(delivery.kind, &path.to_string_lossy());
        handover.lines().for_each(|line| talk.prose(line));
    }
}
