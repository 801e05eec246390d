//! What GRUB's commands do, as far as it changes what is measured or started.

use super::condition::{FileTest, evaluate, signed};
use super::environment::Value;
use super::facts::Answer;
use super::machine::{Machine, Status, Stop};
use super::menu::Entry;
use super::options::{Options, Spec, Takes};
use super::script::Block;

/// Commands that only show, colour, wait or protect: they succeed and change nothing here.
const HARMLESS: [&str; 27] = [
    "echo",
    "clear",
    "sleep",
    "ls",
    "lsmod",
    "help",
    "true",
    "background_color",
    "authenticate",
    "password",
    "password_pbkdf2",
    "date",
    "videoinfo",
    "vbeinfo",
    "lsmmap",
    "lspci",
    "lsefi",
    "lsefimmap",
    "lsefisystab",
    "lsacpi",
    "normal_exit",
    "efitextmode",
    "serial",
    "play",
    "terminfo",
    "keymap",
    "gettext",
];

/// Commands whose result the machine gives, whatever they read.
const ASKED: [&str; 8] = [
    "fwsetup",
    "keystatus",
    "cryptomount",
    "cpuid",
    "hwmatch",
    "videotest",
    "is_sb_enabled",
    "connectefi",
];

/// Commands with a rule of their own.
const MODELLED: [&str; 46] = [
    "set",
    "unset",
    "insmod",
    "export",
    "break",
    "continue",
    "return",
    "setparams",
    "shift",
    "menuentry",
    "submenu",
    "normal",
    "boot",
    "rmmod",
    "[",
    "test",
    "false",
    "load_env",
    "save_env",
    "list_env",
    "search",
    "search.fs_uuid",
    "search.fs_label",
    "search.file",
    "loadfont",
    "background_image",
    "terminal_output",
    "terminal_input",
    "source",
    ".",
    "configfile",
    "linux",
    "linuxefi",
    "initrd",
    "initrdefi",
    "blscfg",
    "bls_import",
    "increment",
    "decrement",
    "probe",
    "smbios",
    "regexp",
    "read",
    "halt",
    "reboot",
    "exit",
];

impl Machine<'_> {
    /// Whether there is a rule for a command.
    pub(super) fn is_known_command(name: &str) -> bool {
        HARMLESS.contains(&name) || ASKED.contains(&name) || MODELLED.contains(&name)
    }

    /// Runs a command.
    pub(super) fn run_command(
        &mut self,
        name: &str,
        arguments: &[String],
        block: Option<&Block>,
    ) -> Result<Status, Stop> {
        match name {
            _ if HARMLESS.contains(&name) => Ok(Status::Ok),
            _ if ASKED.contains(&name) => self.run_asked(name, arguments),
            "false" => Ok(Status::False),
            "set" => self.set(arguments),
            "unset" => {
                arguments.iter().take(1).for_each(|name| self.environment.unset(name));
                Ok(Status::Ok)
            }
            "export" => {
                for name in arguments.iter().take(1) {
                    if self.environment.get(name).is_none() {
                        self.set_variable(name, "".into())?;
                    }
                }
                Ok(Status::Ok)
            }
            "insmod" => self.insmod(arguments),
            "rmmod" => {
                for name in arguments {
                    self.modules.remove(name);
                }
                Ok(Status::Ok)
            }
            "[" | "test" => self.test(arguments),
            "break" | "continue" => self.leave_loops(name, arguments),
            "return" => {
                self.leaving.returns = self.scope.is_some();
                Ok(match arguments.first().map(|number| signed(number)) {
                    None => self.status.clone(),
                    Some(0) => Status::Ok,
                    Some(1) => Status::False,
                    Some(_) => Status::Error,
                })
            }
            "setparams" => {
                if let Some(scope) = &mut self.scope {
                    *scope = arguments.to_vec();
                }
                Ok(Status::Ok)
            }
            "shift" => {
                let by = arguments.first().map_or(1, |number| signed(number));
                let by = usize::try_from(by).unwrap_or(usize::MAX);
                if let Some(scope) = &mut self.scope
                    && by <= scope.len()
                {
                    scope.drain(..by);
                }
                Ok(Status::Ok)
            }
            "menuentry" | "submenu" => self.add_entry(name == "submenu", arguments, block),
            "source" | "." | "configfile" | "normal" => self.run_config(name, arguments),
            "load_env" | "list_env" => self.load_env(name == "load_env", arguments),
            "save_env" => self.save_env(arguments),
            _ if name.starts_with("search") => self.search(name, arguments),
            "loadfont" => self.loadfont(arguments),
            "background_image" => self.background_image(arguments),
            "terminal_output" | "terminal_input" => {
                let kind = if name == "terminal_output" { 'o' } else { 'i' };
                self.load_terminals(kind, arguments)?;
                Ok(Self::open_status(name, arguments))
            }
            "linux" | "linuxefi" => self.linux(arguments),
            "initrd" | "initrdefi" => self.initrd(arguments),
            "boot" => Err(self.boot_now()),
            "blscfg" | "bls_import" => self.blscfg(arguments),
            "increment" | "decrement" => self.count(name, arguments),
            "probe" | "smbios" | "regexp" | "read" => self.fill_variable(name, arguments),
            "halt" | "reboot" | "exit" => Err(Stop::Why(format!("{name} ends GRUB"))),
            _ => Err(Stop::Why(format!("the command {name} is not modelled"))),
        }
    }

    fn run_asked(&mut self, name: &str, arguments: &[String]) -> Result<Status, Stop> {
        if name == "fwsetup" && arguments.is_empty() {
            return Err(Stop::Why("fwsetup enters the firmware's setup".into()));
        }
        // With a modifier, it asks whether a key is held down: nobody is at the keyboard.
        if name == "keystatus" && !arguments.is_empty() {
            return Ok(Status::False);
        }
        let status = Self::open_status(name, arguments);
        let Status::Open(question) = &status else { return Ok(status) };
        if matches!(name, "cryptomount" | "hwmatch") && self.facts.measured {
            match self.learned_files(&format!("files of {question}")) {
                Some(names) => {
                    for name in names {
                        if let Some(module) = module_of(&name) {
                            self.modules.insert(module.to_owned());
                        }
                        self.open(&name)?;
                    }
                }
                None => self.gap(format!("nothing tells which files this reads: {question}")),
            }
        }
        Ok(status)
    }

    fn set(&mut self, arguments: &[String]) -> Result<Status, Stop> {
        let Some(argument) = arguments.first() else { return Ok(Status::Ok) };
        match argument.split_once('=') {
            Some((name, value)) => {
                self.set_variable(name, value.into())?;
                Ok(Status::Ok)
            }
            None => Ok(Status::Error),
        }
    }

    fn insmod(&mut self, arguments: &[String]) -> Result<Status, Stop> {
        let Some(module) = arguments.first() else { return Ok(Status::Error) };
        if module.starts_with(['/', '(', '+']) {
            self.open(module)?;
            let name = module_of(module).unwrap_or(module).to_owned();
            let listed = self.dependencies.as_ref().and_then(|list| list.of(&name));
            let needed = listed.map(<[String]>::to_vec);
            if needed.is_none() {
                self.gap(format!("nothing tells which modules {name} needs"));
            }
            self.modules.insert(name);
            for module in needed.unwrap_or_default() {
                self.load_module(&module)?;
            }
        } else {
            self.load_module(module)?;
        }
        Ok(Status::Ok)
    }

    fn test(&mut self, arguments: &[String]) -> Result<Status, Stop> {
        let mut ask = |test: FileTest, name: &str| self.test_file(test, name);
        Ok(if evaluate(arguments, &mut ask)? { Status::Ok } else { Status::False })
    }

    fn leave_loops(&mut self, name: &str, arguments: &[String]) -> Result<Status, Stop> {
        let count = arguments.first().map_or(1, |number| signed(number));
        let count = usize::try_from(count).unwrap_or(0);
        if count == 0 {
            return Ok(Status::Error);
        }
        self.leaving.continues = name == "continue";
        self.leaving.breaks = count.min(self.leaving.loops);
        Ok(Status::Ok)
    }

    fn add_entry(
        &mut self,
        submenu: bool,
        arguments: &[String],
        block: Option<&Block>,
    ) -> Result<Status, Stop> {
        const OPTIONS: [Spec; 6] = [
            Spec { long: "class", short: None, value: Takes::Value },
            Spec { long: "users", short: None, value: Takes::Maybe },
            Spec { long: "hotkey", short: None, value: Takes::Value },
            Spec { long: "source", short: None, value: Takes::Value },
            Spec { long: "id", short: None, value: Takes::Value },
            Spec { long: "unrestricted", short: None, value: Takes::Nothing },
        ];
        let given = match block {
            Some(_) => arguments.split_last().map_or(&[][..], |(_, rest)| rest),
            None => arguments,
        };
        let Some(options) = Options::parse(&OPTIONS, given, true) else { return Ok(Status::Error) };
        let Some(title) = options.rest.first().cloned() else { return Ok(Status::Error) };
        let (body, line) = match (block, options.value("source")) {
            (Some(block), None) => (block.text.clone(), block.line),
            (None, Some(source)) => (source.to_owned(), 0),
            _ => return Ok(Status::Error),
        };
        let id = options.value("id").unwrap_or(&title).to_owned();
        let file = self.file.clone();
        self.push_entry(Entry { title, id, arguments: options.rest, body, file, line, submenu })
    }

    /// Adds an entry to the menu that is open.
    pub(super) fn push_entry(&mut self, entry: Entry) -> Result<Status, Stop> {
        let Some(menu) = self.menus.last_mut() else { return Ok(Status::Error) };
        if menu.len() >= 1024 {
            return Err(Stop::Why("a menu has more than 1024 entries".into()));
        }
        menu.push(entry);
        Ok(Status::Ok)
    }

    fn run_config(&mut self, name: &str, arguments: &[String]) -> Result<Status, Stop> {
        let Some(config) = arguments.first() else {
            return Err(Stop::Why("normal without a file".into()));
        };
        if name == "normal" {
            // Lists are read again.
            if let Some(prefix) = self.environment.text("prefix").map(str::to_owned) {
                self.read_lists(&prefix)?;
            }
        }
        let nested = name == "configfile";
        if nested {
            if !self.environment.open_context() {
                return Err(Stop::Why("contexts are nested more than 16 deep".into()));
            }
            self.menus.push(Vec::new());
        }
        self.configure(config, matches!(name, "source" | "."), false)?;
        if nested {
            self.environment.close_context();
            self.menus.pop();
        }
        Ok(Status::Ok)
    }

    fn loadfont(&mut self, arguments: &[String]) -> Result<Status, Stop> {
        if !self.facts.measured {
            return Ok(Self::open_status("loadfont", arguments));
        }
        let question = format!("files of loadfont {}", arguments.join(" "));
        match self.learned_files(&question) {
            Some(names) => {
                for name in names {
                    if self.open(&name)?.is_none() {
                        return Err(Stop::Why(format!("the font {name} is gone")));
                    }
                }
                Ok(Self::open_status("loadfont", arguments))
            }
            None => Err(Stop::Why("nothing tells whether this font can be loaded".into())),
        }
    }

    fn background_image(&mut self, arguments: &[String]) -> Result<Status, Stop> {
        let question = format!("files of background_image {}", arguments.join(" "));
        match self.learned_files(&question) {
            Some(names) => names.iter().try_for_each(|name| self.open(name).map(drop))?,
            None => self.gap("nothing tells whether the background is read".into()),
        }
        Ok(Self::open_status("background_image", arguments))
    }

    fn count(&mut self, name: &str, arguments: &[String]) -> Result<Status, Stop> {
        let [variable] = arguments else { return Ok(Status::Error) };
        match self.environment.get(variable).cloned() {
            None => Ok(Status::Error),
            Some(Value::Unknown(why)) => Err(Stop::Why(format!("${variable}: {why}"))),
            // A text without digits is no number.
            Some(Value::Known(text))
                if !text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit()) =>
            {
                Ok(Status::Error)
            }
            Some(Value::Known(text)) => {
                let by = if name == "increment" { 1 } else { -1 };
                let value = signed(&text).saturating_add(by).to_string();
                self.set_variable(variable, Value::Known(value))?;
                Ok(Status::Ok)
            }
        }
    }

    /// Commands that put what the machine says into a variable.
    fn fill_variable(&mut self, name: &str, arguments: &[String]) -> Result<Status, Stop> {
        let why = format!("only the machine knows what {name} gives");
        let mut arguments = arguments.iter().peekable();
        while let Some(argument) = arguments.next() {
            let variable = match argument.strip_prefix("--set=") {
                Some(variable) => Some(variable.to_owned()),
                None if argument == "--set" || argument == "-s" => {
                    arguments.peek().map(|v| (*v).clone())
                }
                None if name == "read" => Some(argument.clone()),
                None => None,
            };
            // regexp writes NUMBER:NAME.
            if let Some(variable) = variable {
                let variable = variable.rsplit(':').next().unwrap_or_default().to_owned();
                self.set_unknown(&variable, &why)?;
            }
        }
        Ok(Status::Open(why))
    }

    /// The answer that says where a search ends, if anybody knows.
    pub(super) fn ask_device(&mut self, question: &str, candidates: Vec<String>) -> Option<Answer> {
        let mut answers: Vec<_> = candidates.into_iter().map(Answer::Device).collect();
        answers.push(Answer::No);
        self.ask(question, answers)
    }
}

/// The module whose file a path names.
pub(super) fn module_of(path: &str) -> Option<&str> {
    path.rsplit('/').next()?.strip_suffix(".mod")
}
