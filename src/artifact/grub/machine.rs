//! The state of GRUB while it walks a configuration, and what it may ask.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::bls::BlsEntry;
use super::environment::{Environment, Value};
use super::facts::{Answer, Facts};
use super::files::{BootFiles, FileRef, normal_path};
use super::image::Image;
use super::menu::Entry;
use super::modules::Dependencies;
use super::outcome::{Boot, EntryName, Unpredictable};
use super::script::Command;
use super::teach::Teacher;
use crate::artifact::{FilesError, Measured, Volume};
use crate::measurement::{Digest, EventData, LogText, PcrIndex};

/// Which entry of the menu is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Picked {
    /// The default: nobody is at the keyboard.
    Default,
    /// This one, by somebody at the keyboard: positions, the outermost menu first.
    ByHand(Vec<usize>),
    /// These submenus, and then none: the walk ends at the innermost one's menu.
    Listing(Vec<usize>),
}

/// Why a walk ends.
#[derive(Debug)]
pub(super) enum Stop {
    /// A kernel is started.
    Booted(Box<Boot>),
    /// The menu is reached.
    Menu,
    /// Nothing tells how it goes on.
    Why(String),
    /// The log that teaches says otherwise: what the walk would have measured.
    Differs(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Why(why)
    }
}

impl From<FilesError> for Stop {
    fn from(error: FilesError) -> Self {
        Self::Why(error.to_string())
    }
}

/// What a command leaves in `$?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    /// 0.
    Ok,
    /// 1, what a failed test gives.
    False,
    /// Another number.
    Error,
    /// Whatever the machine answers; the question.
    Open(String),
}

/// A function and the script that defined it.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) body: Rc<Vec<Command>>,
    pub(super) file: String,
}

/// What `linux` and `initrd` have loaded.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) kernel: FileRef,
    pub(super) command_line: String,
    pub(super) initrds: Vec<FileRef>,
}

/// How loops and functions end early.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaving {
    pub(super) loops: usize,
    pub(super) breaks: usize,
    pub(super) continues: bool,
    pub(super) returns: bool,
}

pub(super) struct Machine<'a> {
    pub(super) boot: BootFiles<'a>,
    pub(super) facts: &'a Facts,
    pub(super) answers: BTreeMap<String, Answer>,
    /// Modules of the image, where it is at hand.
    pub(super) image: Option<Image>,
    pub(super) teacher: Option<Teacher<'a>>,
    pub(super) picked: Picked,
    pub(super) environment: Environment,
    pub(super) functions: BTreeMap<String, Function>,
    pub(super) scope: Option<Vec<String>>,
    pub(super) status: Status,
    pub(super) leaving: Leaving,
    pub(super) menus: Vec<Vec<Entry>>,
    pub(super) entered: Vec<(usize, Entry)>,
    pub(super) modules: BTreeSet<String>,
    /// `command.lst`, once it is read.
    pub(super) commands: Option<BTreeMap<String, String>>,
    pub(super) terminals: Vec<(String, String)>,
    pub(super) dependencies: Option<Dependencies>,
    pub(super) translated: bool,
    pub(super) bls: Vec<BlsEntry>,
    pub(super) written: BTreeMap<FileRef, Vec<u8>>,
    pub(super) loaded: Option<Loaded>,
    pub(super) events: Vec<Measured>,
    pub(super) labels: Vec<String>,
    pub(super) gaps: Vec<Unpredictable>,
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) depth: usize,
    pub(super) steps: usize,
    pub(super) text: usize,
}

const COMMANDS: u64 = 8;
const FILES: u64 = 9;

impl<'a> Machine<'a> {
    /// Most commands of one walk.
    const MAX_STEPS: usize = 20_000;
    /// Most bytes of text that one walk measures.
    const MAX_TEXT: usize = 4 << 20;

    pub(super) fn new(boot: BootFiles<'a>, facts: &'a Facts, picked: Picked) -> Self {
        let mut environment = Environment::of_normal_mode();
        for (name, value) in [("prefix", &facts.prefix), ("root", &facts.root)] {
            let unknown = || Value::Unknown(format!("${name} as GRUB's image has it"));
            let value = value.as_ref().map_or_else(unknown, |known| known.as_str().into());
            environment.set(name, value);
        }
        Self {
            boot,
            facts,
            answers: facts.answers.clone(),
            image: None,
            teacher: None,
            picked,
            environment,
            functions: BTreeMap::new(),
            scope: None,
            status: Status::Ok,
            leaving: Leaving::default(),
            menus: vec![Vec::new()],
            entered: Vec::new(),
            modules: BTreeSet::new(),
            commands: None,
            terminals: Vec::new(),
            dependencies: None,
            translated: false,
            bls: Vec::new(),
            written: BTreeMap::new(),
            loaded: None,
            events: Vec::new(),
            labels: Vec::new(),
            gaps: Vec::new(),
            file: facts.config.clone(),
            line: 0,
            depth: 0,
            steps: 0,
            text: 0,
        }
    }

    /// Counts a step.
    pub(super) fn step(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        if self.steps > Self::MAX_STEPS {
            return Err(Stop::Why("more than 20000 commands are run".into()));
        }
        Ok(())
    }

    /// Measures a text into PCR 8.
    pub(super) fn measure_text(&mut self, prefix: &str, text: &str) -> Result<(), Stop> {
        if !self.facts.measured {
            return Ok(());
        }
        self.text += text.len();
        if self.text > Self::MAX_TEXT {
            return Err(Stop::Why("more than 4 MiB of commands are run".into()));
        }
        let data = match prefix {
            "grub_cmd" => EventData::GrubCommand { command: LogText::from(text) },
            _ => EventData::KernelCommandLine { cmdline: LogText::from(text) },
        };
        let digests = self.boot.banks.iter().map(|bank| bank.hash(text.as_bytes())).collect();
        self.measure(COMMANDS, &format!("{prefix}: {text}"), digests, &data)
    }

    /// Measures a file into PCR 9, under the name that GRUB has for it.
    pub(super) fn measure_file(&mut self, name: &str, file: &FileRef) -> Result<(), Stop> {
        if !self.facts.measured {
            return Ok(());
        }
        let digests = match self.written.get(file) {
            Some(bytes) => self.boot.banks.iter().map(|bank| bank.hash(bytes)).collect(),
            None => self.boot.digests.digests(std::slice::from_ref(file))?.unwrap_or_default(),
        };
        let data = EventData::GrubFile { path: LogText::from(name) };
        self.measure(FILES, name, digests, &data)
    }

    fn measure(
        &mut self,
        pcr: u64,
        label: &str,
        digests: Vec<Digest>,
        data: &EventData,
    ) -> Result<(), Stop> {
        if let Some(teacher) = &mut self.teacher
            && !teacher.agrees(pcr, label, &digests)
        {
            return Err(Stop::Differs(data.to_string()));
        }
        let pcr = PcrIndex::new(pcr).map_err(|error| Stop::Why(error.to_string()))?;
        self.events.push(Measured { pcr, digests, words: data.in_full() });
        self.labels.push(label.to_owned());
        Ok(())
    }

    /// Notes that PCR 9 is not told, and why.
    pub(super) fn gap(&mut self, why: String) {
        if self.facts.measured {
            let gap = self.unpredictable(why, &[FILES]);
            self.gaps.push(gap);
        }
    }

    /// Something that is not told, at the line that runs now.
    pub(super) fn unpredictable(&self, why: String, pcrs: &[u64]) -> Unpredictable {
        let pcrs = pcrs.iter().filter_map(|pcr| PcrIndex::new(*pcr).ok()).collect();
        Unpredictable { pcrs, file: self.file.clone(), line: self.line, why }
    }

    /// Both PCRs of GRUB.
    pub(super) fn nothing_told(&self, why: String) -> Unpredictable {
        self.unpredictable(why, &[COMMANDS, FILES])
    }

    /// The answer to a question: what the last boot's log taught, or, while it teaches, the first
    /// candidate that was not refuted. `None` where nobody knows.
    pub(super) fn ask(&mut self, question: &str, candidates: Vec<Answer>) -> Option<Answer> {
        if let Some(answer) = self.answers.get(question) {
            return Some(answer.clone());
        }
        let first = candidates.first().cloned()?;
        if let Some(teacher) = &mut self.teacher {
            if !teacher.may_answer() {
                return None;
            }
            teacher.asked(question, candidates);
        } else if !self.facts.ordinary {
            return None;
        }
        self.answers.insert(question.to_owned(), first.clone());
        Some(first)
    }

    /// Like [`Machine::ask`] with yes or no, the ordinary answer first.
    pub(super) fn ask_whether(&mut self, question: &str, ordinary: bool) -> Option<bool> {
        let candidates =
            if ordinary { [Answer::Yes, Answer::No] } else { [Answer::No, Answer::Yes] };
        Some(self.ask(question, candidates.into())? == Answer::Yes)
    }

    /// Whether what only the machine can tell was a success.
    fn outcome(&mut self, question: &str) -> Option<bool> {
        if let Some(following) =
            self.teacher.as_mut().and_then(|teacher| teacher.following.as_mut())
        {
            return Some(following.outcome(question));
        }
        self.ask_whether(question, true)
    }

    /// Whether a status is success.
    pub(super) fn succeeded(&mut self, status: &Status) -> Result<bool, Stop> {
        match status {
            Status::Ok => Ok(true),
            Status::False | Status::Error => Ok(false),
            Status::Open(question) => self.outcome(question).ok_or_else(|| {
                Stop::Why(format!("nothing tells whether this succeeds: {question}"))
            }),
        }
    }

    /// The device and path of a name; the device without parentheses.
    pub(super) fn place(&self, name: &str) -> Result<(String, String), Stop> {
        if let Some(rest) = name.strip_prefix('(')
            && let Some((device, path)) = rest.split_once(')')
        {
            return Ok((device.to_owned(), normal_path(path)));
        }
        match self.environment.get("root") {
            Some(Value::Known(root)) => Ok((bare(root).to_owned(), normal_path(name))),
            Some(Value::Unknown(why)) => Err(Stop::Why(why.clone())),
            None => Err(Stop::Why("$root is not set".into())),
        }
    }

    /// The file system and path of a name; `None` for a device inside GRUB, such as `(memdisk)`.
    pub(super) fn locate(&self, name: &str) -> Result<Option<FileRef>, Stop> {
        let (device, path) = self.place(name)?;
        if matches!(device.as_str(), "memdisk" | "proc") {
            return Ok(None);
        }
        match self.facts.devices.get(&device) {
            Some(volume) => Ok(Some(FileRef { volume: *volume, path })),
            None => Err(Stop::Why(format!("the file system on ({device}) is not at hand"))),
        }
    }

    /// Opens a file: found and measured, or not there.
    pub(super) fn open(&mut self, name: &str) -> Result<Option<FileRef>, Stop> {
        let file = self.locate(name)?;
        let Some(file) = file else {
            return Err(Stop::Why(format!("{name} lies inside GRUB's image")));
        };
        if !self.boot.exists(&file)? {
            return Ok(None);
        }
        self.measure_file(name, &file)?;
        Ok(Some(file))
    }

    /// The bytes of a file as this boot finds them.
    pub(super) fn read(&self, file: &FileRef) -> Result<Vec<u8>, Stop> {
        if let Some(bytes) = self.written.get(file) {
            return Ok(bytes.clone());
        }
        let bytes = self.boot.bytes(file)?;
        bytes.ok_or_else(|| Stop::Why(format!("{} does not exist", file.path)))
    }

    /// The text of a file.
    pub(super) fn read_text(&self, file: &FileRef) -> Result<String, Stop> {
        String::from_utf8(self.read(file)?)
            .map_err(|_| Stop::Why(format!("{} is not UTF-8", file.path)))
    }

    /// The names of the entries that led here and of `entry` at `position`.
    pub(super) fn entry_name(&self, more: Option<(usize, &Entry)>) -> EntryName {
        let entered = self.entered.iter().map(|(position, entry)| (*position, entry));
        let mut name = EntryName { positions: vec![], titles: vec![], ids: vec![] };
        for (position, entry) in entered.chain(more) {
            name.positions.push(position);
            name.titles.push(entry.title.clone());
            name.ids.push(entry.id.clone());
        }
        name
    }

    /// A file system that the facts know, by the name of its device.
    pub(super) fn device_of(&self, volume: Volume) -> Option<&str> {
        self.facts.devices.iter().find(|(_, v)| **v == volume).map(|(name, _)| name.as_str())
    }
}

/// A device's name without parentheses.
pub(super) fn bare(device: &str) -> &str {
    device.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(device)
}
