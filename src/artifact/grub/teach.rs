//! Learns from the log of a boot what its files do not tell, by walking it again.

use std::collections::BTreeMap;
use std::fmt;

use super::facts::{Answer, Beginning, Facts};
use super::files::{BootFiles, FileRef, normal_path};
use super::follow::Following;
use super::image::Image;
use super::machine::{Machine, Picked, Stop};
use super::outcome::{Boot, Walk};
use super::walk::finish;
use crate::artifact::{FilesError, Found, Volume};
use crate::measurement::text::printable;
use crate::measurement::{Digest, Event, EventData, EventLog, EventType, Tag};

/// Most walks that one log is compared with.
const MAX_WALKS: usize = 400;
/// Most configurations that are tried as the one at hand.
const MAX_CONFIGS: usize = 8;

/// One event of GRUB in a log.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) pcr: u8,
    pub(super) label: String,
    digests: Vec<Digest>,
    words: String,
    number: usize,
}

impl Expected {
    pub(super) fn of(event: &Event) -> Option<Self> {
        let ours = matches!(event.pcr, 8 | 9) && event.event_type == EventType::Ipl;
        let raw = event.raw.strip_suffix(&[0]).unwrap_or(&event.raw);
        ours.then(|| Self {
            pcr: u8::try_from(event.pcr).unwrap_or(0),
            label: String::from_utf8_lossy(raw).into_owned(),
            digests: event.known_digests().collect(),
            words: event.data().to_string(),
            number: event.number,
        })
    }

    pub(super) fn file(&self) -> Option<&str> {
        (self.pcr == 9).then_some(self.label.as_str())
    }
}

/// The log that a walk is compared with while it goes.
#[derive(Debug, Clone)]
pub(super) struct Teacher<'a> {
    pub(super) expected: &'a [Expected],
    pub(super) at: usize,
    pub(super) questions: Vec<(String, Vec<Answer>)>,
    /// Where the walk is another boot's than the log's.
    pub(super) following: Option<Following>,
}

impl Teacher<'_> {
    /// Whether the next event of the log is this one; then it is passed.
    pub(super) fn agrees(&mut self, pcr: u64, label: &str, digests: &[Digest]) -> bool {
        if self.following.is_some() {
            self.follow(pcr, label);
            return true;
        }
        let Some(next) = self.expected.get(self.at) else { return false };
        let same_bank = |digest: &&Digest| next.digests.iter().any(|d| d.bank() == digest.bank());
        let mut common = digests.iter().filter(same_bank).peekable();
        let agrees = u64::from(next.pcr) == pcr
            && next.label == label
            && common.peek().is_some()
            && common.all(|digest| next.digests.contains(digest));
        self.at += usize::from(agrees);
        agrees
    }

    /// Whether the next event has this label.
    pub(super) fn is_next(&self, label: &str) -> bool {
        self.expected.get(self.at).is_some_and(|next| next.label == label)
    }

    /// The files that are read before the next command.
    pub(super) fn files_ahead(&self) -> Vec<String> {
        let ahead = self.expected.iter().skip(self.at);
        ahead.map_while(Expected::file).map(str::to_owned).collect()
    }

    /// Notes a question that was answered with its first candidate.
    pub(super) fn asked(&mut self, question: &str, candidates: Vec<Answer>) {
        self.questions.push((question.to_owned(), candidates));
    }
}

/// What a boot's log taught.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// What holds for the boots to come too.
    pub facts: Facts,
    /// The boot itself, derived again.
    pub walk: Walk,
}

/// The files are not those of the boot that the log tells of, or GRUB did what is not modelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReproduced {
    /// Number in the log of the first event that does not follow; `None` where all were
    /// reproduced, but not what comes after them.
    pub event: Option<usize>,
    /// What the log has there, in words.
    pub expected: String,
    /// What follows from the files instead, or why nothing does.
    pub found: String,
    /// The script and the line that led there.
    pub file: String,
    /// Its number, from 1; 0 where no line is to blame.
    pub line: usize,
}

impl fmt::Display for NotReproduced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(event) = self.event {
            write!(f, "event {event}: ")?;
        }
        write!(f, "{}, but {}", self.expected, self.found)?;
        match self.line {
            0 => Ok(()),
            line => write!(f, " ({}, line {line})", printable(&self.file, 120)),
        }
    }
}

impl std::error::Error for NotReproduced {}

impl From<FilesError> for NotReproduced {
    fn from(error: FilesError) -> Self {
        Self {
            event: None,
            expected: "files of the boot".into(),
            found: error.to_string(),
            file: String::new(),
            line: 0,
        }
    }
}

/// Walks the boot that `log` tells of through its own `files`.
///
/// # Errors
/// [`NotReproduced`]: then nothing may be predicted from this log for PCR 8 and 9.
pub fn learn(files: &BootFiles, log: &EventLog) -> Result<Lesson, NotReproduced> {
    let expected: Vec<_> = log.events().iter().filter_map(Expected::of).collect();
    let goal = Goal { expected: &expected, log };
    if expected.is_empty() {
        let facts = Facts::without_tpm(files)?;
        return goal.search(files, &facts).map_err(|(_, error)| error);
    }
    let devices = devices(files, &expected)?;
    let configs = expected.iter().enumerate().filter(|(_, event)| {
        event.file().is_some_and(|name| name.ends_with(".cfg") || name.ends_with(".conf"))
    });
    let mut best: Option<(usize, NotReproduced)> = None;
    for (index, config) in configs.take(MAX_CONFIGS) {
        let facts = facts_of(&expected, index, config.label.clone(), devices.clone());
        match goal.search(files, &facts) {
            Ok(lesson) => return Ok(lesson),
            Err(failure) if best.as_ref().is_none_or(|best| failure.0 > best.0) => {
                best = Some(failure);
            }
            Err(_) => {}
        }
    }
    Err(best.map_or_else(
        || NotReproduced {
            event: None,
            expected: "GRUB reads a configuration".into(),
            found: "the log names none".into(),
            file: String::new(),
            line: 0,
        },
        |(_, error)| error,
    ))
}

/// What is to be reproduced.
struct Goal<'a> {
    expected: &'a [Expected],
    log: &'a EventLog,
}

impl Goal<'_> {
    /// Walks until the answers fit, depth first; the error comes with the number of events that the
    /// best walk reproduced.
    fn search(&self, files: &BootFiles, facts: &Facts) -> Result<Lesson, (usize, NotReproduced)> {
        let mut decided: Vec<(String, Vec<Answer>)> = Vec::new();
        let mut best: Option<(usize, NotReproduced)> = None;
        for _ in 0..MAX_WALKS {
            let mut machine = Machine::new(*files, facts, Picked::Default);
            for (question, candidates) in &decided {
                machine.answers.extend(candidates.first().map(|a| (question.clone(), a.clone())));
            }
            machine.teacher = Some(Teacher {
                expected: self.expected,
                at: 0,
                questions: vec![],
                following: None,
            });
            let stop = match machine.start() {
                Ok(()) => Stop::Why("GRUB starts nothing".into()),
                Err(stop) => stop,
            };
            let Some(teacher) = machine.teacher.take() else { break };
            match self.judge(&stop, &teacher, files, &machine) {
                None => {
                    let mut facts = facts.clone();
                    facts.image = image(files, self.log).unwrap_or_default();
                    facts.answers = std::mem::take(&mut machine.answers);
                    facts.answers.retain(|question, _| !question.starts_with("menu "));
                    return Ok(Lesson { facts, walk: finish(machine, stop) });
                }
                Some(error) if best.as_ref().is_none_or(|(at, _)| teacher.at > *at) => {
                    best = Some((teacher.at, error));
                }
                Some(_) => {}
            }
            decided.extend(teacher.questions);
            while let Some((_, candidates)) = decided.last_mut() {
                candidates.remove(0);
                if !candidates.is_empty() {
                    break;
                }
                decided.pop();
            }
            if decided.is_empty() {
                break;
            }
        }
        Err(best.unwrap_or_else(|| {
            (0, FilesError { path: String::new(), cause: String::new() }.into())
        }))
    }

    /// What keeps a walk from being the boot of the log.
    fn judge(
        &self,
        stop: &Stop,
        teacher: &Teacher,
        files: &BootFiles,
        machine: &Machine,
    ) -> Option<NotReproduced> {
        let next = self.expected.get(teacher.at);
        let found = match stop {
            Stop::Booted(boot) if next.is_none() => self.kernel_differs(boot, files)?,
            Stop::Booted(boot) => format!("GRUB starts {}", boot.kernel.path),
            Stop::Differs(words) => format!("the files give: {words}"),
            Stop::Why(why) => why.clone(),
            Stop::Menu => "the menu is shown".into(),
        };
        Some(NotReproduced {
            event: next.map(|event| event.number),
            expected: next.map_or_else(|| "the log ends here".into(), |event| event.words.clone()),
            found,
            file: machine.file.clone(),
            line: machine.line,
        })
    }

    /// Whether the kernel's stub measured another command line or initrd.
    fn kernel_differs(&self, boot: &Boot, files: &BootFiles) -> Option<String> {
        let options = boot.load_options();
        let initrd = files.digests.digests(&boot.initrds).ok().flatten().unwrap_or_default();
        for event in self.log.events().iter().filter(|event| event.pcr == 9) {
            let data = event.data();
            if data.has_tag(Tag::LoadOptions) && !event.measures(&options) {
                return Some("the kernel got another command line".into());
            }
            let known = |digest: &Digest| event.digest(digest.bank());
            let differs = |digest: &Digest| known(digest).is_some_and(|seen| seen != *digest);
            if data.has_tag(Tag::LinuxInitrd) && initrd.iter().any(differs) {
                return Some("the kernel got another initrd".into());
            }
        }
        None
    }
}

/// GRUB's image among those that the firmware and shim started.
pub(super) fn image(
    files: &BootFiles,
    log: &EventLog,
) -> Result<Option<(FileRef, Vec<Digest>)>, FilesError> {
    let paths = log.events().iter().filter_map(|event| match event.data() {
        EventData::Image { device_path, .. } => {
            Some(device_path?.file()?.as_str().replace('\\', "/"))
        }
        _ => None,
    });
    // Without its bytes, the last one that is there is GRUB's: it starts the kernel from memory.
    let mut last = None;
    for path in paths.take(16) {
        let file = FileRef { volume: Volume::Esp, path: normal_path(&path) };
        let Some(digests) = files.digests.digests(std::slice::from_ref(&file))? else { continue };
        let parsed = files.image_bytes(&file)?.and_then(|bytes| Image::parse(&bytes));
        let found = parsed.is_some();
        last = Some((file, digests));
        if found {
            break;
        }
    }
    Ok(last)
}

/// Which device is which file system: the one that has most of the files read from it, or, where
/// they changed, files in their places.
pub(super) fn devices(
    files: &BootFiles,
    expected: &[Expected],
) -> Result<BTreeMap<String, Volume>, FilesError> {
    let mut scores: BTreeMap<String, [(usize, usize); 2]> = BTreeMap::new();
    let volumes = [Volume::Boot, Volume::Esp];
    for event in expected {
        let Some((device, path)) = event.file().and_then(split_device) else { continue };
        let score = scores.entry(device.to_owned()).or_default();
        for (volume, score) in volumes.into_iter().zip(score) {
            let file = FileRef { volume, path: normal_path(path) };
            let is_there = matches!(files.files.find(volume, &file.path)?, Some(Found::Bytes(_)));
            let digests = files.digests.digests(&[file])?.unwrap_or_default();
            let is_same = digests.iter().any(|digest| event.digests.contains(digest));
            score.0 += usize::from(is_same);
            score.1 += usize::from(is_there);
        }
    }
    let best = |[boot, esp]: [(usize, usize); 2]| match (boot, esp) {
        ((0, 0), (0, 0)) => None,
        _ if boot >= esp => Some(Volume::Boot),
        _ => Some(Volume::Esp),
    };
    Ok(scores.into_iter().filter_map(|(name, score)| Some((name, best(score)?))).collect())
}

pub(super) fn split_device(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix('(')?.split_once(')')
}

/// What the events before the configuration at `index` say.
pub(super) fn facts_of(
    expected: &[Expected],
    index: usize,
    config: String,
    devices: BTreeMap<String, Volume>,
) -> Facts {
    let mut beginning = Vec::new();
    let mut prefix = None;
    let mut in_normal_mode = false;
    for event in expected.iter().take(index) {
        if let Some(name) = event.file() {
            let module = name.strip_suffix(".mod").and_then(|path| path.rsplit('/').next());
            prefix = name.split_once("/x86_64-efi/").map(|(p, _)| p.to_owned()).or(prefix);
            in_normal_mode = module.is_some() && (in_normal_mode || module == Some("normal"));
            if !in_normal_mode {
                beginning.push(Beginning::File(name.to_owned()));
            } else if module == Some("normal") {
                beginning.push(Beginning::NormalMode);
            }
        } else {
            in_normal_mode = false;
            let command = event.label.strip_prefix("grub_cmd: ").unwrap_or(&event.label);
            beginning.push(Beginning::Command(command.to_owned()));
        }
    }
    let device = |name: &str| split_device(name).map(|(device, _)| device.to_owned());
    let root = prefix.as_deref().and_then(device).or_else(|| device(&config));
    Facts {
        measured: true,
        beginning,
        config,
        prefix,
        root,
        devices,
        answers: BTreeMap::new(),
        image: None,
        ordinary: false,
    }
}
