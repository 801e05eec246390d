//! The boot as a person tells it: who ran, what it was, which PCR shows it.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::{Component, Coverage};
use crate::measurement::{Event, EventData, EventLog, PcrIndex, UserspaceLog};

/// A chapter of the story, in the order of the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The firmware.
    Firmware,
    /// Secure Boot's state.
    SecureBoot,
    /// What ran between firmware and kernel.
    Loader,
    /// The kernel.
    Kernel,
    /// The initial ramdisk.
    Initrd,
    /// The kernel's command line.
    CommandLine,
    /// What userspace measured afterwards.
    Later,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Firmware => "firmware",
            Self::SecureBoot => "Secure Boot",
            Self::Loader => "loader",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::CommandLine => "command line",
            Self::Later => "later",
        })
    }
}

/// One line of the story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoryLine {
    /// Its chapter.
    pub phase: Phase,
    /// What happened: printable ASCII, bounded.
    pub text: String,
    /// The PCRs that show it.
    pub pcrs: BTreeSet<PcrIndex>,
    /// The numbers of the events that show it; of the userspace log in [`Phase::Later`].
    pub events: Vec<usize>,
}

impl StoryLine {
    fn bare(phase: Phase, text: String) -> Self {
        Self { phase, text, pcrs: BTreeSet::new(), events: Vec::new() }
    }
}

/// Tells the boot of `log`, and of `userspace` after it.
pub fn story(log: &EventLog, userspace: Option<&UserspaceLog>) -> Vec<StoryLine> {
    let coverage = Coverage::of(log);
    let mut lines = vec![firmware(log, &coverage)];
    lines.push(StoryLine {
        pcrs: PcrIndex::new(7).into_iter().collect(),
        ..StoryLine::bare(Phase::SecureBoot, coverage.secure_boot().to_string())
    });
    lines.push(StoryLine::bare(Phase::Loader, coverage.boot_path().to_string()));
    let components = [
        (Component::Loader, Phase::Loader),
        (Component::Kernel, Phase::Kernel),
        (Component::Initrd, Phase::Initrd),
        (Component::Cmdline, Phase::CommandLine),
    ];
    for (component, phase) in components {
        lines.extend(told(log, &coverage, component, phase));
    }
    for (index, event) in userspace.iter().flat_map(|log| log.events()).enumerate() {
        lines.push(StoryLine {
            pcrs: event.pcr.into_iter().collect(),
            events: vec![index],
            ..StoryLine::bare(Phase::Later, event.to_string())
        });
    }
    lines
}

fn firmware(log: &EventLog, coverage: &Coverage) -> StoryLine {
    let version =
        log.events().iter().filter(|event| event.pcr == 0).find_map(|event| match event.data() {
            EventData::CrtmVersion { version } if !version.as_str().trim().is_empty() => {
                Some(format!("version {}", version.shown(80)))
            }
            _ => None,
        });
    let binding = coverage.bindings(Component::Firmware).first();
    let measured = || binding.map(|found| format!("{} measurements", found.events.len()));
    let text = version.or_else(measured).unwrap_or_else(|| "measured nowhere".to_owned());
    StoryLine {
        pcrs: binding.map(|found| found.pcrs.clone()).unwrap_or_default(),
        events: binding.map(|found| found.events.clone()).unwrap_or_default(),
        ..StoryLine::bare(Phase::Firmware, text)
    }
}

/// A line for each event of the component's first binding, or one that says why there is none.
fn told(log: &EventLog, coverage: &Coverage, component: Component, phase: Phase) -> Vec<StoryLine> {
    let Some(binding) = coverage.bindings(component).first() else {
        let reason = coverage.reason(component, &[]);
        return vec![StoryLine::bare(phase, format!("not covered: {reason}"))];
    };
    let told = |number: &usize| {
        let event = log.events().get(*number)?;
        Some(StoryLine {
            phase,
            text: subject(event, component),
            pcrs: PcrIndex::new(event.pcr.into()).into_iter().collect(),
            events: vec![*number],
        })
    };
    let mut lines: Vec<StoryLine> = Vec::new();
    for line in binding.events.iter().filter_map(told) {
        match lines.last_mut().filter(|last| last.text == line.text) {
            Some(last) => last.events.extend(line.events),
            None => lines.push(line),
        }
    }
    lines
}

/// What an event is about, seen as evidence for a component.
fn subject(event: &Event, component: Component) -> String {
    match (event.data(), component) {
        (EventData::KernelCommandLine { cmdline }, _) => cmdline.shown(400),
        (EventData::UkiSection { name }, _) => {
            format!("section {} of the unified kernel image", name.shown(40))
        }
        (_, Component::Loader) if event.pcr == 0 => "the firmware itself".to_owned(),
        (data, _) => data.to_string(),
    }
}
