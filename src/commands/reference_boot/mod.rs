//! `vmseal reference-boot`: boots a throw-away machine of each size of a template, and keeps what it
//! measured for `vmseal reseal --template`.

mod compare;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use vmseal::Error;
use vmseal::reference::{Accelerator, Kept, QemuLine, Recorded, ReferenceError, References, Size};
use vmseal::reseal::Store;
use vmseal::template::{Template, Templates};

use super::Done;
use super::terminal::Talk;
use crate::cli::{Accel, Global, ReferenceBoot};

/// What a dry run shows in place of the guest's memory, which lies in no file.
const MEMORY: &str = "/proc/self/fd/MEMORY";

/// Nor does a disk that is made for the boot.
const DISK: &str = "/proc/self/fd/DISK";

/// Boots, compares, keeps.
pub fn run(global: &Global, args: &ReferenceBoot, talk: Talk) -> Done {
    let templates = Templates::below(&global.root);
    let mut wanted = vec![];
    match args.all {
        false => {
            for name in args.template.iter().collect::<BTreeSet<_>>() {
                wanted.push(templates.read(name).map_err(Error::from)?);
            }
        }
        true => {
            for name in templates.names().map_err(Error::from)? {
                let template = templates.read(&name).map_err(Error::from)?;
                match template.references.is_empty() {
                    true => wanted.push(template),
                    false => talk.detail(format_args!("template {name} names its own reference")),
                }
            }
        }
    }
    let ways = match args.accel {
        Accel::Auto => Accelerator::probe(),
        Accel::Kvm => vec![Accelerator::Kvm],
        Accel::Tcg => vec![Accelerator::Tcg],
    };
    let mut told = vec![];
    for template in &wanted {
        told.push(match args.dry_run {
            true => show(template, &ways, talk)?,
            false => record(global, args, template, &ways, talk)?,
        });
    }
    if talk.json {
        talk.object(&json!({ "templates": told }));
    }
    Ok(())
}

fn show(template: &Template, ways: &[Accelerator], talk: Talk) -> Result<Value, Error> {
    let mut lines = vec![];
    for size in sizes(template) {
        let way = ways.first().copied().unwrap_or(Accelerator::Tcg);
        let mut place = |kept, path: &Path| {
            Ok(match kept {
                Kept::Program => DISK.to_owned(),
                Kept::File | Kept::Disk => path.to_string_lossy().into_owned(),
            })
        };
        let line = QemuLine::new(template, size, way, MEMORY, &mut place)?.to_string();
        talk.prose(&line);
        lines.push(json!({ "memory": size.memory, "cpus": size.cpus, "qemu": line }));
    }
    Ok(json!({ "name": template.name, "boots": lines }))
}

fn record(
    global: &Global,
    args: &ReferenceBoot,
    template: &Template,
    ways: &[Accelerator],
    talk: Talk,
) -> Result<Value, Error> {
    let name = &template.name;
    if !template.references.is_empty() {
        talk.remark(format_args!(
            "template {name} names a [[reference]] of its own: that goes on to count"
        ));
    }
    let mut references = References::of(&global.root, name)?;
    let qemu = version(template)?;
    let mut boots: Vec<(Size, Recorded)> = vec![];
    let mut ways = ways.to_vec();
    for size in sizes(template) {
        let Size { memory, cpus } = size;
        talk.detail(format_args!("template {name}: booting with {memory} MiB, {cpus} processors"));
        let recorded =
            vmseal::reference::record(template, size, &ways, Duration::from_secs(args.limit))?;
        // What came up once is how the others are booted too.
        ways = vec![recorded.accelerator];
        talk.detail(format_args!("template {name}: {} extends", recorded.extends));
        boots.push((size, recorded));
    }
    compare::all(&Templates::below(&global.root), template, qemu, &boots, talk)?;
    // Nobody reseals while logs are replaced.
    let _alone = Store::below(&global.root).alone().map_err(Error::from)?;
    let changed = references.keep(template, qemu, &boots)?;
    let number = boots.len();
    talk.prose(match changed.len() {
        0 => format!("template {name}: {number} reference boots, as before"),
        new => format!("template {name}: {number} reference boots, {new} of them new or changed"),
    });
    if !changed.is_empty() {
        talk.remark(format_args!("have them approved: vmseal reseal --template {name}"));
    }
    let told = boots.iter().zip(references.entries()).map(|((size, recorded), entry)| {
        json!({
            "memory": size.memory, "cpus": size.cpus, "extends": recorded.extends,
            "pcrs": recorded.values, "accelerator": entry.accelerator, "changed": changed.contains(size),
            "log": references.path(&entry.log),
            "userspace": entry.userspace.as_ref().map(|name| references.path(name)),
        })
    });
    let version = format!("{}.{}", qemu.0, qemu.1);
    Ok(json!({ "name": name, "qemu": version, "boots": told.collect::<Vec<_>>() }))
}

/// Every size of machine that the template tells of.
fn sizes(template: &Template) -> BTreeSet<Size> {
    let machines = template.machines();
    let sizes = machines.iter().flat_map(|vm| template.sizes(vm));
    sizes.map(|(memory, cpus)| Size::or_default(memory, cpus)).collect()
}

/// The version of the template's QEMU.
fn version(template: &Template) -> Result<(u32, u32), Error> {
    let program = &template.hardware.qemu;
    let refused = |cause: String| ReferenceError::Program { program: program.clone(), cause };
    let output = Command::new(program).arg("--version").output().map_err(|error| {
        refused(match error.kind() {
            std::io::ErrorKind::NotFound => "it is not installed".to_owned(),
            _ => error.to_string(),
        })
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace().skip_while(|word| *word != "version").skip(1);
    let mut numbers = words.next().unwrap_or_default().split('.').map(|part| part.parse().ok());
    let (Some(major), Some(minor)) = (numbers.next().flatten(), numbers.next().flatten()) else {
        return Err(refused("it tells no version".to_owned()).into());
    };
    match template.qemu {
        Some(wanted) if wanted != (major, minor) => {
            Err(ReferenceError::Version { wanted, found: (major, minor) }.into())
        }
        _ => Ok((major, minor)),
    }
}
