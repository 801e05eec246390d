//! Boot loader entries as files, and `blscfg`, which makes menu entries of them (Fedora's
//! `commands/blscfg.c`).

use std::cmp::Ordering;

use super::environment::Value;
use super::facts::Answer;
use super::files::{FileRef, normal_path};
use super::machine::{Machine, Status, Stop, bare};
use super::menu::{Entry, position};
use super::version::compare;

/// Where the entries lie, with the slash that GRUB doubles.
const FOLDER: &str = "/loader/entries/";
/// Most entries that are read.
const MAX_ENTRIES: usize = 512;

/// One file of `/loader/entries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlsEntry {
    /// Its name without `.conf`.
    pub(super) name: String,
    keys: Vec<(String, String)>,
    /// Whether it is in the menu already.
    visible: bool,
}

impl BlsEntry {
    /// Reads the lines up to the first one without a value (`read_entry`).
    fn parse(name: &str, text: &str) -> Self {
        let mut keys = Vec::new();
        for line in text.lines().map(|line| line.trim_start_matches([' ', '\t'])) {
            if line.starts_with('#') {
                continue;
            }
            let cut = line.split_once(' ').or_else(|| line.split_once('\t'));
            match cut.filter(|(_, value)| !value.is_empty()) {
                Some((key, value)) => {
                    let value = value.trim_start_matches([' ', '\t']).replace('\r', "");
                    keys.push((key.to_owned(), value));
                }
                None => break,
            }
        }
        Self { name: name.to_owned(), keys, visible: false }
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.keys.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.keys.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

impl Machine<'_> {
    /// `blscfg [default|non-default|(DEVICE)/FOLDER|ID]`.
    pub(super) fn blscfg(&mut self, arguments: &[String]) -> Result<Status, Stop> {
        let argument = arguments.first().map(String::as_str);
        let path = argument.filter(|argument| argument.starts_with('('));
        if path.is_some_and(|path| path.ends_with(".conf")) {
            return Err(Stop::Why("blscfg with a single file is not modelled".into()));
        }
        self.read_entries(path)?;
        let default = match self.environment.get("default") {
            Some(Value::Unknown(why)) => return Err(Stop::Why(format!("$default: {why}"))),
            Some(Value::Known(text)) => text.clone(),
            None => String::new(),
        };
        let mut entries = std::mem::take(&mut self.bls);
        for (index, entry) in entries.iter_mut().enumerate() {
            let is_default = entry.is_default(&default, index);
            let wanted = match argument {
                Some("default") => is_default,
                Some("non-default") => !is_default,
                Some(name) if path.is_none() => name == entry.name,
                _ => true,
            };
            if wanted && !entry.visible {
                entry.visible = true;
                self.add_bls_entry(entry)?;
            }
        }
        self.bls = entries;
        Ok(Status::Ok)
    }

    fn read_entries(&mut self, path: Option<&str>) -> Result<(), Stop> {
        let (device, given) = match path.and_then(|path| path.get(1..)?.split_once(')')) {
            Some((device, folder)) => (device.to_owned(), Some(folder.to_owned())),
            None => match self.environment.get("root") {
                Some(Value::Known(root)) => (bare(root).to_owned(), None),
                _ => return Err(Stop::Why("$root is not known".into())),
            },
        };
        let set = self.environment.text("blsdir").map(str::to_owned);
        let mut folder = given.clone().or(set).unwrap_or_else(|| FOLDER.to_owned());
        let mut names = self.names(&device, &folder)?;
        if names.is_empty() && given.is_none() {
            folder = format!("/boot{FOLDER}");
            names = self.names(&device, &folder)?;
        }
        names.retain(|name| !name.starts_with('.') && name.len() > 5 && name.ends_with(".conf"));
        if names.len() > MAX_ENTRIES {
            return Err(Stop::Why("more than 512 boot loader entries".into()));
        }
        let start = format!("({device}){folder}/");
        for name in self.in_disk_order(&start, names) {
            let Some(file) = self.open(&format!("{start}{name}"))? else { continue };
            let text = self.read_text(&file)?;
            let stem = name.strip_suffix(".conf").unwrap_or(&name);
            self.insert_entry(BlsEntry::parse(stem, &text));
        }
        Ok(())
    }

    fn names(&self, device: &str, folder: &str) -> Result<Vec<String>, Stop> {
        let Some(FileRef { volume, path }) = self.locate(&format!("({device}){folder}"))? else {
            return Ok(Vec::new());
        };
        Ok(self.boot.files.names(volume, &normal_path(&path))?)
    }

    /// The order in which the folder gives its files: the file system's own, known from the log. A
    /// file less does not change it, a new file's place is not known.
    fn in_disk_order(&mut self, start: &str, names: Vec<String>) -> Vec<String> {
        if !self.facts.measured || names.len() < 2 {
            return names;
        }
        let ahead = self.teacher.as_ref().map(|teacher| teacher.files_ahead()).unwrap_or_default();
        let seen = ahead.iter().filter_map(|name| name.strip_prefix(start).map(str::to_owned));
        let question = format!("order of files in {start}");
        let order = match self.ask(&question, vec![Answer::Names(seen.collect())]) {
            Some(Answer::Names(order)) => order,
            _ => Vec::new(),
        };
        if !names.iter().all(|name| order.contains(name)) {
            self.gap(format!("nothing tells in which order GRUB finds the files in {start}"));
            return names;
        }
        order.into_iter().filter(|name| names.contains(name)).collect()
    }

    /// Newest first; of two that compare equal the first one stays (`bls_add_entry`).
    fn insert_entry(&mut self, entry: BlsEntry) {
        for (index, other) in self.bls.iter().enumerate() {
            match compare(&entry.name, &other.name) {
                Ordering::Equal => return,
                Ordering::Greater => return self.bls.insert(index, entry),
                Ordering::Less => {}
            }
        }
        self.bls.push(entry);
    }

    /// `create_entry`: the body is a script that GRUB writes itself.
    fn add_bls_entry(&mut self, entry: &BlsEntry) -> Result<(), Stop> {
        let Some(linux) = entry.value("linux") else { return Ok(()) };
        let options = match entry.value("options") {
            Some(options) => self.expand_value(options)?,
            None => None,
        };
        let options = match (options, self.environment.get("default_kernelopts").cloned()) {
            (Some(options), _) => Some(options),
            (None, Some(Value::Known(default))) => self.expand_value(&default)?,
            (None, Some(Value::Unknown(why))) => return Err(Stop::Why(why)),
            (None, None) => None,
        };
        let mut initrds: Vec<String> = Vec::new();
        if let Some(early) = self.environment.text("early_initrd") {
            let beside = entry.values("initrd").next().unwrap_or(linux);
            let folder = beside.rsplit_once('/').map_or("", |(folder, _)| folder);
            initrds.extend(early.split(' ').map(|name| format!("{folder}/{name}")));
        }
        initrds.extend(entry.values("initrd").map(str::to_owned));
        if entry.value("devicetree").is_some() || self.environment.text("devicetree").is_some() {
            return Err(Stop::Why("devicetree is not modelled".into()));
        }
        let save = if self.environment.text("save_default") == Some("true") {
            "savedefault\n"
        } else {
            ""
        };
        // Until 2020, Red Hat's GRUB wrote another name.
        let payload = match self.ask_whether("blscfg sets gfxpayload", true) {
            Some(false) => "gfx_payload",
            _ => "gfxpayload",
        };
        let options = options.map_or_else(String::new, |options| format!(" {options}"));
        let initrd = match initrds.is_empty() {
            true => String::new(),
            false => {
                let names: String = initrds.iter().map(|name| format!(" ($root){name}")).collect();
                format!("initrd{names}\n")
            }
        };
        let body = format!(
            "{save}load_video\nset {payload}=keep\ninsmod gzio\nlinux ($root){linux}{options}\n{initrd}"
        );
        let title = entry.value("title").unwrap_or(linux).to_owned();
        let mut arguments = vec![title.clone()];
        arguments.extend(entry.values("grub_arg").map(str::to_owned));
        let file = format!("{}.conf", entry.name);
        let id = entry.name.clone();
        // Line 0: a body that no file has, and that starts without `setparams`.
        self.push_entry(Entry { title, id, arguments, body, file, line: 0, submenu: false })?;
        Ok(())
    }

    /// `expand_val`, with what it does to a character that stands alone before `$`.
    fn expand_value(&self, value: &str) -> Result<Option<String>, Stop> {
        let characters: Vec<char> = value.chars().collect();
        let at = |index: usize| characters.get(index).copied();
        let mut out: Option<String> = None;
        let (mut start, mut end, mut variable) = (0, 0, false);
        let mut append = |variable: bool, start: usize, end: usize| -> Result<(), Stop> {
            let field: String = characters.get(start..=end).unwrap_or_default().iter().collect();
            if !variable {
                out.get_or_insert_default().push_str(&field);
                return Ok(());
            }
            match self.environment.get(&field) {
                Some(Value::Known(text)) => {
                    let out = out.get_or_insert_default();
                    out.push_str(text);
                    out.push(' ');
                    Ok(())
                }
                Some(Value::Unknown(why)) => Err(Stop::Why(format!("${field}: {why}"))),
                None => Ok(()),
            }
        };
        for (index, c) in characters.iter().enumerate() {
            if *c == '$' && at(end) != Some('\\') {
                if start != end {
                    append(variable, start, end)?;
                }
                (variable, start) = (true, index + 1);
            } else if variable && !c.is_ascii_alphanumeric() && *c != '_' {
                append(true, start, end)?;
                variable = false;
                start = if *c == ' ' { index + 1 } else { index };
            }
            end = index;
        }
        if start != end {
            append(variable, start, end)?;
        }
        Ok(out)
    }
}

impl BlsEntry {
    /// Whether `default` names this entry (`is_default_entry`).
    fn is_default(&self, default: &str, index: usize) -> bool {
        let entry = Entry {
            title: self.value("title").unwrap_or_default().to_owned(),
            id: self.name.clone(),
            arguments: Vec::new(),
            body: String::new(),
            file: String::new(),
            line: 0,
            submenu: false,
        };
        entry.id == default
            || entry.title == default
            || position(&[], default).is_some_and(|number| number == index)
    }
}
