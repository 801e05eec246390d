//! `vmseal reseal --template`: on a host, approves the boots to come of a template's machines. What
//! they measure follows from the host's own files and reference boots, never from what a guest says.

mod account;
mod signing;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::artifact::hashing::Memory;
use vmseal::artifact::variable_store::VariableStore;
use vmseal::boot::BootLogs;
use vmseal::files::{Named, NamedFile, Seen, Watched};
use vmseal::policy::SigningKey;
use vmseal::prediction::{KnownFiles, Spelled};
use vmseal::reference::References;
use vmseal::reseal::{Kind, Store};
use vmseal::template::{
    Account, Boot, Delivered, DeliveryKind, Forecaster, Material, Outlook, Plan, Template,
    TemplateError, Templates, require_unexposed,
};

use super::ask::Approval;
use crate::cli::{Global, Reseal};
use crate::commands::keeper::note_template;
use crate::commands::terminal::{self, Talk};
use crate::commands::{Done, authority};
use account::{body, lines, qemu_option, to_json};
use signing::{outdated, path_of};

/// One template and what is to be done about it.
struct Work {
    template: Template,
    key: SigningKey,
    files: Named,
    seen: Seen,
    account: Account,
    plan: Plan,
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
    let memory = Memory::default();
    let mut works = vec![];
    for name in names {
        works.push(Work::of(global, &templates, &name, args.narrow, &memory, talk)?);
    }
    require_own_files(&works)?;
    let changing = works.iter().any(|work| !work.plan.is_empty());
    if args.dry_run {
        works.iter().flat_map(Work::lines).for_each(|line| talk.prose(line));
        tell(&works, None, talk);
        talk.prose("nothing was changed");
        return Ok(());
    }
    let mut approval = None;
    if changing {
        works.iter().flat_map(Work::lines).for_each(|line| talk.remark(line));
        approval = Some(approve(args)?);
        if let Some(path) = works.iter().find_map(|work| work.seen.changed(&work.files)) {
            return Err(Error::ChangedSince { path }.into());
        }
    }
    for work in &works {
        work.apply(global, &templates, approval, talk)?;
    }
    tell(&works, approval, talk);
    if !changing {
        talk.prose("every boot of the templates' machines is approved already");
    }
    covered(&works)
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
        let all: Vec<Value> = works
            .iter()
            .map(|work| to_json(&work.template, &work.plan, &work.fingerprint()))
            .collect();
        talk.object(&json!({ "templates": all, "approved_by": approval.map(Approval::name) }));
    }
}

impl Work {
    fn of(
        global: &Global,
        templates: &Templates,
        name: &str,
        narrow: bool,
        memory: &Memory,
        talk: Talk,
    ) -> Result<Self, Error> {
        let mut template = templates.read(name)?;
        if template.references.is_empty() {
            References::of(&global.root, name)?.lend(&mut template)?;
        }
        let store = authority::store_of_template(global, name, template.authority.as_deref())?;
        let key = store.of(name)?;
        let mut account = templates.account(name)?;
        let pkfp = key.public().fingerprint().to_string();
        if account.pkfp != pkfp {
            if !account.pkfp.is_empty() {
                talk.remark(format_args!(
                    "template {name} has another key than before: its machines must be enrolled anew"
                ));
            }
            account = Account::default();
        }
        let files = files(&template)?;
        let vars = template.vars.as_deref().map(variables).transpose()?;
        talk.detail(format_args!("template {name}: reading kernel and initrd"));
        let watched = Watched::new(&files);
        let logs = logs(&template)?;
        let forecaster =
            Forecaster::new(&template, Some(key.public()), logs, vars.as_ref(), &watched, memory)?;
        let plan = Plan::of(&template, &forecaster, &account, narrow);
        drop(forecaster);
        let seen = watched.into_seen();
        Ok(Self { template, key, files, seen, account, plan })
    }

    fn fingerprint(&self) -> String {
        self.key.public().fingerprint().to_string()
    }

    fn lines(&self) -> Vec<String> {
        lines(&self.template, &self.plan)
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
        let pkfp = self.fingerprint();
        let is_new = !self.plan.is_empty();
        let (account, line) = match approval.filter(|_| is_new) {
            Some(approval) => {
                let body = body(&self.template, &self.plan, &pkfp, approval.name());
                let head = note_template(global, Kind::Approval, name, body, talk)?;
                let account = self.plan.approved(&self.account, &pkfp);
                // While they are on the account, a run that is cut short is taken up again.
                self.remove_gone(talk);
                templates.keep(name, &account)?;
                (account, Some(head))
            }
            None => (self.account.clone(), None),
        };
        let files = outdated(&self.template, &self.plan, &account, &self.key)?;
        Delivered::write_all(&files)?;
        if let Some(head) = line {
            let body = json!({ "of": head.seq, "files": files.len() });
            if let Err(error) = note_template(global, Kind::Apply, name, body, talk) {
                talk.remark(format_args!("WARNING: how it ended is not in the journal: {error}"));
            }
        }
        self.report(is_new, files.len(), talk);
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

    fn report(&self, is_new: bool, files: usize, talk: Talk) {
        let Template { name, delivery, .. } = &self.template;
        let folder = delivery.folder.display();
        match (is_new, files) {
            (false, 0) => return,
            (false, _) => talk.remark(format_args!(
                "template {name}: {files} files in {folder} were missing or changed, and are written anew"
            )),
            (true, _) => talk
                .prose(format_args!("approved: template {name}, {files} files written in {folder}")),
        }
        if delivery.kind == DeliveryKind::FwCfg {
            let path = delivery.folder.join("MACHINE.json");
            talk.prose(format_args!("start each with {}", qemu_option(&path.to_string_lossy())));
        }
    }
}

/// The boot files, by the names that the firmware has for them.
///
/// # Errors
/// [`Error::Artifact`], [`Error::Template`].
pub fn files(template: &Template) -> Result<Named, Error> {
    let Boot::Kernel { kernel, initrd, .. } = &template.boot;
    let mut named = Named::default();
    for (place, material) in [("kernel", kernel), ("initrd", initrd)] {
        let file = match material {
            Material::File(path) => {
                // One that is not there is told by its own name, not as an event.
                let refused = |error: std::io::Error| unusable(path, error.to_string());
                File::open(path).map_err(refused)?;
                NamedFile::File(path.clone())
            }
            Material::Digests(path) => {
                require_unexposed(path)?;
                let known = KnownFiles::parse(&read(path, KnownFiles::MAX_LEN)?);
                let known = known.map_err(|cause| unusable(path, cause))?;
                let digests = known.get(place);
                let digests = digests
                    .map_err(|there| unusable(path, format!("no {place} in it: {there}")))?;
                NamedFile::Digests(digests.clone())
            }
        };
        named.add(Spelled::parse(place), file);
    }
    Ok(named)
}

fn logs(template: &Template) -> Result<Vec<BootLogs>, Error> {
    let log = |reference: &vmseal::template::Reference| {
        let paths = [Some(&reference.log), reference.userspace.as_ref()];
        paths.into_iter().flatten().try_for_each(|path| match path.exists() {
            true => require_unexposed(path),
            // The reader of logs says so in its own words.
            false => Ok(()),
        })?;
        BootLogs::read(&reference.log, reference.userspace.as_deref())
    };
    template.references.iter().map(log).collect()
}

fn variables(path: &Path) -> Result<VariableStore, Error> {
    const MAX: usize = 64 << 20;
    let bytes = read(path, MAX)?;
    VariableStore::parse(&bytes).map_err(|error| unusable(path, error.to_string()))
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let refused = |error: std::io::Error| unusable(path, error.to_string());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(refused)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(refused)?;
    match bytes.len() > limit {
        true => Err(unusable(path, format!("more than {limit} bytes"))),
        false => Ok(bytes),
    }
}

fn unusable(path: &Path, cause: String) -> Error {
    Error::Artifact { path: PathBuf::from(path), cause }
}
