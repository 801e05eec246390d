//! `vmseal template list`: the templates of this host. Nothing that they name is read but their keys.

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::measurement::text::printable;
use vmseal::template::{Template, TemplateError, Templates};

use crate::cli::Global;
use crate::commands::reseal::{count, fingerprint};
use crate::commands::terminal::Talk;
use crate::commands::{Done, authority};

/// A template, as far as it can be told.
struct Listed {
    name: String,
    told: Result<Told, Error>,
}

/// What there is of a template.
struct Told {
    template: Template,
    /// Fingerprints of its keys, that of the key before last.
    keys: Vec<String>,
    /// How often these keys' holder approved. When, the account does not know.
    approvals: u64,
}

/// Lists them; a malformed one is a line too, and decides how it ends.
pub fn run(global: &Global, talk: Talk) -> Done {
    let templates = Templates::below(&global.root);
    let names = match templates.names() {
        Err(none @ TemplateError::None { .. }) => {
            talk.prose(none);
            vec![]
        }
        names => names.map_err(Error::from)?,
    };
    let listed = names.into_iter().map(|name| {
        let told = Told::of(global, &templates, &name);
        Listed { name, told }
    });
    let listed: Vec<Listed> = listed.collect();
    if talk.json {
        let all: Vec<Value> = listed.iter().map(Listed::to_json).collect();
        talk.object(&json!({ "templates": all }));
    }
    listed.iter().map(Listed::line).for_each(|line| talk.prose(line));
    let faults: Vec<(&String, &Error)> =
        listed.iter().filter_map(|it| Some((&it.name, it.told.as_ref().err()?))).collect();
    match faults.first() {
        None => Ok(()),
        Some((first, why)) => {
            let (count, first, why) = (faults.len(), (*first).clone(), why.to_string());
            Err(Error::from(TemplateError::Faulty { count, first, why }).into())
        }
    }
}

impl Told {
    fn of(global: &Global, templates: &Templates, name: &str) -> Result<Self, Error> {
        let template = templates.read(name)?;
        let store = authority::store_of_template(global, name, template.authority.as_deref())?;
        let keys: Vec<String> = match store.path().symlink_metadata() {
            // Nobody has made one yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => vec![],
            _ => store.keys_of(name)?.all().map(fingerprint).collect(),
        };
        let account = templates.account(name)?;
        let approvals = if keys.contains(&account.pkfp) { account.generation } else { 0 };
        Ok(Self { template, keys, approvals })
    }
}

impl Listed {
    fn line(&self) -> String {
        let Told { template, keys, approvals } = match &self.told {
            Ok(told) => told,
            Err(why) => {
                return format!("{}: wrong: {}", self.name, printable(&why.to_string(), 400));
            }
        };
        let machines = count(template.machines().len(), "machine");
        let key = match keys.as_slice() {
            [] => "no key".to_owned(),
            [key] => format!("key {key}"),
            [key, old, ..] => format!("key {key}, and {old} before it"),
        };
        let approved = match approvals {
            0 => "never approved".to_owned(),
            number => format!("approval {number}"),
        };
        let (kind, folder) = (template.delivery.kind.name(), template.delivery.folder.display());
        let boot = template.boot.name();
        format!("{}: {boot}, {machines}, {kind} by {folder}, {key}, {approved}", self.name)
    }

    fn to_json(&self) -> Value {
        match &self.told {
            Err(why) => json!({
                "name": self.name, "fault": why.to_string(), "boot": null, "machines": null,
                "delivery": null, "pkfp": null, "old_pkfp": null, "approvals": null,
            }),
            Ok(Told { template, keys, approvals }) => json!({
                "name": self.name, "fault": null, "boot": template.boot.name(),
                "machines": template.machines().len(),
                "delivery": {
                    "kind": template.delivery.kind.name(), "folder": template.delivery.folder,
                },
                "pkfp": keys.first(), "old_pkfp": keys.get(1), "approvals": approvals,
            }),
        }
    }
}
