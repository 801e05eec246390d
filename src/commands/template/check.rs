//! `vmseal template check`: whether templates are sound, and which machines open with what is
//! delivered now. Nothing is written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::artifact::hashing::Memory;
use vmseal::exit::Exit;
use vmseal::measurement::text::printable;
use vmseal::template::import::{Described, ImportError, differences, libvirt};
use vmseal::template::{Boot, Material, Template, TemplateError, Templates, Vm, faults};

use super::read;
use crate::cli::{Check, Global};
use crate::commands::Done;
use crate::commands::reseal::{TemplateWork as Work, delivered, fingerprint, path_of};
use crate::commands::terminal::Talk;

/// Machines that are named; the others are counted.
const NAMED: usize = 20;

/// What was found of one template.
struct Findings {
    name: String,
    /// Of a machine it cannot be told then whether it is one of that template.
    is_unread: bool,
    faults: Vec<String>,
    /// Fingerprints of the keys that sign, that of the key before last.
    keys: Vec<String>,
    machines: Vec<Machine>,
}

/// What becomes of a machine that starts now.
struct Machine {
    name: String,
    file: PathBuf,
    /// What its host must give it, where it does: kernel and initrd that are files, and the command line.
    given: [Option<String>; 3],
    /// Why it does not open, or not however it may be started.
    why: Vec<String>,
    /// Whether it would not open if it were enrolled with the new key of a rotation.
    by_old_alone: bool,
}

/// Looks, tells, and ends with what is worst. What cannot be told of a machine that is none of vmseal's
/// is no matter; of one that is to be handed signatures it is as bad as if it would not open.
pub fn run(global: &Global, args: &Check, talk: Talk) -> Done {
    let Some(path) = args.libvirt.as_deref() else { return look(global, args, None, talk) };
    let xml = read(path, libvirt::MAX_LEN)?;
    let looked = domain(path, &xml).map_err(Into::into);
    let looked = looked.and_then(|domain| look(global, args, Some(domain), talk));
    looked.map_err(|error| match error.downcast_ref::<Error>() {
        Some(cause) if cause.exit() == Exit::Refused && libvirt::is_handed_signatures(&xml) => {
            Error::from(TemplateError::Untold { why: cause.to_string() }).into()
        }
        _ => error,
    })
}

fn look(global: &Global, args: &Check, domain: Option<Described>, talk: Talk) -> Done {
    let templates = Templates::below(&global.root);
    let mut wanted = args.vm.clone();
    wanted.extend(domain.as_ref().and_then(|domain| domain.name.clone()));
    let names = match args.names.as_slice() {
        [] => templates.names().map_err(Error::from)?,
        names => names.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
    };
    let memory = Memory::default();
    let mut files = BTreeSet::new();
    let mut found = vec![];
    for name in names {
        let mut findings =
            Findings { name, is_unread: false, faults: vec![], keys: vec![], machines: vec![] };
        match templates.read(&findings.name) {
            Err(error) => {
                findings.faults.push(error.to_string());
                findings.is_unread = true;
            }
            Ok(template) => {
                let is_wanted = |vm: &&Vm| wanted.is_empty() || wanted.contains(&vm.name);
                let first = template.vms.iter().find(is_wanted);
                if !wanted.is_empty() && first.is_none() {
                    continue;
                }
                let differences = domain
                    .as_ref()
                    .zip(first)
                    .map(|(domain, vm)| differences(&template, vm, domain));
                findings.look_at(global, &templates, &template, &mut files, &memory);
                findings
                    .machines
                    .retain(|machine| wanted.is_empty() || wanted.contains(&machine.name));
                if let Some(machine) = findings.machines.first_mut() {
                    machine.why.extend(differences.into_iter().flatten());
                }
            }
        }
        found.push(findings);
    }
    let is_found = |name: &String| found.iter().any(|findings| findings.has(name));
    if !wanted.is_empty() && wanted.iter().all(is_found) {
        // Another template is another matter.
        found.retain(|findings| !findings.is_unread);
    }
    if talk.json {
        let all: Vec<Value> = found.iter().map(Findings::to_json).collect();
        talk.object(&json!({ "templates": all }));
    }
    found.iter().flat_map(Findings::lines).for_each(|line| talk.prose(line));
    verdict(&found, &wanted)
}

/// A fault outweighs a machine that was not given its signatures.
fn verdict(found: &[Findings], wanted: &[String]) -> Done {
    let known = |name: &String| found.iter().any(|findings| findings.has(name));
    let count = found.iter().map(|findings| findings.faults.len()).sum();
    if let Some((first, why)) =
        found.iter().find_map(|findings| Some((&findings.name, findings.faults.first()?)))
    {
        let (first, why) = (first.clone(), why.clone());
        return Err(Error::from(TemplateError::Faulty { count, first, why }).into());
    }
    if let Some(name) = wanted.iter().find(|name| !known(name)) {
        return Err(Error::from(TemplateError::NoMachine { name: name.clone() }).into());
    }
    let open = found.iter().flat_map(|findings| {
        let open = findings.machines.iter().filter(|machine| !machine.why.is_empty());
        open.map(|machine| (machine.name.clone(), findings.name.clone()))
    });
    let open: Vec<_> = open.collect();
    match open.first().cloned() {
        None => Ok(()),
        Some((first, template)) => {
            let count = open.len();
            Err(Error::from(TemplateError::NotDelivered { count, first, template }).into())
        }
    }
}

/// The machine that an XML describes.
fn domain(path: &Path, xml: &str) -> Result<Described, Error> {
    let refused = |error| TemplateError::Import { path: path.to_owned(), error };
    let machine = libvirt::started(xml).map_err(refused)?;
    match machine.name {
        Some(_) => Ok(machine),
        None => Err(refused(ImportError::NoName).into()),
    }
}

impl Findings {
    fn look_at(
        &mut self,
        global: &Global,
        templates: &Templates,
        template: &Template,
        files: &mut BTreeSet<PathBuf>,
        memory: &Memory,
    ) {
        self.faults.extend(faults(template).iter().map(ToString::to_string));
        for vm in template.machines() {
            let path = path_of(template, &vm.name);
            if !files.insert(path.clone()) {
                self.faults.push(TemplateError::SameFile { path }.to_string());
            }
        }
        if !self.faults.is_empty() {
            return;
        }
        let quiet = Talk { quiet: true, verbose: 0, json: false };
        match Work::of(global, templates, &template.name, memory, quiet) {
            Err(error) => self.faults.push(error.to_string()),
            Ok(work) => {
                self.keys = work.keys.all().map(fingerprint).collect();
                match machines(&work) {
                    Err(error) => self.faults.push(error.to_string()),
                    Ok(machines) => self.machines = machines,
                }
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.machines.iter().any(|machine| machine.name == name)
    }

    fn lines(&self) -> Vec<String> {
        let Self { name, faults, machines, .. } = self;
        if !faults.is_empty() {
            let faults = faults.iter().map(|fault| format!("  {}", printable(fault, 400)));
            return [format!("template {name}: wrong")].into_iter().chain(faults).collect();
        }
        let open = machines.iter().filter(|machine| !machine.why.is_empty());
        let open: Vec<String> = open
            .map(|machine| {
                let why = printable(&machine.why.join("; "), 400);
                format!("  {} does not open: {why}", machine.name)
            })
            .collect();
        let (count, all) = (machines.len() - open.len(), machines.len());
        let head = match open.is_empty() {
            true => {
                format!("template {name}: ok, {all} of {all} machines open with what is delivered")
            }
            false => {
                format!("template {name}: {count} of {all} machines open with what is delivered")
            }
        };
        let more = open.len().saturating_sub(NAMED);
        let rest = (more > 0).then(|| format!("  and {more} more do not open"));
        let open = open.into_iter().take(NAMED).chain(rest);
        [head].into_iter().chain(open).chain(self.of_rotation()).collect()
    }

    /// What is to be known while two keys sign.
    fn of_rotation(&self) -> Vec<String> {
        let [present, old] = self.keys.as_slice() else { return vec![] };
        let name = &self.name;
        let two = format!(
            "  two keys sign, until its rotation is finished: {present}, and {old} before it"
        );
        let by_old = self.machines.iter().filter(|machine| machine.by_old_alone).count();
        let run =
            || format!("  {by_old} open by the key before only: vmseal reseal --template {name}");
        [two].into_iter().chain((by_old > 0).then(run)).collect()
    }

    fn to_json(&self) -> Value {
        let machines = self.machines.iter().map(|machine| {
            let [kernel, initrd, cmdline] = &machine.given;
            json!({
                "name": machine.name, "file": machine.file,
                "kernel": kernel, "initrd": initrd, "cmdline": cmdline,
                "covered": machine.why.is_empty(), "why": machine.why,
                "by_old_key_alone": machine.by_old_alone,
            })
        });
        json!({
            "name": self.name, "faults": self.faults, "keys": self.keys,
            "machines": machines.collect::<Vec<_>>(),
        })
    }
}

/// What the host must give a machine with these words of its own.
fn given(template: &Template, own: &str) -> [Option<String>; 3] {
    let Boot::Kernel { kernel, initrd, .. } = &template.boot else { return [const { None }; 3] };
    let file = |material: &Material| match material {
        Material::File(path) => Some(path.display().to_string()),
        Material::Digests(_) => None,
    };
    [file(kernel), file(initrd), Some(template.cmdline(own))]
}

/// Each machine of the plan, and what it lacks.
fn machines(work: &Work) -> Result<Vec<Machine>, Error> {
    let there = delivered(&work.template, &work.plan, &work.keys)?;
    let machines = work.plan.vms.iter().zip(there).map(|(vm, delivered)| {
        let mut why = vm.open.clone();
        why.extend(delivered.lack(vm.boots.len()));
        let (name, file) = (vm.name.clone(), path_of(&work.template, &vm.name));
        let by_old_alone = delivered.is_by_old_alone(vm.boots.len());
        Machine { name, file, given: given(&work.template, &vm.own), why, by_old_alone }
    });
    Ok(machines.collect())
}
