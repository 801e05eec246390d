//! From GRUB's start to the kernel: configurations, menus, entries (`normal/main.c`, `menu.c`).

use super::environment::Value;
use super::facts::{Answer, Beginning};
use super::machine::{Machine, Picked, Status, Stop};
use super::menu::{Entry, position, rest};
use super::outcome::Boot;
use super::script::Script;

/// Deepest nesting of configurations that read one another.
const MAX_CONFIGS: usize = 12;

impl Machine<'_> {
    /// Everything, from the start of GRUB on. Never ends well: the [`Stop`] says how it ends.
    pub(super) fn start(&mut self) -> Result<(), Stop> {
        let facts = self.facts;
        let started = facts.beginning.contains(&Beginning::NormalMode);
        for module in ["normal", "gzio"].into_iter().filter(|_| !started && facts.measured) {
            self.answers.entry(format!("module {module}")).or_insert(Answer::Yes);
        }
        for beginning in &facts.beginning {
            match beginning {
                Beginning::File(name) => self.begin_with_file(name)?,
                Beginning::Command(text) => self.begin_with_command(text)?,
                Beginning::NormalMode => self.load_normal_mode()?,
            }
        }
        if !facts.measured
            && let Some(prefix) = facts.prefix.clone()
        {
            self.read_lists(&prefix)?;
        }
        self.configure(&facts.config, false, !facts.measured)?;
        Err(Stop::Why("the configuration starts nothing".into()))
    }

    fn begin_with_file(&mut self, name: &str) -> Result<(), Stop> {
        if self.open(name)?.is_none() {
            return Err(Stop::Why(format!("{name}, which GRUB read in its last boot, is gone")));
        }
        if let Some((prefix, _)) = name.split_once("/x86_64-efi/command.lst")
            && let Some(file) = self.locate(name)?
        {
            self.commands = Some(super::modules::commands(&self.read_text(&file)?));
            self.environment.set("prefix", prefix.into());
        }
        if name.ends_with("/x86_64-efi/terminal.lst")
            && let Some(file) = self.locate(name)?
        {
            self.terminals = super::modules::terminals(&self.read_text(&file)?);
        }
        Ok(())
    }

    /// A command of the script inside the image: only what it sets is followed.
    fn begin_with_command(&mut self, text: &str) -> Result<(), Stop> {
        self.measure_text("grub_cmd", text)?;
        let assignment = text.strip_prefix("set ").unwrap_or(text);
        if let Some((name, value)) = assignment.split_once('=')
            && !name.contains(' ')
        {
            // The lists that a new prefix reads are events of their own here.
            self.environment.set(name, value.into());
        }
        Ok(())
    }

    /// Reads and runs a configuration, then shows its menu (`grub_normal_execute`). `opened` tells
    /// that its reading is measured already.
    pub(super) fn configure(
        &mut self,
        name: &str,
        batch: bool,
        unmeasured: bool,
    ) -> Result<(), Stop> {
        let file = if unmeasured { self.locate(name)? } else { self.open(name)? };
        let Some(file) = file else { return Ok(()) };
        let text = self.read_text(&file)?;
        let saved = ["config_file", "config_directory"]
            .map(|name| (name, self.environment.get(name).cloned()));
        let full = if name.starts_with('(') {
            name.to_owned()
        } else {
            let root = self.environment.text("root").unwrap_or_default();
            format!("({root}){name}")
        };
        let folder = full.rsplit_once('/').map_or(full.as_str(), |(folder, _)| folder).to_owned();
        self.environment.set("config_directory", Value::Known(folder));
        self.environment.set("config_file", full.as_str().into());
        let place = (std::mem::replace(&mut self.file, full), self.line);
        self.nest()?;
        let scope = self.scope.clone();
        self.run_script(&Script::of_file(&text))?;
        self.scope = scope;
        for (name, value) in saved {
            match value {
                Some(value) => drop(self.environment.set(name, value)),
                None => self.environment.unset(name),
            }
        }
        if !batch && self.menus.last().is_some_and(|menu| !menu.is_empty()) {
            self.show_menu(false)?;
        }
        self.depth = self.depth.saturating_sub(5);
        (self.file, self.line) = place;
        Ok(())
    }

    /// A configuration within another costs more depth than a command does.
    fn nest(&mut self) -> Result<(), Stop> {
        self.depth += 5;
        if self.depth > 5 * MAX_CONFIGS {
            return Err(Stop::Why("configurations read one another without end".into()));
        }
        Ok(())
    }

    /// Shows a menu and starts the entry that is chosen.
    fn show_menu(&mut self, automatic: bool) -> Result<(), Stop> {
        let level = self.entered.len();
        if matches!(&self.picked, Picked::Listing(positions) if positions.len() <= level) {
            return Err(Stop::Menu);
        }
        let menu = self.menus.last().cloned().unwrap_or_default();
        let (chosen, by_hand) = self.choose(&menu)?;
        if !automatic {
            self.draw_menu()?;
        }
        let Some(entry) = menu.get(chosen).cloned() else {
            return Err(Stop::Why("the menu has no such entry".into()));
        };
        self.enter(chosen, entry, !by_hand)
    }

    /// The position of the entry that is started, and whether somebody chose it.
    fn choose(&mut self, menu: &[Entry]) -> Result<(usize, bool), Stop> {
        let level = self.entered.len();
        if let Picked::ByHand(positions) | Picked::Listing(positions) = &self.picked
            && let Some(position) = positions.get(level)
        {
            return Ok((*position, true));
        }
        let spec = match self.environment.get("default") {
            Some(Value::Known(spec)) => spec.clone(),
            Some(Value::Unknown(why)) => return Err(Stop::Why(format!("$default: {why}"))),
            None => String::new(),
        };
        let default = position(menu, &spec).filter(|chosen| *chosen < menu.len()).unwrap_or(0);
        let Some(teacher) = &self.teacher else { return Ok((default, false)) };
        // The boot that teaches may have been another entry's, chosen by hand.
        let mut candidates: Vec<usize> = (0..menu.len()).collect();
        candidates.sort_by_key(|index| {
            let parameters = menu.get(*index).map(|entry| entry.arguments.join(" "));
            let starts =
                teacher.is_next(&format!("grub_cmd: setparams {}", parameters.unwrap_or_default()));
            (!starts, *index != default)
        });
        let candidates = candidates.into_iter().take(64).map(Answer::Position).collect();
        match self.ask(&format!("menu {level}"), candidates) {
            Some(Answer::Position(chosen)) => Ok((chosen, chosen != default)),
            _ => Ok((default, false)),
        }
    }

    /// A menu on a graphical screen reads its theme's files unless it goes by at once.
    fn draw_menu(&mut self) -> Result<(), Stop> {
        let Some(theme) = self.environment.text("theme").map(str::to_owned) else { return Ok(()) };
        let at_once = self.environment.text("timeout") == Some("0");
        if at_once || !self.facts.measured {
            return Ok(());
        }
        match self.learned_files(&format!("files of theme {theme}")) {
            Some(names) => names.iter().try_for_each(|name| self.open(name).map(drop)),
            None => {
                self.gap(format!("nothing tells which files the theme {theme} reads"));
                Ok(())
            }
        }
    }

    /// Starts an entry (`grub_menu_execute_entry`).
    fn enter(&mut self, chosen: usize, entry: Entry, automatic: bool) -> Result<(), Stop> {
        self.step()?;
        let default = self.environment.text("default").map(str::to_owned);
        if entry.submenu {
            if !self.environment.open_context() {
                return Err(Stop::Why("menus are nested more than 16 deep".into()));
            }
            self.menus.push(Vec::new());
            if automatic {
                self.environment.set("timeout", "0".into());
            }
        }
        let id = entry.id.replace('>', ">>");
        let path = match self.environment.text("chosen") {
            Some(outer) => format!("{outer}>{id}"),
            None => id,
        };
        self.environment.set("chosen", Value::Known(path));
        if let Some(inner) = default.as_deref().and_then(rest) {
            self.environment.set("default", inner.into());
        }
        let status = self.run_entry(chosen, &entry)?;
        if self.succeeded(&status)? && self.loaded.is_some() {
            return Err(self.boot_now());
        }
        if entry.submenu && self.menus.last().is_some_and(|menu| !menu.is_empty()) {
            return self.show_menu(automatic);
        }
        Err(Stop::Why(format!("the entry \"{}\" starts no kernel", entry.title)))
    }

    /// Runs the body of an entry in a scope of its own.
    pub(super) fn run_entry(&mut self, chosen: usize, entry: &Entry) -> Result<Status, Stop> {
        self.entered.push((chosen, entry.clone()));
        self.scope = Some(entry.arguments.clone());
        self.file.clone_from(&entry.file);
        self.line = entry.line;
        if !entry.arguments.is_empty() && entry.line > 0 {
            // The body starts with a line that GRUB writes (`setparams_prefix`).
            self.measure_text("grub_cmd", &format!("setparams {}", entry.arguments.join(" ")))?;
        }
        self.run_script(&Script::of_body(&entry.body, entry.line))
    }

    /// Ends the walk with what is loaded.
    pub(super) fn boot_now(&mut self) -> Stop {
        let Some(loaded) = self.loaded.clone() else {
            return Stop::Why("boot without a kernel".into());
        };
        let entry = (!self.entered.is_empty()).then(|| self.entry_name(None));
        Stop::Booted(Box::new(Boot {
            entry,
            kernel: loaded.kernel,
            command_line: loaded.command_line,
            initrds: loaded.initrds,
        }))
    }
}
