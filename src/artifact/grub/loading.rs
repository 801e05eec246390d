//! What GRUB loads by itself: modules, their lists, catalogs of translations.

use super::environment::Value;
use super::facts::Answer;
use super::machine::{Machine, Stop};
use super::modules::{Dependencies, commands, terminals};

/// GRUB's name of the only platform that is modelled.
const PLATFORM: &str = "x86_64-efi";

impl Machine<'_> {
    fn module_path(&self, module: &str) -> Option<String> {
        let prefix = self.environment.text("prefix")?;
        Some(format!("{prefix}/{PLATFORM}/{module}.mod"))
    }

    /// Loads a module and what it needs, unless it is there already (`grub_dl_load`).
    pub(super) fn load_module(&mut self, module: &str) -> Result<(), Stop> {
        self.step()?;
        if self.modules.contains(module) {
            return Ok(());
        }
        let Some(path) = self.module_path(module).filter(|_| self.facts.measured) else {
            self.modules.insert(module.to_owned());
            return Ok(());
        };
        let file = self.locate(&path)?;
        let on_disk = match &file {
            Some(file) => self.boot.exists(file)?,
            None => false,
        };
        self.modules.insert(module.to_owned());
        if !on_disk {
            // In the image, or nowhere: nothing is read.
            return Ok(());
        }
        self.read_dependencies(&path)?;
        match self.in_image(module, &path) {
            Some(true) => {
                let needed = self.dependencies.as_ref().map(|list| list.closure(module));
                self.modules.extend(needed.unwrap_or_default());
            }
            Some(false) => {
                self.open(&path)?;
                let needed = self.dependencies.as_ref().and_then(|list| list.of(module));
                let Some(needed) = needed.map(<[String]>::to_vec) else {
                    self.gap(format!("nothing tells which modules {module} needs"));
                    return Ok(());
                };
                for needed in needed {
                    self.load_module(&needed)?;
                }
            }
            None => {
                self.gap(format!("nothing tells whether {module} is in GRUB's image or is read"));
            }
        }
        Ok(())
    }

    /// Whether a module is in GRUB's image.
    fn in_image(&mut self, module: &str, path: &str) -> Option<bool> {
        let question = format!("module {module}");
        if !self.answers.contains_key(&question) && self.is_implied(module) {
            return Some(true);
        }
        let read_next = self.teacher.as_ref().is_some_and(|teacher| teacher.is_next(path));
        self.ask_whether(&question, !read_next)
    }

    /// Whether a module is needed by one that is in the image.
    fn is_implied(&self, module: &str) -> bool {
        let Some(list) = &self.dependencies else { return false };
        let in_image = self.answers.iter().filter(|(_, answer)| **answer == Answer::Yes);
        let mut names = in_image.filter_map(|(question, _)| question.strip_prefix("module "));
        names.any(|name| list.closure(name).contains(module))
    }

    fn read_dependencies(&mut self, path: &str) -> Result<(), Stop> {
        if self.dependencies.is_some() {
            return Ok(());
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let list = self.locate(&format!("{folder}/moddep.lst"))?;
        if let Some(list) = list
            && let Some(bytes) = self.boot.bytes(&list)?
        {
            self.dependencies = Some(Dependencies::parse(&String::from_utf8_lossy(&bytes)));
        }
        Ok(())
    }

    /// `normal.mod` and what its start loads (`GRUB_MOD_INIT(normal)`).
    pub(super) fn load_normal_mode(&mut self) -> Result<(), Stop> {
        self.load_module("normal")?;
        self.load_module("gzio")
    }

    /// Reads the lists below a prefix (`read_lists`).
    pub(super) fn read_lists(&mut self, prefix: &str) -> Result<(), Stop> {
        let device = self.place(prefix)?.0;
        if device == "memdisk" {
            return Ok(());
        }
        let folder = format!("{prefix}/{PLATFORM}");
        if let Some(text) = self.read_list(&format!("{folder}/command.lst"))? {
            self.commands = Some(commands(&text));
        }
        self.read_list(&format!("{folder}/fs.lst"))?;
        self.read_list(&format!("{folder}/crypto.lst"))?;
        if let Some(text) = self.read_list(&format!("{folder}/terminal.lst"))? {
            self.terminals = terminals(&text);
        }
        self.dependencies = None;
        let language = self.environment.text("lang").unwrap_or_default().to_owned();
        let folder = self.environment.text("locale_dir").map(str::to_owned);
        let folder = folder.unwrap_or_else(|| format!("{prefix}/locale"));
        self.read_catalog(&language, Some(folder))
    }

    fn read_list(&mut self, name: &str) -> Result<Option<String>, Stop> {
        match self.open(name)? {
            Some(file) => self.read_text(&file).map(Some),
            None => Ok(None),
        }
    }

    /// Looks for a catalog of a language (`grub_gettext_init_ext`).
    pub(super) fn read_catalog(
        &mut self,
        language: &str,
        folder: Option<String>,
    ) -> Result<(), Stop> {
        self.translated = false;
        let prefix = self.environment.text("prefix").map(|prefix| format!("{prefix}/locale"));
        let Some(folder) = folder.filter(|folder| !folder.is_empty()).or(prefix) else {
            return Ok(());
        };
        if language.is_empty() {
            return Ok(());
        }
        let short = language.split_once('_').map(|(short, _)| short);
        for name in [Some(language), short].into_iter().flatten() {
            for ending in ["mo", "mo.gz", "gmo"] {
                if self.open(&format!("{folder}/{name}.{ending}"))?.is_some() {
                    self.translated = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Loads the modules of terminals that are asked for (`commands/terminal.c`).
    pub(super) fn load_terminals(&mut self, kind: char, names: &[String]) -> Result<(), Stop> {
        for name in names.iter().filter(|name| !name.starts_with("--") && *name != "console") {
            let listed = super::modules::terminal_module(&self.terminals, kind, name);
            if let Some(module) = listed.map(str::to_owned) {
                self.load_module(&module)?;
            }
        }
        Ok(())
    }

    /// A variable that the machine fills, with a value that nothing tells.
    pub(super) fn set_unknown(&mut self, name: &str, why: &str) -> Result<(), Stop> {
        self.set_variable(name, Value::Unknown(why.to_owned()))
    }
}
