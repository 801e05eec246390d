//! What files alone do not tell of a boot: learned from the log of the last one.

use std::collections::BTreeMap;

use super::files::{BootFiles, FileRef};
use crate::artifact::{FilesError, Volume};

/// The answer to a question that the walk could not answer from files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    /// A device's name without parentheses.
    Device(String),
    /// Names of files, in the order in which they are read.
    Names(Vec<String>),
    /// Position in a menu.
    Position(usize),
}

/// What GRUB does before it reads the configuration that a [`BootFiles`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Reads a file.
    File(String),
    /// Runs a command of a script inside its image.
    Command(String),
    /// Loads `normal.mod` and what it needs.
    NormalMode,
}

/// What one boot's log tells about its GRUB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether GRUB measures: it has the tpm module.
    pub(super) measured: bool,
    pub(super) beginning: Vec<Beginning>,
    /// The configuration that is walked, as GRUB names it.
    pub(super) config: String,
    /// `None` where GRUB's modules lie in its image.
    pub(super) prefix: Option<String>,
    pub(super) root: Option<String>,
    /// Device names, without parentheses, of the file systems at hand.
    pub(super) devices: BTreeMap<String, Volume>,
    pub(super) answers: BTreeMap<String, Answer>,
    /// Whether a question without an answer has the ordinary one: only where nothing is measured.
    pub(super) ordinary: bool,
}

impl Facts {
    /// A GRUB without the tpm module, as plain `grub-install` makes it: its configuration is the
    /// first one found at the usual places.
    ///
    /// # Errors
    /// [`FilesError`], also where there is no configuration.
    pub fn without_tpm(files: &BootFiles) -> Result<Self, FilesError> {
        for folder in ["/grub", "/boot/grub", "/grub2", "/boot/grub2"] {
            let path = format!("{folder}/grub.cfg");
            if files.exists(&FileRef { volume: Volume::Boot, path })? {
                return Ok(Self::unmeasured("boot", folder));
            }
        }
        Err(FilesError { path: "/boot/grub/grub.cfg".into(), cause: "does not exist".into() })
    }

    fn unmeasured(device: &str, folder: &str) -> Self {
        let prefix = format!("({device}){folder}");
        let devices = [("boot", Volume::Boot), ("esp", Volume::Esp)];
        Self {
            measured: false,
            beginning: Vec::new(),
            config: format!("{prefix}/grub.cfg"),
            prefix: Some(prefix),
            root: Some(device.to_owned()),
            devices: devices.map(|(name, volume)| (name.to_owned(), volume)).into(),
            answers: BTreeMap::new(),
            ordinary: true,
        }
    }

    /// Whether GRUB measures what it runs and reads.
    pub fn is_measured(&self) -> bool {
        self.measured
    }

    /// The configuration that is walked, as GRUB names it.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// Forgets what the GRUB image told, which another image need not tell: the modules in it.
    pub fn forget_image(&mut self) {
        self.answers.retain(|question, _| !question.starts_with("module "));
    }
}
