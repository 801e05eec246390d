//! The text of a template, from machines as their host describes them.

use std::fmt::Write;

use super::error::ImportError;
use super::{Described, words};
use crate::authority::is_template_name;
use crate::template::{DeliveryKind, Template, Vm};

/// Where the log of a reference boot is looked for, until somebody names another.
const REFERENCES: &str = "/var/lib/vmseal/references";

/// A template that was made, and what is still open in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its text, which [`Template::parse`] reads.
    pub text: String,
    /// What somebody must fill in, or look at.
    pub open: Vec<String>,
}

impl Draft {
    /// The template of this name, of these machines. `source` is told in its first line.
    ///
    /// # Errors
    /// [`ImportError::Differs`] where they do not boot alike, and what a template cannot tell.
    pub fn of(
        name: &str,
        source: &str,
        machines: &[Described],
        delivery: DeliveryKind,
    ) -> Result<Self, ImportError> {
        let first = require_alike(machines)?;
        let lines: Vec<&str> = machines.iter().map(|machine| machine.cmdline.as_str()).collect();
        let (cmdline, own) = words::split(&lines, first.own_first);
        let mut open: Vec<String> = machines
            .iter()
            .flat_map(|machine| {
                let name = machine.name.as_deref().unwrap_or("the machine");
                machine.open.iter().map(move |open| format!("{name}: {open}"))
            })
            .collect();
        let mut text = String::new();
        let mut line = |line: String| writeln!(text, "{line}").unwrap_or_default();
        line(format!("# Made of {}", comment(source)));
        line("boot = \"kernel\"".to_owned());
        line(format!("kernel = {}", quoted(&first.kernel)?));
        line(format!("initrd = {}", quoted(&first.initrd)?));
        line(format!("cmdline = {}", quoted(&cmdline)?));
        let memory = same(machines, |machine| machine.memory);
        let cpus = same(machines, |machine| machine.cpus);
        if let Some(memory) = memory {
            line(format!("memory = [{memory}]"));
        }
        if let Some(cpus) = cpus {
            line(format!("cpus = [{cpus}]"));
        }
        let strangers = strangers(machines, &own);
        if !strangers.is_empty() {
            let starts = Template::default_own_words().into_iter().chain(strangers.iter().cloned());
            let starts: Vec<String> =
                starts.map(|start| quoted(&start)).collect::<Result<_, _>>()?;
            line(format!(
                "# fill in: own_words = [{}], if machines may have these",
                starts.join(", ")
            ));
            open.push(format!(
                "own_words: machines differ in words that not every machine may have: {}",
                strangers.join(" ")
            ));
        }
        if first.firmware.is_some() {
            line(
                "# fill in: vars = \"/usr/share/OVMF/OVMF_VARS_4M.fd\", as a new machine gets it"
                    .to_owned(),
            );
            open.push("vars: the firmware's variables, as a new machine gets them".to_owned());
        }
        machine(name, first)?.into_iter().for_each(&mut line);
        open.push(match first.firmware {
            Some(_) => format!("reference: then run vmseal reference-boot {name}"),
            None => "reference: the log of a boot that this host itself started".to_owned(),
        });
        for (machine, own) in machines.iter().zip(&own) {
            let Some(name) = &machine.name else { continue };
            line(format!("\n[[vm]]\nname = {}", quoted(name)?));
            if !own.is_empty() {
                line(format!("cmdline = {}", quoted(own)?));
            }
            if let (None, Some(memory)) = (memory, machine.memory) {
                line(format!("memory = {memory}"));
            }
            if let (None, Some(cpus)) = (cpus, machine.cpus) {
                line(format!("cpus = {cpus}"));
            }
        }
        line(format!("\n[delivery]\nkind = \"{}\"", delivery.name()));
        require_told(name, &text, machines)?;
        Ok(Self { text, open })
    }
}

/// The first machine; the others boot as it does.
fn require_alike(machines: &[Described]) -> Result<&Described, ImportError> {
    let first = machines.first().ok_or(ImportError::Nothing)?;
    let name = |machine: &Described| machine.name.clone().unwrap_or_default();
    for machine in machines {
        match &machine.name {
            None if machines.len() > 1 => return Err(ImportError::NoName),
            Some(name) if !is_template_name(name) => {
                return Err(ImportError::Name { found: name.clone() });
            }
            _ => {}
        }
        let what = [
            ("kernel", machine.kernel == first.kernel),
            ("initrd", machine.initrd == first.initrd),
            ("firmware", machine.firmware == first.firmware),
            ("setting of Secure Boot", machine.secure_boot == first.secure_boot),
        ];
        if let Some((what, _)) = what.into_iter().find(|(_, is_same)| !is_same) {
            return Err(ImportError::Differs { what, first: name(first), other: name(machine) });
        }
    }
    Ok(first)
}

/// What every machine has.
fn same<T: Copy + PartialEq>(
    machines: &[Described],
    of: impl Fn(&Described) -> Option<T>,
) -> Option<T> {
    let first = machines.first().and_then(&of)?;
    machines.iter().all(|machine| of(machine) == Some(first)).then_some(first)
}

/// What a reference boot is started with, or where its log is looked for where that is not known.
fn machine(name: &str, machine: &Described) -> Result<Vec<String>, ImportError> {
    let mut lines = vec![];
    match &machine.firmware {
        Some(firmware) => {
            lines.push("\n[machine]".to_owned());
            if let Some(kind) = &machine.machine_type {
                lines.push(format!("type = {}", quoted(kind)?));
            }
            lines.push(format!("firmware = {}", quoted(firmware)?));
            if machine.secure_boot {
                lines.push("secure_boot = true".to_owned());
            }
            if let Some(tpm) = &machine.tpm {
                lines.push(format!("tpm = {}", quoted(tpm)?));
            }
        }
        None => {
            let log = format!("{REFERENCES}/{name}.log");
            lines.push("\n[[reference]]".to_owned());
            lines.push(
                "# fill in: the event log of a boot of such a machine, that this host itself started"
                    .to_owned(),
            );
            lines.push(format!("log = {}", quoted(&log)?));
            for (key, value) in [("memory", machine.memory), ("cpus", machine.cpus.map(u64::from))]
            {
                lines.extend(value.map(|value| format!("{key} = {value}")));
            }
        }
    }
    Ok(lines)
}

/// How the words begin that machines have of their own, and may not unless the template says so.
fn strangers(machines: &[Described], own: &[String]) -> Vec<String> {
    let known = Template::default_own_words();
    let is_known = |word: &str| {
        word == Template::ALL || known.iter().any(|start| word.starts_with(start.as_str()))
    };
    // In a template of one machine no word is another's.
    let words = own.iter().filter(|_| !machines.is_empty()).flat_map(|own| own.split(' '));
    let strange = words.filter(|word| !word.is_empty() && !is_known(word));
    let mut starts: Vec<String> = strange
        .map(|word| match word.split_once('=') {
            Some((key, _)) => format!("{key}="),
            None => word.to_owned(),
        })
        .collect();
    starts.sort();
    starts.dedup();
    starts
}

/// What was written must be read as what was described.
fn require_told(name: &str, text: &str, machines: &[Described]) -> Result<(), ImportError> {
    let untellable = |cause: String| ImportError::Untellable { cause };
    let template = Template::parse(name, text).map_err(untellable)?;
    let vms: Vec<Vm> = template.machines();
    for (machine, vm) in machines.iter().zip(&vms) {
        if template.cmdline(&vm.cmdline) != machine.cmdline {
            let name = &vm.name;
            return Err(untellable(format!("the spaces in the command line of {name}")));
        }
    }
    Ok(())
}

/// A string of TOML.
fn quoted(text: &str) -> Result<String, ImportError> {
    if text.chars().any(char::is_control) {
        let cause = format!("there is a control character in {text}");
        return Err(ImportError::Untellable { cause });
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// What can stand in a comment.
fn comment(text: &str) -> String {
    crate::measurement::text::printable(text, 200).to_string()
}
