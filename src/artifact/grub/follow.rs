//! Learns from the log of a boot whose script is gone: the script to come is walked beside the log,
//! and where both do the same, the log says what files do not.

use std::collections::BTreeMap;

use super::facts::{Answer, Facts};
use super::files::{BootFiles, FileRef, normal_path};
use super::machine::{Machine, Picked, Stop};
use super::teach::{Expected, Teacher, devices, facts_of, image, split_device};
use crate::artifact::{FilesError, Found, Volume};
use crate::measurement::{Digest, Event, EventData, EventLog};

/// How far ahead in the log an event of the walk is looked for: past the entries of a menu.
const WINDOW: usize = 256;
/// Most commands whose outcome is found out.
const MAX_OUTCOMES: usize = 24;
/// Most configurations that are tried as the one at hand.
const MAX_CONFIGS: usize = 8;

/// How a walk goes beside the log of another boot.
#[derive(Debug, Clone, Default)]
pub(super) struct Following {
    /// Whether the last event of the walk is in the log too.
    in_step: bool,
    /// Events of the walk that are in the log too.
    common: usize,
    /// What is taken for the outcome of commands; success where nothing is said.
    outcomes: BTreeMap<String, bool>,
    /// The commands whose outcome something depended on, in order.
    asked: Vec<String>,
}

impl Following {
    pub(super) fn outcome(&mut self, question: &str) -> bool {
        if !self.asked.iter().any(|asked| asked == question) {
            self.asked.push(question.to_owned());
        }
        self.outcomes.get(question).copied().unwrap_or(true)
    }
}

impl Teacher<'_> {
    /// Looks for an event of the walk in the log, from where the last one was found.
    pub(super) fn follow(&mut self, pcr: u64, label: &str) {
        let Some(following) = &mut self.following else { return };
        let mut ahead = self.expected.iter().skip(self.at).take(WINDOW);
        let found = ahead.position(|next| u64::from(next.pcr) == pcr && next.label == label);
        following.in_step = found.is_some();
        if let Some(found) = found {
            self.at += found + 1;
            following.common += 1;
        }
    }

    /// Whether the log is a witness here: of its own boot always, of another only in step with it.
    pub(super) fn may_answer(&self) -> bool {
        self.following.as_ref().is_none_or(|following| following.in_step)
    }

    /// Whether another boot ran a command that is this module's, or asked for the module: not read
    /// then, it is in the image, or GRUB takes no module from disk.
    pub(super) fn did_without(&self, module: &str, commands: &BTreeMap<String, String>) -> bool {
        let is_of = |label: &str| {
            let mut words = label.strip_prefix("grub_cmd: ")?.split_ascii_whitespace();
            let name = words.next()?;
            let asks = name == "insmod" && words.next() == Some(module);
            Some(asks || commands.get(name).is_some_and(|of| of == module))
        };
        self.following.is_some()
            && self.expected.iter().any(|event| is_of(&event.label).unwrap_or(false))
    }

    /// Whether the log of another boot has this file somewhere.
    pub(super) fn has_read(&self, path: &str) -> bool {
        self.following.is_some() && self.expected.iter().any(|event| event.file() == Some(path))
    }
}

/// What `log` teaches of a GRUB that will walk `files`, where the script that it walked is not among
/// them. What the two boots do not have in common stays unknown.
///
/// # Errors
/// [`FilesError`], also where the log has no configuration that is among the files.
pub fn follow(files: &BootFiles, log: &EventLog) -> Result<Facts, FilesError> {
    let expected: Vec<_> = log.events().iter().filter_map(Expected::of).collect();
    let devices = devices(files, &expected)?;
    let configs = expected.iter().enumerate().filter(|(_, event)| {
        event.file().is_some_and(|name| name.ends_with(".cfg") || name.ends_with(".conf"))
    });
    let mut best: Option<(usize, Facts)> = None;
    for (index, config) in configs.take(MAX_CONFIGS) {
        if !is_at_hand(files, &devices, &config.label)? {
            continue;
        }
        let facts = facts_of(&expected, index, config.label.clone(), devices.clone());
        let (common, facts) = outcomes_of(files, &expected, facts);
        if best.as_ref().is_none_or(|(most, _)| common > *most) {
            best = Some((common, facts));
        }
    }
    let nothing = || FilesError {
        path: "grub.cfg".into(),
        cause: "the log of the boot that ran names no configuration that is at hand".into(),
    };
    let (_, mut facts) = best.filter(|(common, _)| *common > 0).ok_or_else(nothing)?;
    facts.image = image(files, log)?;
    Ok(facts.about_image_of(log))
}

impl Facts {
    /// The same, as facts about the image that `log` has measured: they are from files to come, and
    /// another image may hold other modules.
    #[must_use]
    pub fn about_image_of(mut self, log: &EventLog) -> Self {
        if let Some((file, digests)) = &mut self.image {
            *digests = digests_of(log, file);
        }
        self
    }
}

/// What the log has measured of an image.
fn digests_of(log: &EventLog, file: &FileRef) -> Vec<Digest> {
    let is_of = |event: &&Event| match event.data() {
        EventData::Image { device_path: Some(path), .. } => path.file().is_some_and(|text| {
            normal_path(&text.as_str().replace('\\', "/")).eq_ignore_ascii_case(&file.path)
        }),
        _ => false,
    };
    let events = log.events().iter().filter(is_of);
    events.flat_map(|event| event.known_digests().collect::<Vec<_>>()).collect()
}

/// Whether the bytes of a file are there, under the name that GRUB has for it.
fn is_at_hand(
    files: &BootFiles,
    devices: &BTreeMap<String, Volume>,
    name: &str,
) -> Result<bool, FilesError> {
    let Some((device, path)) = split_device(name) else { return Ok(false) };
    let Some(volume) = devices.get(device) else { return Ok(false) };
    Ok(matches!(files.files.find(*volume, &normal_path(path))?, Some(Found::Bytes(_))))
}

/// Finds out how the commands ended on whose outcome the script depends: the way that has more in
/// common with the log. Where both have as much, it is not known.
fn outcomes_of(files: &BootFiles, expected: &[Expected], facts: Facts) -> (usize, Facts) {
    let mut known = BTreeMap::new();
    let mut judged: Vec<String> = Vec::new();
    let mut trial = walk_beside(files, expected, &facts, &known);
    for _ in 0..MAX_OUTCOMES {
        let Some(question) = trial.asked.iter().find(|asked| !judged.contains(asked)).cloned()
        else {
            break;
        };
        judged.push(question.clone());
        let failed = known.iter().map(|(q, a): (&String, &bool)| (q.clone(), *a));
        let failed: BTreeMap<_, _> = failed.chain([(question.clone(), false)]).collect();
        let other = walk_beside(files, expected, &facts, &failed);
        if other.common > trial.common {
            known = failed;
            trial = other;
        } else if other.common < trial.common {
            known.insert(question, true);
        }
    }
    let mut facts = facts;
    facts.answers = trial.answers;
    facts.answers.extend(known.into_iter().map(|(question, ended)| {
        let answer = if ended { Answer::Yes } else { Answer::No };
        (question, answer)
    }));
    (trial.common, facts)
}

/// One walk beside the log.
struct Trial {
    common: usize,
    asked: Vec<String>,
    answers: BTreeMap<String, Answer>,
}

fn walk_beside(
    files: &BootFiles,
    expected: &[Expected],
    facts: &Facts,
    outcomes: &BTreeMap<String, bool>,
) -> Trial {
    let mut machine = Machine::new(*files, facts, Picked::Default);
    let following = Following { outcomes: outcomes.clone(), ..Following::default() };
    machine.teacher =
        Some(Teacher { expected, at: 0, questions: Vec::new(), following: Some(following) });
    let (Ok(()) | Err(Stop::Why(_) | Stop::Differs(_) | Stop::Menu | Stop::Booted(_))) =
        machine.start();
    let following = machine.teacher.take().and_then(|teacher| teacher.following);
    let Following { common, asked, .. } = following.unwrap_or_default();
    Trial { common, asked, answers: machine.answers }
}
