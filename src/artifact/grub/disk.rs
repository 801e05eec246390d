//! Commands that read file systems: tests, searches, environment blocks, kernels.

use super::condition::FileTest;
use super::envblk::EnvironmentBlock;
use super::environment::Value;
use super::facts::Answer;
use super::files::FileRef;
use super::machine::{Loaded, Machine, Status, Stop, bare};
use super::options::{Options, Spec, Takes};
use super::words::is_hex;
use crate::artifact::Volume;

const ENVIRONMENT: [Spec; 2] = [
    Spec { long: "file", short: Some('f'), value: Takes::Value },
    Spec { long: "skip-sig", short: Some('s'), value: Takes::Nothing },
];

impl Machine<'_> {
    /// Answers a test about a file; only `-s` reads it.
    pub(super) fn test_file(&mut self, test: FileTest, name: &str) -> Result<bool, Stop> {
        if name.is_empty() {
            return Ok(false);
        }
        if test == FileTest::NotEmpty {
            let Some(file) = self.open(name)? else { return Ok(false) };
            return Ok(self.is_filled(&file)?);
        }
        let Some(file) = self.locate(name)? else {
            return Err(Stop::Why(format!("{name} lies inside GRUB's image")));
        };
        let is_file = self.boot.exists(&file)?;
        let is_folder = || -> Result<bool, Stop> {
            Ok(file.path.is_empty() || !self.boot.files.names(file.volume, &file.path)?.is_empty())
        };
        Ok(match test {
            FileTest::File => is_file,
            FileTest::Directory => !is_file && is_folder()?,
            _ => is_file || is_folder()?,
        })
    }

    fn is_filled(&self, file: &FileRef) -> Result<bool, Stop> {
        use crate::artifact::Found;
        if let Some(bytes) = self.written.get(file) {
            return Ok(!bytes.is_empty());
        }
        match self.boot.files.find(file.volume, &file.path)? {
            None => Ok(false),
            Some(Found::Bytes(source)) => Ok(!source.is_empty()),
            Some(Found::Digests(known)) => match known.size {
                Some(size) => Ok(size > 0),
                None => Err(Stop::Why(format!("the size of {} is not known", file.path))),
            },
        }
    }

    /// `search`: which device has the file system or file.
    pub(super) fn search(&mut self, name: &str, arguments: &[String]) -> Result<Status, Stop> {
        let (kind, variable, key, hints) = match name {
            "search" => {
                let Some(found) = search_arguments(arguments) else { return Ok(Status::Error) };
                found
            }
            _ => {
                let kind = name.strip_prefix("search.").unwrap_or_default();
                let kind = if kind == "fs_label" { "label" } else { kind };
                let mut rest = arguments.iter().cloned();
                let Some(key) = rest.next() else { return Ok(Status::Error) };
                (kind.replace("fs_uuid", "fs-uuid"), rest.next(), key, rest.collect())
            }
        };
        let question = format!("search {kind} {key}");
        // A hint names the device first, else the kernels' file system is the likely one.
        let mut candidates: Vec<String> = hints.iter().map(|hint| bare(hint).to_owned()).collect();
        candidates.retain(|device| self.facts.devices.contains_key(device));
        candidates.extend(self.device_of(Volume::Boot).map(str::to_owned));
        candidates.extend(self.facts.devices.keys().cloned());
        let answer = if kind == "file" && !self.facts.measured {
            // Where nothing is measured, the files themselves tell.
            let mut found = Vec::new();
            for device in candidates {
                let file = self.locate(&format!("({device}){key}"))?;
                if let Some(file) = file
                    && self.boot.exists(&file)?
                {
                    found.push(device);
                }
            }
            found.dedup();
            Some(found.into_iter().next().map_or(Answer::No, Answer::Device))
        } else {
            self.ask_device(&question, candidates)
        };
        match answer {
            Some(Answer::Device(device)) => {
                if kind == "file" {
                    self.open(&format!("({device}){key}"))?;
                }
                if let Some(variable) = variable {
                    self.set_variable(&variable, Value::Known(device))?;
                }
                Ok(Status::Ok)
            }
            Some(_) => Ok(Status::Error),
            None => {
                if let Some(variable) = variable {
                    self.set_unknown(
                        &variable,
                        &format!("nothing tells the result of: {question}"),
                    )?;
                }
                Ok(Status::Open(question))
            }
        }
    }

    /// `load_env`: variables out of a block, those that are named or all.
    pub(super) fn load_env(&mut self, load: bool, arguments: &[String]) -> Result<Status, Stop> {
        let Some(options) = Options::parse(&ENVIRONMENT, arguments, false) else {
            return Ok(Status::Error);
        };
        let name = self.environment_file(&options)?;
        let file = if options.has("skip-sig") {
            let file = self.locate(&name)?;
            file.filter(|file| self.boot.exists(file).unwrap_or(false))
        } else {
            self.open(&name)?
        };
        let Some(file) = file else { return Ok(Status::Error) };
        let Some(block) = EnvironmentBlock::parse(&self.read(&file)?) else {
            return Ok(Status::Error);
        };
        if load {
            for (name, value) in block.variables() {
                if options.rest.is_empty() || options.rest.contains(&name) {
                    self.set_variable(&name, Value::Known(value))?;
                }
            }
        }
        Ok(Status::Ok)
    }

    fn environment_file(&self, options: &Options) -> Result<String, Stop> {
        match options.value("file") {
            Some(file) => Ok(file.to_owned()),
            None => match self.environment.get("prefix") {
                Some(Value::Known(prefix)) => Ok(format!("{prefix}/grubenv")),
                _ => Err(Stop::Why("$prefix is not known".into())),
            },
        }
    }

    /// `save_env`: reads without measuring, and writes in place.
    pub(super) fn save_env(&mut self, arguments: &[String]) -> Result<Status, Stop> {
        let Some(options) = Options::parse(&ENVIRONMENT, arguments, false) else {
            return Ok(Status::Error);
        };
        let name = self.environment_file(&options)?;
        let file = self.locate(&name)?;
        let Some(file) = file.filter(|file| self.boot.exists(file).unwrap_or(false)) else {
            return Ok(Status::Error);
        };
        let Some(mut block) = EnvironmentBlock::parse(&self.read(&file)?) else {
            return Ok(Status::Error);
        };
        for name in &options.rest {
            match self.environment.get(name) {
                Some(Value::Known(value)) => {
                    if !block.set(name, value) {
                        return Ok(Status::Error);
                    }
                }
                Some(Value::Unknown(why)) => return Err(Stop::Why(format!("${name}: {why}"))),
                None => block.delete(name),
            }
        }
        self.written.insert(file, block.as_bytes().to_vec());
        Ok(Status::Ok)
    }

    /// `linux`: reads the kernel, then measures its command line.
    pub(super) fn linux(&mut self, arguments: &[String]) -> Result<Status, Stop> {
        let Some(name) = arguments.first() else { return Ok(Status::Error) };
        let Some(kernel) = self.open(name)? else {
            return Err(Stop::Why(format!("the kernel {name} does not exist")));
        };
        let command_line = self.loader_command_line(arguments)?;
        self.measure_text("kernel_cmdline", &command_line)?;
        self.loaded = Some(Loaded { kernel, command_line, initrds: Vec::new() });
        Ok(Status::Ok)
    }

    /// `grub_create_loader_cmdline`: quotes and backslashes get a backslash, spaces quotes.
    fn loader_command_line(&mut self, arguments: &[String]) -> Result<String, Stop> {
        let mut words = Vec::with_capacity(arguments.len());
        for argument in arguments {
            let mut word = String::new();
            for (at, c) in argument.char_indices() {
                let kept = c == '\\' && is_hex(argument, at) && self.keeps_hex()?;
                if matches!(c, '\\' | '\'' | '"') && !kept {
                    word.push('\\');
                }
                word.push(c);
            }
            words.push(if argument.contains(' ') { format!("\"{word}\"") } else { word });
        }
        Ok(words.join(" "))
    }

    /// `initrd`: reads each file in order.
    pub(super) fn initrd(&mut self, arguments: &[String]) -> Result<Status, Stop> {
        let mut files = Vec::new();
        for name in arguments {
            if name.starts_with("newc:") {
                return Err(Stop::Why("initrd newc: is not modelled".into()));
            }
            let Some(file) = self.open(name)? else {
                return Err(Stop::Why(format!("the initrd {name} does not exist")));
            };
            files.push(file);
        }
        match &mut self.loaded {
            Some(loaded) => {
                loaded.initrds = files;
                Ok(Status::Ok)
            }
            None => Ok(Status::Error),
        }
    }
}

/// Kind, variable, key and hints of `search`.
fn search_arguments(arguments: &[String]) -> Option<(String, Option<String>, String, Vec<String>)> {
    const OPTIONS: [Spec; 14] = [
        Spec { long: "file", short: Some('f'), value: Takes::Nothing },
        Spec { long: "label", short: Some('l'), value: Takes::Nothing },
        Spec { long: "fs-uuid", short: Some('u'), value: Takes::Nothing },
        Spec { long: "set", short: Some('s'), value: Takes::Maybe },
        Spec { long: "no-floppy", short: Some('n'), value: Takes::Nothing },
        Spec { long: "efidisk-only", short: None, value: Takes::Nothing },
        Spec { long: "cryptodisk-only", short: None, value: Takes::Nothing },
        Spec { long: "root-dev-only", short: Some('r'), value: Takes::Nothing },
        Spec { long: "hint", short: Some('h'), value: Takes::Value },
        Spec { long: "hint-efi", short: None, value: Takes::Value },
        Spec { long: "hint-baremetal", short: None, value: Takes::Value },
        Spec { long: "hint-bios", short: None, value: Takes::Value },
        Spec { long: "hint-ieee1275", short: None, value: Takes::Value },
        Spec { long: "hint-arc", short: None, value: Takes::Value },
    ];
    let options = Options::parse(&OPTIONS, arguments, true)?;
    let kinds = ["label", "fs-uuid", "file"];
    let kind = kinds.into_iter().find(|kind| options.has(kind))?.to_owned();
    let mut rest = options.rest.iter().filter(|argument| !argument.starts_with("--hint-"));
    let hints = ["hint", "hint-efi", "hint-baremetal"];
    let hints = hints.iter().filter_map(|hint| options.value(hint)).map(str::to_owned).collect();
    let named = options.value("set").map(str::to_owned);
    Some(match rest.next() {
        Some(key) => {
            let variable = options.has("set").then(|| named.unwrap_or_else(|| "root".into()));
            (kind, variable, key.clone(), hints)
        }
        None => (kind, Some("root".into()), named?, hints),
    })
}
