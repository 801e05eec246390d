//! Measured and predicted must be the same where both can be told: the boots that were just seen are
//! predicted from their own logs and the template's files.

use std::path::Path;

use vmseal::Error;
use vmseal::artifact::hashing::Memory;
use vmseal::authority::AuthorityError;
use vmseal::boot::BootLogs;
use vmseal::measurement::PcrValues;
use vmseal::policy::SigningKey;
use vmseal::reference::{Recorded, ReferenceError, References, Scratch, Size, compare};
use vmseal::template::wire::Question;
use vmseal::template::{Boot, Reference, Sources, Template, Templates};

use crate::commands::reseal::{ask, given};
use crate::commands::terminal::Talk;

/// Compares all boots of a template.
///
/// # Errors
/// [`ReferenceError::Foretold`]; those of predicting what the host gives.
pub fn all(
    templates: &Templates,
    template: &Template,
    qemu: (u32, u32),
    boots: &[(Size, Recorded)],
    talk: Talk,
) -> Result<(), Error> {
    if let Boot::Kernel { .. } = template.boot {
        return boots.iter().try_for_each(|(size, it)| of_kernel(template, qemu, *size, it));
    }
    let told = of_disk(templates, template, qemu, boots);
    match told {
        // What its files alone do not tell, the next reseal refuses by name.
        Err(error @ Error::Template(_)) => {
            talk.remark(format_args!("not compared with the files: {error}"));
            Ok(())
        }
        done => done,
    }
}

/// The disk is read by the process that a reseal has read it, from the logs as they would be kept.
fn of_disk(
    templates: &Templates,
    template: &Template,
    qemu: (u32, u32),
    boots: &[(Size, Recorded)],
) -> Result<(), Error> {
    let name = &template.name;
    let scratch = Scratch::new()?;
    let mut references = References::of(scratch.path(), name)?;
    references.keep(template, qemu, boots)?;
    // Nothing is signed by it.
    let key = SigningKey::generate().map_err(AuthorityError::from)?;
    let question = Question {
        name: name.clone(),
        template: templates.text(name)? + &references.to_toml(),
        approved: vec![],
        public: key.public().pem().to_owned(),
    };
    let told = ask(template, &question)?;
    for (size, recorded) in boots {
        let of_size = told.shapes.iter().filter(|shape| shape.machine.is_none()).filter(|shape| {
            shape.kinds.iter().any(|kind| Size::or_default(kind.memory, kind.cpus) == *size)
        });
        let values: Vec<&PcrValues> = of_size.map(|shape| &shape.values).collect();
        // Any entry may be the one that was started.
        let differing = values.iter().map(|values| {
            let mut other =
                values.iter().filter(|(pcr, it)| recorded.values.get(*pcr) != Some(*it));
            other.next().map(|(pcr, _)| pcr)
        });
        let differing: Vec<_> = differing.collect();
        if let (Some(Some(pcr)), false) = (differing.first(), differing.contains(&None)) {
            let event = format!("{} gives something else", disk_of(template).display());
            return Err(ReferenceError::Foretold { pcr: *pcr, event }.into());
        }
    }
    Ok(())
}

fn disk_of(template: &Template) -> &Path {
    template.boot.paths().first().map_or(Path::new("the disk"), |path| path.as_path())
}

/// Predicts each boot, where the host gives the kernel.
fn of_kernel(
    template: &Template,
    qemu: (u32, u32),
    size: Size,
    recorded: &Recorded,
) -> Result<(), Error> {
    let reference = Reference {
        log: "reference boot".into(),
        userspace: None,
        memory: Some(size.memory),
        cpus: Some(size.cpus),
    };
    let its = Template {
        qemu: Some(template.qemu.unwrap_or(qemu)),
        references: vec![reference],
        ..template.clone()
    };
    let logs = BootLogs {
        firmware: recorded.logs.log.clone(),
        userspace: Some(recorded.logs.userspace.clone()),
    };
    let Boot::Kernel { kernel, initrd, .. } = &template.boot else { return Ok(()) };
    let (files, memory) = (given(kernel, initrd)?, Memory::default());
    let sources = Sources { next: &files, base: None, vars: None, memory: &memory };
    compare(&its, logs, sources, size, recorded)
}
