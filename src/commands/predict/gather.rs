//! What is known of the boot that ran and of the one to come.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use vmseal::Error;
use vmseal::artifact::efivar::{PolicyVariable, PolicyVariables};
use vmseal::artifact::{Files, Volume};
use vmseal::boot::BootLogs;
use vmseal::files::{Folder, Named, NamedFile, Payload};
use vmseal::measurement::UserspaceLog;
use vmseal::prediction::{
    Base, Filled, KnownFiles, Layers, LoaderVariables, Machine, NamedSection, Next, Spelled,
    uki_path,
};

use crate::cli::{Global, Predict};
use crate::commands::inputs;

/// Everything that was named or found.
pub struct Gathered {
    pub(super) logs: BootLogs,
    early: Option<UserspaceLog>,
    base_files: Vec<Box<dyn Files>>,
    pub(super) next_files: Vec<Box<dyn Files>>,
    pub(super) folders: Vec<Folder>,
    named: Named,
    listed: Named,
    cmdline: Option<String>,
    sections: Vec<NamedSection>,
    pub(super) machine: Machine,
    pub(super) loader: LoaderVariables,
    pub(super) payloads: Vec<Payload>,
    /// The variables of Secure Boot without them.
    pub(super) before_payloads: Option<PolicyVariables>,
    /// The running system, where the boot to come is its next one.
    pub(super) root: Option<PathBuf>,
    /// Its variables of Secure Boot, as they were read.
    pub(super) live: Vec<(PolicyVariable, Vec<u8>)>,
}

impl Gathered {
    /// Hands both boots to `use_them`.
    pub fn with_inputs<T>(&self, use_them: impl FnOnce(&Base<'_>, &Next<'_>) -> T) -> T {
        let base_files = Layers(self.base_files.iter().map(AsRef::as_ref).collect());
        let trees = Layers(self.next_files.iter().map(AsRef::as_ref).collect());
        // Bytes tell more than digests do.
        let bytes = Layers(vec![&trees, &base_files]);
        let named = Filled::new(&self.named, &bytes);
        let listed = Filled::new(&self.listed, &base_files);
        let next_files = Layers(vec![&named, &trees, &listed]);
        let base = Base {
            log: &self.logs.firmware,
            early: self.early.as_ref(),
            files: (!self.base_files.is_empty()).then_some(&base_files as &dyn Files),
        };
        let next = Next {
            files: &next_files,
            trees: &trees,
            cmdline: self.cmdline.clone(),
            loader: self.loader.clone(),
            sections: self.sections.clone(),
            machine: self.machine.clone(),
        };
        use_them(&base, &next)
    }

    /// Where a file of the running system lies.
    pub fn locate(&self, volume: Volume, path: &str) -> Option<PathBuf> {
        let mut folders = self.folders.iter().filter(|folder| folder.volume() == volume);
        folders.find_map(|folder| folder.locate(path).ok().flatten())
    }

    /// The paths of `--set` that no entry reads.
    pub fn unused(&self) -> impl Iterator<Item = String> {
        self.named.unused().map(Spelled::path)
    }
}

/// Reads the logs and opens the files.
pub fn gather(global: &Global, args: &Predict) -> Result<Gathered, Error> {
    let log = args.base_log.as_deref().or(global.eventlog.as_deref());
    let logs = inputs::boot_logs(global, log, args.userspace_log.as_deref())?;
    let early = logs.early();
    let mut gathered = Gathered {
        logs,
        early,
        base_files: Vec::new(),
        next_files: Vec::new(),
        folders: Vec::new(),
        named: Named::default(),
        listed: Named::default(),
        cmdline: args.cmdline.as_deref().map(text_or_file).transpose()?,
        sections: Vec::new(),
        machine: Machine {
            firmware: args.firmware.is_some(),
            memory: args.mem,
            memory_of_base: None,
            processors: args.smp,
            qemu: args.qemu.as_deref().map(qemu_version).transpose()?,
            policy: None,
            payloads: Vec::new(),
            shim_requests: Vec::new(),
            partitions: None,
        },
        loader: LoaderVariables::default(),
        payloads: Vec::new(),
        before_payloads: None,
        root: None,
        live: Vec::new(),
    };
    for (volume, path) in [(Volume::Esp, &args.base_esp), (Volume::Boot, &args.base_boot)] {
        if let Some(path) = path {
            gathered.base_files.push(open_tree(volume, path)?);
        }
    }
    let trees =
        [(Volume::Esp, &args.esp, &args.base_esp), (Volume::Boot, &args.boot, &args.base_boot)];
    for (volume, path, base) in trees {
        // What is not said to change stays.
        if let Some(path) = path.as_ref().or(base.as_ref()) {
            gathered.next_files.push(open_tree(volume, path)?);
        }
    }
    if log.is_none() {
        gathered.add_running(&global.root, args)?;
    }
    if let Some(path) = &args.vars {
        gathered.set_variables(path)?;
    }
    for (name, file) in [("kernel", &args.kernel), ("initrd", &args.initrd)] {
        if let Some(file) = file {
            gathered.named.add(Spelled::parse(name), NamedFile::File(file.clone()));
        }
    }
    if let Some(file) = &args.uki {
        let path = uki_path(&gathered.logs.firmware).ok_or_else(|| Error::Artifact {
            path: file.clone(),
            cause: "the boot that ran started no unified kernel image".to_owned(),
        })?;
        gathered.named.add(Spelled::parse(&path), NamedFile::File(file.clone()));
    }
    for set in &args.set {
        gathered.set(set)?;
    }
    Ok(gathered)
}

impl Gathered {
    /// `PATH=FILE`, `PATH=@DIGESTS`, or `@DIGESTS` for every path in it.
    fn set(&mut self, set: &str) -> Result<(), Error> {
        if let Some(file) = set.strip_prefix('@') {
            for (path, known) in known_files(Path::new(file))?.files() {
                self.listed.add(Spelled::parse(path), NamedFile::Digests(known.clone()));
            }
            return Ok(());
        }
        let (path, file) = set.split_once('=').ok_or_else(|| Error::BadSet { set: set.into() })?;
        if path == "cmdline" {
            self.cmdline = Some(text_or_file(&format!("@{file}"))?);
            return Ok(());
        }
        if let Some((image, section)) = path.split_once('#') {
            let bytes = read_bounded(Path::new(file), MAX_SECTION)?;
            let (image, name) = (Spelled::parse(image), section.to_owned());
            self.sections.push(NamedSection { image, name, bytes });
            return Ok(());
        }
        if self.set_variable(path, Path::new(file))?
            || self.set_partitions(path, Path::new(file))?
        {
            return Ok(());
        }
        let named = match file.strip_prefix('@') {
            Some(file) => {
                let known = known_files(Path::new(file))?;
                let digests = known.get(path).map_err(|there| Error::Artifact {
                    path: file.into(),
                    cause: format!("no {path} in it: {there}"),
                })?;
                NamedFile::Digests(digests.clone())
            }
            None => {
                File::open(file).map_err(|error| Error::Artifact {
                    path: file.into(),
                    cause: error.to_string(),
                })?;
                NamedFile::File(file.into())
            }
        };
        self.named.add(Spelled::parse(path), named);
        Ok(())
    }
}

/// The version of QEMU that counts: `10.0.13` is 10.0.
fn qemu_version(text: &str) -> Result<(u32, u32), Error> {
    let mut numbers = text.split(['.', '-', '+', '~']).map_while(|part| part.parse::<u32>().ok());
    let bad = || Error::BadQemu { found: text.to_owned() };
    Ok((numbers.next().ok_or_else(bad)?, numbers.next().unwrap_or(0)))
}

/// Longest section or variable that is read.
pub(super) const MAX_SECTION: usize = 64 << 20;

fn open_tree(volume: Volume, path: &Path) -> Result<Box<dyn Files>, Error> {
    vmseal::files::open(volume, path)
        .map_err(|error| Error::Artifact { path: path.to_owned(), cause: error.to_string() })
}

fn known_files(path: &Path) -> Result<KnownFiles, Error> {
    let refused = |cause| Error::Artifact { path: path.to_owned(), cause };
    let bytes = read_bounded(path, KnownFiles::MAX_LEN)?;
    KnownFiles::parse(&bytes).map_err(refused)
}

/// Longest command line that is read; the kernel takes 2048 bytes.
const MAX_CMDLINE: usize = 64 << 10;

/// `TEXT`, or `@FILE` with the text of a file, without the white space and NUL at its end.
fn text_or_file(value: &str) -> Result<String, Error> {
    let Some(file) = value.strip_prefix('@') else { return Ok(value.to_owned()) };
    let bytes = read_bounded(Path::new(file), MAX_CMDLINE)?;
    let text = String::from_utf8(bytes)
        .map_err(|error| Error::Artifact { path: file.into(), cause: error.to_string() })?;
    Ok(text.trim_end_matches(['\0', '\n', '\r', ' ']).to_owned())
}

pub(super) fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let refused = |cause: String| Error::Artifact { path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| refused(error.to_string()))?;
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| refused(error.to_string()))?;
    if bytes.len() > limit {
        return Err(refused(format!("more than {limit} bytes")));
    }
    Ok(bytes)
}
