//! Runs commands (`grub-core/script/execute.c`).

use std::rc::Rc;

use super::environment::Value;
use super::facts::Answer;
use super::machine::{Function, Leaving, Machine, Status, Stop};
use super::script::{Block, Command, Script, Statement, Word, parse};

/// Deepest nesting of commands, functions and scripts that is followed.
const MAX_DEPTH: usize = 60;

/// Commands of GRUB's kernel and of `normal.mod`, there before any list is read.
const BUILT_IN: [&str; 18] = [
    "set",
    "unset",
    "insmod",
    "ls",
    "export",
    "break",
    "continue",
    "return",
    "setparams",
    "shift",
    "menuentry",
    "submenu",
    "normal",
    "normal_exit",
    "clear",
    "authenticate",
    "boot",
    "rmmod",
];

impl Machine<'_> {
    /// Runs a whole script, in the scope that is open.
    pub(super) fn run_script(&mut self, script: &Script) -> Result<Status, Stop> {
        let statements = parse(script).map_err(|error| {
            self.line = error.line;
            Stop::Why(format!("syntax: {error}"))
        })?;
        let mut status = Status::Ok;
        for statement in statements {
            match statement {
                Statement::Function { name, body } => {
                    let function = Function { body: Rc::new(body), file: self.file.clone() };
                    self.functions.insert(name, function);
                }
                Statement::Run(command) => status = self.run(&command)?,
            }
        }
        Ok(status)
    }

    /// Runs one command and leaves its status in `$?`.
    pub(super) fn run(&mut self, command: &Command) -> Result<Status, Stop> {
        self.step()?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Stop::Why("commands are nested more than 60 deep".into()));
        }
        let status = match command {
            Command::Simple { words, block, line } => {
                self.line = *line;
                self.run_simple(words, block.as_ref())?
            }
            Command::If { branches, otherwise, .. } => self.run_branches(branches, otherwise)?,
            Command::For { name, words, body, line } => {
                self.line = *line;
                let values = self.expand(words, None)?;
                self.run_for(name, values, body)?
            }
            Command::While { condition, body, until, .. } => {
                self.run_while(condition, body, *until)?
            }
        };
        self.depth -= 1;
        self.status = status.clone();
        Ok(status)
    }

    fn run_list(&mut self, commands: &[Command]) -> Result<Status, Stop> {
        let mut status = Status::Ok;
        for command in commands {
            if self.leaving.breaks > 0 {
                break;
            }
            status = self.run(command)?;
            if self.leaving.returns {
                break;
            }
        }
        self.status = status.clone();
        Ok(status)
    }

    fn run_branches(
        &mut self,
        branches: &[(Vec<Command>, Vec<Command>)],
        otherwise: &[Command],
    ) -> Result<Status, Stop> {
        for (condition, then) in branches {
            let status = self.run_list(condition)?;
            if self.leaving.returns {
                return Ok(status);
            }
            if self.succeeded(&status)? {
                return self.run_list(then);
            }
        }
        self.run_list(otherwise)
    }

    fn run_for(
        &mut self,
        name: &str,
        values: Vec<String>,
        body: &[Command],
    ) -> Result<Status, Stop> {
        self.leaving.loops += 1;
        let mut status = Status::Ok;
        for value in values {
            if self.leaving.continues && self.leaving.breaks == 1 {
                self.leaving.breaks = 0;
            }
            if self.leaving.breaks == 0 {
                self.set_variable(name, Value::Known(value))?;
                status = self.run_list(body)?;
                if self.leaving.returns {
                    break;
                }
            }
        }
        self.leave_loop();
        Ok(status)
    }

    fn run_while(
        &mut self,
        condition: &[Command],
        body: &[Command],
        until: bool,
    ) -> Result<Status, Stop> {
        self.leaving.loops += 1;
        let mut status;
        loop {
            self.step()?;
            status = self.run_list(condition)?;
            if self.leaving.returns || self.succeeded(&status)? == until {
                break;
            }
            status = self.run_list(body)?;
            if self.leaving.returns {
                break;
            }
            if self.leaving.breaks == 1 && self.leaving.continues {
                self.leaving.breaks = 0;
            }
            if self.leaving.breaks > 0 {
                break;
            }
        }
        self.leave_loop();
        Ok(status)
    }

    fn leave_loop(&mut self) {
        self.leaving.breaks = self.leaving.breaks.saturating_sub(1);
        self.leaving.loops = self.leaving.loops.saturating_sub(1);
    }

    /// Expands, measures and runs one command line.
    fn run_simple(&mut self, words: &[Word], block: Option<&Block>) -> Result<Status, Stop> {
        let arguments = self.expand(words, block)?;
        if arguments.is_empty() {
            return Ok(Status::Ok);
        }
        self.measure_text("grub_cmd", &arguments.join(" "))?;
        let (inverted, arguments) = match arguments.split_first() {
            Some((first, rest)) if first == "!" => (true, rest),
            _ => (false, arguments.as_slice()),
        };
        let Some((name, arguments)) = arguments.split_first() else { return Ok(Status::Error) };
        let status = self.dispatch(name, arguments, block)?;
        if !inverted {
            return Ok(status);
        }
        Ok(match status {
            Status::Ok => Status::False,
            // An error is printed and forgotten, a failed test turned round.
            Status::False | Status::Error => Status::Ok,
            Status::Open(_) if self.succeeded(&status)? => Status::False,
            Status::Open(_) => Status::Ok,
        })
    }

    /// A command first, then a function, then an assignment.
    fn dispatch(
        &mut self,
        name: &str,
        arguments: &[String],
        block: Option<&Block>,
    ) -> Result<Status, Stop> {
        if BUILT_IN.contains(&name) {
            return self.run_command(name, arguments, block);
        }
        let listed = self.commands.as_ref().and_then(|commands| commands.get(name)).cloned();
        if let Some(module) = listed {
            self.load_module(&module)?;
            return self.run_command(name, arguments, block);
        }
        // Without lists, every command that works lies in the image.
        let unlisted = self.commands.is_none() && Self::is_known_command(name);
        if unlisted {
            return self.run_command(name, arguments, block);
        }
        if let Some(function) = self.functions.get(name).cloned() {
            return self.call(&function, arguments);
        }
        if let Some((variable, value)) = name.split_once('=') {
            self.set_variable(variable, value.into())?;
            return Ok(Status::Ok);
        }
        if self.commands.is_none() && self.facts.measured {
            return Err(Stop::Why(format!("whether GRUB has the command {name}")));
        }
        // An unknown command is reported on the screen and succeeds.
        Ok(Status::Ok)
    }

    fn call(&mut self, function: &Function, arguments: &[String]) -> Result<Status, Stop> {
        let scope = self.scope.replace(arguments.to_vec());
        let leaving = std::mem::take(&mut self.leaving);
        let place = (std::mem::replace(&mut self.file, function.file.clone()), self.line);
        let status = self.run_list(&function.body)?;
        (self.file, self.line) = place;
        self.scope = scope;
        self.leaving = Leaving { breaks: self.leaving.breaks, ..leaving };
        Ok(status)
    }

    /// Sets a variable, with what GRUB hooks to it: a new prefix reads lists, a language a catalog.
    pub(super) fn set_variable(&mut self, name: &str, value: Value) -> Result<(), Stop> {
        let special = name.starts_with(|c: char| c.is_ascii_digit());
        if special || matches!(name, "#" | "*" | "@") {
            return Ok(());
        }
        let text = match &value {
            Value::Known(text) => Some(text.clone()),
            Value::Unknown(_) => None,
        };
        match (name, text) {
            ("?", _) => return Ok(()),
            ("prefix", Some(text)) => self.read_lists(&text)?,
            ("lang", Some(text)) => {
                let folder = self.environment.text("locale_dir").map(str::to_owned);
                self.read_catalog(&text, folder)?;
            }
            ("locale_dir", Some(text)) => {
                let language = self.environment.text("lang").unwrap_or_default().to_owned();
                self.read_catalog(&language, Some(text))?;
            }
            _ => {}
        }
        if !self.environment.set(name, value) {
            return Err(Stop::Why("more than 4096 variables are set".into()));
        }
        Ok(())
    }

    /// The answer to whether a command succeeds, kept open until something depends on it.
    pub(super) fn open_status(name: &str, arguments: &[String]) -> Status {
        Status::Open([&[name.to_owned()], arguments].concat().join(" "))
    }

    /// The files that a command reads, known from the log of the last boot only.
    pub(super) fn learned_files(&mut self, question: &str) -> Option<Vec<String>> {
        let seen = self.teacher.as_ref().map(|teacher| teacher.files_ahead()).unwrap_or_default();
        match self.ask(question, vec![Answer::Names(seen)])? {
            Answer::Names(names) => Some(names),
            _ => None,
        }
    }
}
