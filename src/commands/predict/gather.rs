//! What is known of the boot that ran and of the one to come.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use vmseal::Error;
use vmseal::artifact::{Files, Volume};
use vmseal::boot::BootLogs;
use vmseal::files::{Folder, Named, NamedFile};
use vmseal::measurement::UserspaceLog;
use vmseal::prediction::{Base, KnownFiles, Layers, LoaderVariables, Next, Spelled};

use crate::cli::{Global, Predict};
use crate::commands::inputs;

/// Everything that was named or found.
pub struct Gathered {
    logs: BootLogs,
    early: Option<UserspaceLog>,
    base_files: Vec<Box<dyn Files>>,
    next_files: Vec<Box<dyn Files>>,
    named: Named,
    listed: Named,
    cmdline: Option<String>,
}

impl Gathered {
    /// Hands both boots to `use_them`.
    pub fn with_inputs<T>(&self, use_them: impl FnOnce(&Base<'_>, &Next<'_>) -> T) -> T {
        let base_files = Layers(self.base_files.iter().map(AsRef::as_ref).collect());
        let mut layers: Vec<&dyn Files> = vec![&self.named, &self.listed];
        layers.extend(self.next_files.iter().map(AsRef::as_ref));
        let next_files = Layers(layers);
        let base = Base {
            log: &self.logs.firmware,
            early: self.early.as_ref(),
            files: (!self.base_files.is_empty()).then_some(&base_files as &dyn Files),
        };
        let next = Next {
            files: &next_files,
            cmdline: self.cmdline.clone(),
            loader: LoaderVariables::default(),
        };
        use_them(&base, &next)
    }

    /// The paths of `--set` that no entry reads.
    pub fn unused(&self) -> impl Iterator<Item = String> {
        self.named.unused().map(Spelled::path)
    }
}

/// Reads the logs and opens the files.
pub fn gather(global: &Global, args: &Predict) -> Result<Gathered, Error> {
    let log = args.base_log.as_deref().or(global.eventlog.as_deref());
    let logs = inputs::boot_logs(log, args.userspace_log.as_deref())?;
    let early = logs.early();
    let mut gathered = Gathered {
        logs,
        early,
        base_files: Vec::new(),
        next_files: Vec::new(),
        named: Named::default(),
        listed: Named::default(),
        cmdline: args.cmdline.as_deref().map(text_or_file).transpose()?,
    };
    for (volume, path) in [(Volume::Esp, &args.base_esp), (Volume::Boot, &args.base_boot)] {
        if let Some(path) = path {
            gathered.base_files.push(open_tree(volume, path)?);
        }
    }
    let trees = [(Volume::Esp, &args.esp, &args.base_esp), (Volume::Boot, &args.boot, &args.base_boot)];
    for (volume, path, base) in trees {
        // What is not said to change stays.
        if let Some(path) = path.as_ref().or(base.as_ref()) {
            gathered.next_files.push(open_tree(volume, path)?);
        }
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

fn open_tree(volume: Volume, path: &Path) -> Result<Box<dyn Files>, Error> {
    let refused = |cause: String| Error::Artifact { path: path.to_owned(), cause };
    let metadata = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if metadata.is_dir() {
        return Ok(Box::new(Folder::new(volume, path)));
    }
    Err(refused("not a folder".to_owned()))
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

fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let refused = |cause: String| Error::Artifact { path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| refused(error.to_string()))?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|error| refused(error.to_string()))?;
    if bytes.len() > limit {
        return Err(refused(format!("more than {limit} bytes")));
    }
    Ok(bytes)
}
