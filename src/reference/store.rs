//! What reference boots left on the host: logs, and an index that tells which machine each is of.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::boot::{KVM, Recorded};
use super::error::ReferenceError;
use super::qemu::{Accelerator, Size};
use crate::measurement::PcrBank;
use crate::public_file;
use crate::template::{Reference, Template, require_unexposed};

/// Where they lie, below the root.
const FOLDER: &str = "var/lib/vmseal/references";
const INDEX: &str = "index.json";
const VERSION: u64 = 1;
const MAX_INDEX: usize = 1 << 20;
/// Longest firmware.
const MAX_FIRMWARE: u64 = 64 << 20;

/// The recorded boots of one template.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct References {
    folder: PathBuf,
    index: Index,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    version: u64,
    template: String,
    boots: Vec<Entry>,
}

/// One recorded boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Memory in MiB.
    pub memory: u64,
    /// Number of processors.
    pub cpus: u32,
    /// The firmware's log, a file beside the index.
    pub log: String,
    /// systemd's own log, likewise.
    pub userspace: Option<String>,
    /// QEMU's version.
    pub qemu: (u32, u32),
    /// How the processor was run.
    pub accelerator: String,
    /// SHA-256 of the firmware.
    pub firmware: String,
    /// The template's machine.
    pub machine: String,
}

impl References {
    /// Those of a template, on the system below `root`; none where nothing was recorded.
    ///
    /// # Errors
    /// [`ReferenceError::Malformed`], [`ReferenceError::Io`].
    pub fn of(root: &Path, template: &str) -> Result<Self, ReferenceError> {
        let folder = root.join(FOLDER).join(template);
        // A template names absolute paths only.
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        let path = folder.join(INDEX);
        let malformed = |cause: String| ReferenceError::Malformed { path: path.clone(), cause };
        let mut bytes = Vec::new();
        match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let template = template.to_owned();
                let index = Index { version: VERSION, template, boots: vec![] };
                return Ok(Self { folder, index });
            }
            file => file
                .and_then(|file| file.take(MAX_INDEX as u64 + 1).read_to_end(&mut bytes))
                .map_err(|error| ReferenceError::io(&path, &error))?,
        };
        if bytes.len() > MAX_INDEX {
            return Err(malformed(format!("more than {MAX_INDEX} bytes")));
        }
        require_unexposed(&path).map_err(|error| malformed(error.to_string()))?;
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        let is_name = |name: &String| !name.is_empty() && !name.contains('/') && name != "..";
        let is_beside = |it: &Entry| is_name(&it.log) && it.userspace.iter().all(is_name);
        if index.version != VERSION || index.template != template {
            return Err(malformed("it is of another version, or of another template".to_owned()));
        }
        if !index.boots.iter().all(is_beside) {
            return Err(malformed("it names files elsewhere".to_owned()));
        }
        Ok(Self { folder, index })
    }

    /// The recorded boots.
    pub fn entries(&self) -> &[Entry] {
        &self.index.boots
    }

    /// The path of a file that an entry names.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Gives a template that names no reference of its own the recorded ones, and the version of QEMU
    /// that these were made with where it names none.
    ///
    /// # Errors
    /// [`ReferenceError::None`] where there are none, [`ReferenceError::Stale`] where the machine or
    /// its firmware is another by now.
    pub fn lend(&self, template: &mut Template) -> Result<(), ReferenceError> {
        let name = &self.index.template;
        let Some(first) = self.index.boots.first() else {
            return Err(ReferenceError::None { name: name.clone() });
        };
        let stale =
            |what: &str| ReferenceError::Stale { name: name.clone(), what: what.to_owned() };
        let firmware = firmware_digest(template)?;
        for entry in &self.index.boots {
            if entry.machine != template.hardware.summary() {
                return Err(stale("machine"));
            }
            if entry.firmware != firmware {
                return Err(stale("firmware"));
            }
        }
        template.qemu.get_or_insert(first.qemu);
        template.references = self.index.boots.iter().map(|entry| self.reference(entry)).collect();
        Ok(())
    }

    /// The recorded ones as a template would name them: for the end of its text.
    pub fn to_toml(&self) -> String {
        // A string of JSON is one of TOML.
        let text = |name: &str| serde_json::Value::from(self.path(name).to_string_lossy());
        let table = |entry: &Entry| {
            let Entry { memory, cpus, log, userspace, .. } = entry;
            let userspace =
                userspace.as_deref().map(|name| format!("userspace = {}\n", text(name)));
            let userspace = userspace.unwrap_or_default();
            format!(
                "\n[[reference]]\nlog = {}\n{userspace}memory = {memory}\ncpus = {cpus}\n",
                text(log)
            )
        };
        self.index.boots.iter().map(table).collect()
    }

    fn reference(&self, entry: &Entry) -> Reference {
        Reference {
            log: self.path(&entry.log),
            userspace: entry.userspace.as_deref().map(|name| self.path(name)),
            memory: Some(entry.memory),
            cpus: Some(entry.cpus),
        }
    }

    /// Keeps what was recorded of a template, in place of all that was before. Afterwards the old or
    /// the new index is there, with its logs. Returns which boots measured otherwise than before.
    ///
    /// # Errors
    /// [`ReferenceError::Io`].
    pub fn keep(
        &mut self,
        template: &Template,
        qemu: (u32, u32),
        boots: &[(Size, Recorded)],
    ) -> Result<Vec<Size>, ReferenceError> {
        let (firmware, machine) = (firmware_digest(template)?, template.hardware.summary());
        let io = |error: std::io::Error| ReferenceError::io(&self.folder, &error);
        DirBuilder::new().recursive(true).mode(0o755).create(&self.folder).map_err(io)?;
        let write = |size: &Size, ending: &str, bytes: &[u8]| {
            // Named after its content: what an index names stays as it is.
            let digest: String = PcrBank::Sha256.hash(bytes).to_string().chars().take(16).collect();
            let name = format!("{}-{}-{digest}.{ending}", size.memory, size.cpus);
            let path = self.folder.join(&name);
            let is_there = fs::read(&path).is_ok_and(|there| there == bytes);
            let written = if is_there { Ok(()) } else { public_file::replace(&path, bytes) };
            written.map(|()| name).map_err(|error| ReferenceError::io(&path, &error))
        };
        let mut index =
            Index { version: VERSION, template: self.index.template.clone(), boots: vec![] };
        for (size, recorded) in boots {
            let userspace = &recorded.logs.userspace;
            let userspace = (!userspace.events().is_empty())
                .then(|| write(size, "userspace.log", userspace.to_text().as_bytes()));
            index.boots.push(Entry {
                memory: size.memory,
                cpus: size.cpus,
                log: write(size, "log", &recorded.logs.log.to_bytes())?,
                userspace: userspace.transpose()?,
                qemu,
                accelerator: recorded.accelerator.name().to_owned(),
                firmware: firmware.clone(),
                machine: machine.clone(),
            });
        }
        let is_known = |new: &&Entry| {
            let mut old = self.index.boots.iter();
            old.any(|old| (&old.log, &old.userspace) == (&new.log, &new.userspace))
        };
        let changed = index.boots.iter().filter(|new| !is_known(new));
        let changed = changed.map(|new| Size { memory: new.memory, cpus: new.cpus }).collect();
        if index != self.index {
            let path = self.folder.join(INDEX);
            let text = serde_json::to_string_pretty(&index).unwrap_or_default() + "\n";
            public_file::replace(&path, text.as_bytes())
                .map_err(|error| ReferenceError::io(&path, &error))?;
        }
        let old = std::mem::replace(&mut self.index, index);
        self.remove_others(&old);
        Ok(changed)
    }

    /// Removes the logs that only the index before named.
    fn remove_others(&self, old: &Index) {
        let names = |index: &Index| -> Vec<String> {
            let names =
                index.boots.iter().flat_map(|it| [Some(it.log.clone()), it.userspace.clone()]);
            names.flatten().collect()
        };
        let kept = names(&self.index);
        for name in names(old).iter().filter(|name| !kept.contains(name)) {
            // One that stays is named by no index.
            let _ = fs::remove_file(self.folder.join(name));
        }
    }
}

fn firmware_digest(template: &Template) -> Result<String, ReferenceError> {
    let Some(path) = &template.hardware.firmware else {
        let (name, cause) = (template.name.clone(), "[machine] names no firmware".to_owned());
        return Err(ReferenceError::Template { name, cause });
    };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FIRMWARE).read_to_end(&mut bytes));
    read.map_err(|error| ReferenceError::io(path, &error))?;
    Ok(PcrBank::Sha256.hash(&bytes).to_string())
}

impl Accelerator {
    /// Ways to run a processor here, the better one first.
    pub fn probe() -> Vec<Self> {
        let kvm = File::options().read(true).write(true).open(KVM);
        let kvm = kvm.is_ok().then_some(Self::Kvm);
        kvm.into_iter().chain([Self::Tcg]).collect()
    }
}
