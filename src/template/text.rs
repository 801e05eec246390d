//! The text of a template: TOML, in which every field is known.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use super::definition::{
    Boot, Delivery, DeliveryKind, Disk, Material, Reference, Template, Vm, has_word,
};
use super::hardware::Hardware;
use crate::authority::is_template_name;
use crate::measurement::PcrBank;

/// Most reference boots, memory sizes or processor counts of a template.
const MAX_LIST: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    boot: BootWord,
    kernel: Option<String>,
    initrd: Option<String>,
    cmdline: Option<String>,
    image: Option<PathBuf>,
    esp: Option<PathBuf>,
    boot_volume: Option<PathBuf>,
    base: Option<PathBuf>,
    base_esp: Option<PathBuf>,
    base_boot_volume: Option<PathBuf>,
    entries: Option<Vec<String>>,
    grubenv: Option<String>,
    uki: Option<PathBuf>,
    bank: Option<String>,
    authority: Option<PathBuf>,
    vars: Option<PathBuf>,
    #[serde(default)]
    memory: Vec<u64>,
    #[serde(default)]
    cpus: Vec<u32>,
    qemu: Option<String>,
    own_words: Option<Vec<String>>,
    #[serde(default)]
    machine: Hardware,
    #[serde(default)]
    reference: Vec<ReferenceText>,
    #[serde(default)]
    vm: Vec<VmText>,
    delivery: Option<DeliveryText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum BootWord {
    Kernel,
    Disk,
    Uki,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceText {
    log: PathBuf,
    userspace: Option<PathBuf>,
    memory: Option<u64>,
    cpus: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VmText {
    name: String,
    #[serde(default)]
    cmdline: String,
    memory: Option<u64>,
    cpus: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeliveryText {
    kind: KindWord,
    folder: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindWord {
    Files,
    FwCfg,
    Disk,
    Qubesdb,
}

impl From<KindWord> for DeliveryKind {
    fn from(word: KindWord) -> Self {
        match word {
            KindWord::Files => Self::Files,
            KindWord::FwCfg => Self::FwCfg,
            KindWord::Disk => Self::Disk,
            KindWord::Qubesdb => Self::Qubesdb,
        }
    }
}

impl Template {
    /// Reads the template of this name.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        if text.len() > Self::MAX_LEN {
            return Err(format!("more than {} bytes", Self::MAX_LEN));
        }
        let text: Text = toml::from_str(text).map_err(|error| in_line(text, &error))?;
        if !is_template_name(name) {
            return Err("its name is none of a template".to_owned());
        }
        let template = text.into_template(name)?;
        template.check()?;
        Ok(template)
    }

    fn check(&self) -> Result<(), String> {
        self.hardware.check()?;
        let entries = match &self.boot {
            Boot::Disk { entries, .. } => entries.as_slice(),
            Boot::Kernel { .. } | Boot::Uki { .. } => &[],
        };
        if entries.iter().any(|name| name.is_empty() || !is_line(name)) {
            return Err("entries has one that is no name of an entry".to_owned());
        }
        if self.boot.grubenv().is_some_and(|name| !is_variable(name)) {
            return Err("grubenv is no name of a variable of GRUB".to_owned());
        }
        let most = [
            self.references.len(),
            self.memory.len(),
            self.cpus.len(),
            self.own_words.len(),
            entries.len(),
        ];
        if most.iter().any(|len| *len > MAX_LIST) {
            return Err(format!("a list has more than {MAX_LIST} elements"));
        }
        if self.vms.len() > Self::MAX_VMS {
            return Err(format!("more than {} machines", Self::MAX_VMS));
        }
        if self.own_words.iter().any(|start| start.is_empty() || !is_line(start)) {
            return Err("own_words has one that is no start of a word".to_owned());
        }
        let own = self.vms.iter().filter(|vm| self.has_own_disk(vm)).count();
        if own > Self::MAX_OWN_DISKS {
            let most = Self::MAX_OWN_DISKS;
            return Err(format!(
                "more than {most} machines with words of their own on their disks"
            ));
        }
        let mut names = BTreeSet::new();
        for vm in &self.vms {
            let name = &vm.name;
            if !is_template_name(name) {
                return Err(format!("{name:?} is no name of a machine"));
            }
            // File systems and people may not tell them apart.
            if !names.insert(name.to_ascii_lowercase()) {
                return Err(format!("there are two machines of the name {name}"));
            }
            let alls = vm.cmdline.split(' ').filter(|word| *word == Self::ALL).count();
            let has_own = self.boot.cmdline().is_some_and(|all| has_word(all, Self::OWN));
            let all = Self::ALL;
            if alls > 1 || (alls == 1 && has_own) {
                let own = Self::OWN;
                return Err(format!("{name} has {all} twice, or where the template has {own}"));
            }
            if alls > 0 && self.boot.cmdline().is_none() {
                return Err(format!("{name} has {all}, and the template has no command line"));
            }
            let line = self.cmdline(&vm.cmdline);
            if !is_line(&line) {
                return Err(format!("the command line of {name} is not printable ASCII"));
            }
            if line.len() > Self::MAX_CMDLINE {
                return Err(format!("the command line of {name} has {} bytes", line.len()));
            }
        }
        let line = self.cmdline("");
        if !is_line(&line) || line.len() > Self::MAX_CMDLINE {
            return Err("its command line is not printable ASCII, or too long".to_owned());
        }
        self.check_paths()
    }

    fn check_paths(&self) -> Result<(), String> {
        let logs = self
            .references
            .iter()
            .flat_map(|reference| [&reference.log].into_iter().chain(reference.userspace.as_ref()));
        let others = [self.authority.as_ref(), self.vars.as_ref()].into_iter().flatten();
        let mut all =
            self.boot.paths().into_iter().chain(logs).chain(others).chain([&self.delivery.folder]);
        match all.find(|path| !path.is_absolute()) {
            Some(path) => Err(format!("{} does not begin with a slash", path.display())),
            None => Ok(()),
        }
    }
}

impl Text {
    fn into_template(self, name: &str) -> Result<Template, String> {
        let boot = self.boot()?;
        let bank = self.bank.map_or(Ok(PcrBank::Sha256), |bank| bank.parse());
        let folder = self.delivery.as_ref().and_then(|delivery| delivery.folder.clone());
        let kind = self.delivery.map_or(DeliveryKind::Files, |delivery| delivery.kind.into());
        Ok(Template {
            name: name.to_owned(),
            boot,
            bank: bank.map_err(|_| "bank is none that is known")?,
            authority: self.authority,
            vars: self.vars,
            memory: self.memory,
            cpus: self.cpus,
            qemu: self.qemu.as_deref().map(version).transpose()?,
            hardware: self.machine,
            references: self.reference.into_iter().map(Into::into).collect(),
            own_words: self.own_words.unwrap_or_else(Template::default_own_words),
            vms: self.vm.into_iter().map(Into::into).collect(),
            delivery: Delivery {
                kind,
                folder: folder.unwrap_or_else(|| Template::default_folder(name)),
            },
        })
    }
}

impl Text {
    fn boot(&self) -> Result<Boot, String> {
        let boot = match self.boot {
            BootWord::Kernel => {
                self.refuse_keys_of("kernel")?;
                let kernel = self.kernel.as_deref().ok_or("boot = \"kernel\" needs a kernel")?;
                let initrd = self.initrd.as_deref().ok_or("boot = \"kernel\" needs an initrd")?;
                let cmdline = self.cmdline.clone().unwrap_or_default();
                Boot::Kernel { kernel: material(kernel), initrd: material(initrd), cmdline }
            }
            BootWord::Disk => {
                self.refuse_keys_of("disk")?;
                let now = disk(
                    ["image", "esp", "boot_volume"],
                    &self.image,
                    &self.esp,
                    &self.boot_volume,
                )?;
                let base = disk(
                    ["base", "base_esp", "base_boot_volume"],
                    &self.base,
                    &self.base_esp,
                    &self.base_boot_volume,
                )?;
                let entries = self.entries.clone().unwrap_or_default();
                let disk = now.ok_or("boot = \"disk\" needs an image, or an esp")?;
                Boot::Disk { disk, base, entries, grubenv: self.grubenv.clone() }
            }
            BootWord::Uki => {
                self.refuse_keys_of("uki")?;
                let image = self.uki.clone().ok_or("boot = \"uki\" needs a uki")?;
                Boot::Uki { image }
            }
        };
        Ok(boot)
    }

    /// What another kind of boot is told by would be passed over in silence.
    fn refuse_keys_of(&self, boot: &str) -> Result<(), String> {
        let keys = [
            ("kernel", "kernel", self.kernel.is_some()),
            ("kernel", "initrd", self.initrd.is_some()),
            ("kernel", "cmdline", self.cmdline.is_some()),
            ("kernel", "own_words", self.own_words.is_some() && self.grubenv.is_none()),
            ("disk", "image", self.image.is_some()),
            ("disk", "esp", self.esp.is_some()),
            ("disk", "boot_volume", self.boot_volume.is_some()),
            ("disk", "base", self.base.is_some()),
            ("disk", "base_esp", self.base_esp.is_some()),
            ("disk", "base_boot_volume", self.base_boot_volume.is_some()),
            ("disk", "entries", self.entries.is_some()),
            ("disk", "grubenv", self.grubenv.is_some()),
            ("uki", "uki", self.uki.is_some()),
        ];
        match keys.into_iter().find(|(of, _, is_there)| *is_there && *of != boot) {
            None => Ok(()),
            Some((_, key, _)) => Err(format!("boot = \"{boot}\" has no {key}")),
        }
    }
}

/// An image, or the volumes of one by one.
fn disk(
    [whole, first, second]: [&str; 3],
    image: &Option<PathBuf>,
    esp: &Option<PathBuf>,
    boot: &Option<PathBuf>,
) -> Result<Option<Disk>, String> {
    match (image, esp, boot) {
        (None, None, None) => Ok(None),
        (Some(image), None, None) => Ok(Some(Disk::Image(image.clone()))),
        (Some(_), ..) => {
            Err(format!("{whole} has {first} and {second} in it: name one or the others"))
        }
        (None, Some(esp), boot) => Ok(Some(Disk::Volumes { esp: esp.clone(), boot: boot.clone() })),
        (None, None, Some(_)) => Err(format!("{second} needs {first}")),
    }
}

impl From<ReferenceText> for Reference {
    fn from(text: ReferenceText) -> Self {
        let ReferenceText { log, userspace, memory, cpus } = text;
        Self { log, userspace, memory, cpus }
    }
}

impl From<VmText> for Vm {
    fn from(text: VmText) -> Self {
        let VmText { name, cmdline, memory, cpus } = text;
        Self { name, cmdline: cmdline.trim().to_owned(), memory, cpus }
    }
}

fn material(text: &str) -> Material {
    match text.strip_prefix('@') {
        Some(path) => Material::Digests(path.into()),
        None => Material::File(text.into()),
    }
}

/// `10.0` or `10.0.13`.
fn version(text: &str) -> Result<(u32, u32), String> {
    let mut numbers = text.split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => Err("qemu is no version such as \"10.0\"".to_owned()),
    }
}

fn is_line(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// As GRUB's scripts name one.
fn is_variable(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit())
}

fn in_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', ", ");
    let start = error.span().and_then(|span| text.get(..span.start));
    match start {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

#[cfg(test)]
mod tests;
