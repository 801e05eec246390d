//! The files of templates: their definitions, what was approved, and what is delivered.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};
use rustix::process::geteuid;

use super::account::Account;
use super::definition::Template;
use super::error::TemplateError;
use crate::authority::is_template_name;

/// Where templates lie, below the root.
const TEMPLATES: &str = "etc/vmseal/templates.d";
/// Where it is kept what was approved for them.
const ACCOUNTS: &str = "var/lib/vmseal/host";
/// Most templates of a host.
const MAX_TEMPLATES: usize = 4096;

/// The templates of the host whose system lies below a folder.
#[derive(Debug, Clone)]
pub struct Templates {
    root: PathBuf,
}

/// A file that a machine is to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The file.
    pub path: PathBuf,
    /// What it is to hold.
    pub text: String,
}

impl Templates {
    /// Those of the system below `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The names of all templates.
    ///
    /// # Errors
    /// [`TemplateError::None`], [`TemplateError::Io`].
    pub fn names(&self) -> Result<Vec<String>, TemplateError> {
        let folder = self.root.join(TEMPLATES);
        let none = || TemplateError::None { folder: folder.clone() };
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(none()),
            entries => entries.map_err(|error| TemplateError::io(&folder, &error))?,
        };
        let mut names = vec![];
        for entry in entries.take(MAX_TEMPLATES) {
            let name = entry.map_err(|error| TemplateError::io(&folder, &error))?.file_name();
            let name = name.to_string_lossy();
            let stem = name.strip_suffix(".toml").filter(|stem| is_template_name(stem));
            names.extend(stem.map(str::to_owned));
        }
        names.sort();
        if names.is_empty() { Err(none()) } else { Ok(names) }
    }

    /// The template of this name.
    ///
    /// # Errors
    /// Those of [`Templates::text`] and [`Templates::parse`].
    pub fn read(&self, name: &str) -> Result<Template, TemplateError> {
        self.parse(name, &self.text(name)?)
    }

    /// The text of the template of this name.
    ///
    /// # Errors
    /// [`TemplateError::Missing`], [`TemplateError::Exposed`], [`TemplateError::Malformed`],
    /// [`TemplateError::Io`].
    pub fn text(&self, name: &str) -> Result<String, TemplateError> {
        let path = self.path(name);
        let malformed = |cause: &str| {
            let (path, cause) = (path.clone(), cause.to_owned());
            TemplateError::Malformed { path, cause }
        };
        if !is_template_name(name) {
            return Err(malformed("its name is none of a template"));
        }
        let missing = || TemplateError::Missing { path: path.clone() };
        let bytes = read(&path, Template::MAX_LEN)?.ok_or_else(missing)?;
        require_unexposed(&path)?;
        String::from_utf8(bytes).map_err(|_| malformed("it is not text"))
    }

    /// The template of this name that has this text.
    ///
    /// # Errors
    /// [`TemplateError::Malformed`].
    pub fn parse(&self, name: &str, text: &str) -> Result<Template, TemplateError> {
        let path = self.path(name);
        Template::parse(name, text).map_err(|cause| TemplateError::Malformed { path, cause })
    }

    /// What was approved for a template; nothing where there is no file.
    ///
    /// # Errors
    /// [`TemplateError::Account`], [`TemplateError::Io`].
    pub fn account(&self, name: &str) -> Result<Account, TemplateError> {
        let path = self.account_file(name);
        let Some(bytes) = read(&path, Account::MAX_LEN)? else { return Ok(Account::default()) };
        Account::parse(name, &bytes).map_err(|cause| TemplateError::Account { path, cause })
    }

    /// Writes down what is approved: afterwards the old or the new account is there, whole.
    ///
    /// # Errors
    /// [`TemplateError::Io`].
    pub fn keep(&self, name: &str, account: &Account) -> Result<(), TemplateError> {
        let path = self.account_file(name);
        let new = path.with_extension("new");
        let folder = self.root.join(ACCOUNTS);
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            let mut options = File::options();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(account.to_text(name).as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&folder)?.sync_all()
        };
        write().map_err(|error| TemplateError::io(&path, &error))
    }

    /// Where the template of this name lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(TEMPLATES).join(format!("{name}.toml"))
    }

    /// Writes a template whole, with `replace` in the place of another.
    ///
    /// # Errors
    /// [`TemplateError::Exists`], [`TemplateError::Io`].
    pub fn add(&self, name: &str, text: &str, replace: bool) -> Result<PathBuf, TemplateError> {
        let path = self.path(name);
        let new = path.with_extension("new");
        let folder = self.root.join(TEMPLATES);
        let write = || {
            DirBuilder::new().recursive(true).mode(0o755).create(&folder)?;
            let mut options = File::options();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o644).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
            let renamed = renameat_with(CWD, &new, CWD, &path, flags);
            if renamed.is_err() {
                let _ = fs::remove_file(&new);
            }
            renamed?;
            File::open(&folder)?.sync_all()
        };
        match write() {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(TemplateError::Exists { path })
            }
            Err(error) => Err(TemplateError::io(&path, &error)),
            Ok(()) => Ok(path),
        }
    }

    fn account_file(&self, name: &str) -> PathBuf {
        self.root.join(ACCOUNTS).join(format!("{name}.json"))
    }
}

impl Delivered {
    /// Writes files whole, readable by all: what they hold is no secret. One at a time would wait
    /// for the disk as often as there are machines.
    ///
    /// # Errors
    /// [`TemplateError::Io`]. Some files may then be new; each is whole.
    pub fn write_all(files: &[Self]) -> Result<(), TemplateError> {
        let mut folders: Vec<&Path> = files.iter().filter_map(|file| file.path.parent()).collect();
        folders.sort();
        folders.dedup();
        for folder in &folders {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o755).create(folder);
            made.map_err(|error| TemplateError::io(folder, &error))?;
        }
        for file in files {
            let write = || {
                let mut new = create_anew(&file.new_path())?;
                // Whatever the umask.
                new.set_permissions(Permissions::from_mode(0o644))?;
                new.write_all(file.text.as_bytes())
            };
            write().map_err(|error| TemplateError::io(&file.path, &error))?;
        }
        let sync = |folder: &&Path| Ok(syncfs(File::open(folder)?)?);
        let synced = |folder: &&Path| {
            sync(folder).map_err(|error: std::io::Error| TemplateError::io(folder, &error))
        };
        folders.iter().try_for_each(synced)?;
        for file in files {
            let renamed = fs::rename(file.new_path(), &file.path);
            renamed.map_err(|error| TemplateError::io(&file.path, &error))?;
        }
        folders.iter().try_for_each(|folder| {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| TemplateError::io(folder, &error))
        })
    }

    fn new_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".new");
        path.into()
    }
}

/// A file that nobody had before, in the place of what a crash left or somebody planted there: a link
/// is not followed, and what another has open is not written to.
fn create_anew(path: &Path) -> std::io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => File::create_new(path),
    }
}

/// Refuses a file that decides what is signed, and that others may write than root and whoever runs
/// this.
///
/// # Errors
/// [`TemplateError::Foreign`], [`TemplateError::Exposed`], [`TemplateError::Io`].
pub fn require_unexposed(path: &Path) -> Result<(), TemplateError> {
    let metadata = fs::metadata(path).map_err(|error| TemplateError::io(path, &error))?;
    let owner = metadata.uid();
    if owner != 0 && owner != geteuid().as_raw() {
        return Err(TemplateError::Foreign { path: path.to_owned(), owner });
    }
    let mode = metadata.permissions().mode() & 0o777;
    match mode & 0o022 {
        0 => Ok(()),
        _ => Err(TemplateError::Exposed { path: path.to_owned(), mode }),
    }
}

/// A file of at most `limit` bytes, if there is one.
fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, TemplateError> {
    let io = |error: std::io::Error| TemplateError::io(path, &error);
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > limit {
        return Err(io(std::io::Error::other(format!("more than {limit} bytes"))));
    }
    Ok(Some(bytes))
}
