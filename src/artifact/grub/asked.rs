//! Commands whose result only the machine gives: what they do is learned from the last boot's log,
//! or stays unknown until something depends on it.

use super::facts::Answer;
use super::machine::{Machine, Status, Stop};

impl Machine<'_> {
    pub(super) fn run_asked(&mut self, name: &str, arguments: &[String]) -> Result<Status, Stop> {
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

    pub(super) fn loadfont(&mut self, arguments: &[String]) -> Result<Status, Stop> {
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

    pub(super) fn background_image(&mut self, arguments: &[String]) -> Result<Status, Stop> {
        let question = format!("files of background_image {}", arguments.join(" "));
        match self.learned_files(&question) {
            Some(names) => names.iter().try_for_each(|name| self.open(name).map(drop))?,
            None => self.gap("nothing tells whether the background is read".into()),
        }
        Ok(Self::open_status("background_image", arguments))
    }

    /// Commands that put what the machine says into a variable.
    pub(super) fn fill_variable(
        &mut self,
        name: &str,
        arguments: &[String],
    ) -> Result<Status, Stop> {
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
