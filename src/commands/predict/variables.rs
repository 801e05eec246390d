//! The running system, and the variables and partition table of the boot to come.

use std::path::Path;

use vmseal::Error;
use vmseal::artifact::Volume;
use vmseal::artifact::efivar::{PolicyVariable, PolicyVariables, VariableError};
use vmseal::artifact::gpt::gpt_event_data;
use vmseal::artifact::mok;
use vmseal::artifact::signature_list::SignatureLists;
use vmseal::artifact::variable_change::VariableChange;
use vmseal::artifact::variable_store::VariableStore;
use vmseal::artifact::variable_update::{Target, Update};
use vmseal::coverage::{BootPath, Coverage};
use vmseal::files::running::{self, Reader};
use vmseal::files::{FileSource, Payload};
use vmseal::prediction::{LoaderVariables, Machine};

use super::gather::{Gathered, MAX_SECTION, read_bounded};
use crate::cli::Predict;

impl Gathered {
    /// The running system: its files where none were named, and its firmware's variables.
    pub(super) fn add_running(&mut self, root: &Path, args: &Predict) -> Result<(), Error> {
        let reader = match Coverage::of(&self.logs.firmware).boot_path() {
            BootPath::SystemdBootEntry | BootPath::SystemdBootUki => Reader::Firmware,
            _ => Reader::Grub,
        };
        for folder in running::folders(root, reader) {
            let named = match folder.volume() {
                Volume::Esp => args.esp.is_some() || args.base_esp.is_some(),
                Volume::Boot => args.boot.is_some() || args.base_boot.is_some(),
            };
            if !named {
                self.folders.push(folder.clone());
                self.next_files.push(Box::new(folder));
            }
        }
        let store = running::variables(root);
        self.loader = LoaderVariables::of(&store);
        self.machine.shim_requests = mok::requests(&store);
        self.root = Some(root.to_owned());
        let path = running::variables_folder(root);
        self.live = live_policy(root)?;
        for (variable, data) in self.live.clone() {
            let policy = self.policy(&path)?;
            if policy.get(variable) != data.as_slice() {
                policy.set(variable, data);
            }
        }
        Ok(())
    }

    /// What becomes of the variables of the boot that ran, where the log tells their values.
    pub fn variable_changes(&self) -> Vec<VariableChange> {
        let logged = PolicyVariables::from_log(&self.logs.firmware).ok();
        let both = logged.as_ref().zip(self.machine.policy.as_ref());
        both.map(|(old, new)| VariableChange::all(old, new)).unwrap_or_default()
    }

    /// The machine as long as the payloads are not written, where that makes a difference.
    pub fn machine_before(&self) -> Option<Machine> {
        let before = self.before_payloads.as_ref();
        let before = before.filter(|before| self.machine.policy.as_ref() != Some(before))?;
        Some(Machine { policy: Some(before.clone()), payloads: vec![], ..self.machine.clone() })
    }

    /// The SHA-256 hashes that `dbx` will hold.
    pub fn forbidden_hashes(&self) -> Vec<Vec<u8>> {
        let policy = self.machine.policy.as_ref().filter(|policy| policy.secure_boot());
        let dbx = policy.map(|policy| SignatureLists::parse(policy.get(PolicyVariable::Dbx)));
        let Some(Ok(dbx)) = dbx else { return vec![] };
        dbx.hashes().map(<[u8]>::to_vec).collect()
    }

    /// The payloads that were named.
    pub fn payloads(&self) -> &[Payload] {
        &self.payloads
    }

    /// The first payload, or variable of the running system, that is not what it was.
    pub fn changed_variable(&self) -> Option<String> {
        let payload = self.payloads.iter().find(|payload| payload.is_changed());
        if let Some(payload) = payload {
            return Some(payload.artifact.clone());
        }
        let root = self.root.as_ref()?;
        let is_same = live_policy(root).is_ok_and(|now| now == self.live);
        (!is_same).then(|| running::variables_folder(root).display().to_string())
    }

    /// The variables that PCR 7 measures, as they are so far.
    fn policy(&mut self, path: &Path) -> Result<&mut PolicyVariables, Error> {
        let log = &self.logs.firmware;
        let refused =
            |error: VariableError| Error::Artifact { path: path.into(), cause: error.to_string() };
        let known = match self.machine.policy.take() {
            Some(policy) => policy,
            None => PolicyVariables::from_log(log).map_err(refused)?,
        };
        Ok(self.machine.policy.insert(known))
    }

    /// `--vars`: every variable of Secure Boot as it is in flash.
    pub(super) fn set_variables(&mut self, path: &Path) -> Result<(), Error> {
        let bytes = read_bounded(path, MAX_SECTION)?;
        let store = VariableStore::parse(&bytes)
            .map_err(|error| Error::Artifact { path: path.into(), cause: error.to_string() })?;
        self.loader = LoaderVariables::of(&store);
        let policy = self.policy(path)?;
        *policy = store.policy(policy);
        Ok(())
    }

    /// `db=FILE` adds to a variable, as updates do; `db:value=FILE` is the whole new value.
    pub(super) fn set_variable(&mut self, name: &str, path: &Path) -> Result<bool, Error> {
        let Some(target) = Target::from_name(name) else { return Ok(false) };
        let variable = target.variable;
        let refused = |cause: String| Error::Artifact { path: path.into(), cause };
        let read = Payload::read(target, path);
        let (payload, bytes) = read.map_err(|error| refused(error.to_string()))?;
        let before = self.policy(path)?.clone();
        self.before_payloads.get_or_insert(before);
        let policy = self.policy(path)?;
        if variable == PolicyVariable::SecureBoot {
            let on = matches!(bytes.trim_ascii(), [1] | b"1" | b"on");
            policy.switch_secure_boot(on).map_err(|error| refused(error.to_string()))?;
        } else {
            let new = Update::parse(&bytes).apply(variable, policy.get(variable), target.write);
            policy.set(variable, new.map_err(|error| refused(error.to_string()))?);
        }
        self.machine.payloads.push((variable, payload.artifact.clone()));
        self.payloads.push(payload);
        Ok(true)
    }

    /// `gpt=DISK`: the first blocks of the boot disk to come.
    pub(super) fn set_partitions(&mut self, name: &str, path: &Path) -> Result<bool, Error> {
        if name != "gpt" {
            return Ok(false);
        }
        let refused = |cause: String| Error::Artifact { path: path.into(), cause };
        let disk = FileSource::open(path).map_err(|error| refused(error.to_string()))?;
        let data = gpt_event_data(&disk).map_err(|error| refused(error.to_string()))?;
        self.machine.partitions = Some(data);
        Ok(true)
    }
}

/// The variables of Secure Boot as the running system's firmware has them.
fn live_policy(root: &Path) -> Result<Vec<(PolicyVariable, Vec<u8>)>, Error> {
    running::policy(root).map_err(|error| Error::Artifact {
        path: running::variables_folder(root).join(error.path),
        cause: error.cause,
    })
}
