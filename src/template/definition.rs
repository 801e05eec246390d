//! A template: how its machines boot, which machines there are, and where their signatures go.

use std::path::PathBuf;

use super::hardware::Hardware;
use crate::measurement::PcrBank;

/// A template of machines that boot alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its name, which is also its key's.
    pub name: String,
    /// How its machines boot.
    pub boot: Boot,
    /// The bank of the PCRs whose values are signed.
    pub bank: PcrBank,
    /// The authority's key, where that is elsewhere.
    pub authority: Option<PathBuf>,
    /// The firmware's variables, where they are others than in the reference boot.
    pub vars: Option<PathBuf>,
    /// Memory sizes in use, in MiB; none: as in the reference boot.
    pub memory: Vec<u64>,
    /// Processor counts in use; none: as in the reference boot.
    pub cpus: Vec<u32>,
    /// The version of QEMU, as major and minor, where a kernel is given by the host.
    pub qemu: Option<(u32, u32)>,
    /// What the machines are made of, for reference boots.
    pub hardware: Hardware,
    /// Boots that the host itself started; none: those that `vmseal reference-boot` recorded.
    pub references: Vec<Reference>,
    /// How words of the command line may begin that a machine has of its own.
    pub own_words: Vec<String>,
    /// The machines; none: one file serves all.
    pub vms: Vec<Vm>,
    /// Where signatures go.
    pub delivery: Delivery,
}

/// How the machines of a template boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// The host gives the firmware kernel, initrd and command line: QEMU's `-kernel`, `-initrd` and
    /// `-append`.
    Kernel {
        /// The kernel.
        kernel: Material,
        /// The initrd.
        initrd: Material,
        /// What all machines have of the command line.
        cmdline: String,
    },
    /// From their own disks, which are copies of one.
    Disk {
        /// The disk as it is now.
        disk: Disk,
        /// The disk as it was in the reference boots, where it is still at hand.
        base: Option<Disk>,
        /// Entries that are to be approved although they have command lines of their own.
        entries: Vec<String>,
        /// The variable of GRUB's environment block that holds a machine's own words.
        grubenv: Option<String>,
    },
    /// The firmware or systemd-boot starts a unified kernel image, which lies where that of the
    /// reference boots did.
    Uki {
        /// The image.
        image: PathBuf,
    },
}

/// The file systems that a machine boots from. What is on them was written by guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    /// A raw image or a block device, with a GUID partition table or one file system.
    Image(PathBuf),
    /// One by one, each an image, a block device or a folder.
    Volumes {
        /// The EFI system partition.
        esp: PathBuf,
        /// The file system with kernels and GRUB's files, where that is another one.
        boot: Option<PathBuf>,
    },
}

impl Disk {
    /// The files and folders that are named.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let (first, second) = match self {
            Self::Image(path) => (path, None),
            Self::Volumes { esp, boot } => (esp, boot.as_ref()),
        };
        [first].into_iter().chain(second)
    }
}

impl Boot {
    /// The word for it in a template.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kernel { .. } => "kernel",
            Self::Disk { .. } => "disk",
            Self::Uki { .. } => "uki",
        }
    }

    /// The files and folders that are named.
    pub fn paths(&self) -> Vec<&PathBuf> {
        match self {
            Self::Kernel { kernel, initrd, .. } => {
                [kernel, initrd].into_iter().map(Material::path).collect()
            }
            Self::Disk { disk, base, .. } => {
                disk.paths().chain(base.iter().flat_map(Disk::paths)).collect()
            }
            Self::Uki { image } => vec![image],
        }
    }

    /// What all machines have of the command line, where the host gives it.
    pub fn cmdline(&self) -> Option<&str> {
        match self {
            Self::Kernel { cmdline, .. } => Some(cmdline),
            Self::Disk { .. } | Self::Uki { .. } => None,
        }
    }

    /// The variable of GRUB's environment block that holds a machine's own words of the command line.
    pub fn grubenv(&self) -> Option<&str> {
        match self {
            Self::Disk { grubenv, .. } => grubenv.as_deref(),
            Self::Kernel { .. } | Self::Uki { .. } => None,
        }
    }
}

/// A boot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Material {
    /// Its bytes.
    File(PathBuf),
    /// A list of digests that has it by the name of its place.
    Digests(PathBuf),
}

impl Material {
    /// The file that has it.
    pub fn path(&self) -> &PathBuf {
        match self {
            Self::File(path) | Self::Digests(path) => path,
        }
    }
}

/// The log of a boot that the host started, and the machine that it was of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The firmware's event log.
    pub log: PathBuf,
    /// systemd's own log of that boot.
    pub userspace: Option<PathBuf>,
    /// Its memory in MiB, where that is known.
    pub memory: Option<u64>,
    /// Its number of processors, where that is known.
    pub cpus: Option<u32>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Its name, which is its file's.
    pub name: String,
    /// Words after those of the template.
    pub cmdline: String,
    /// Its memory in MiB, where only that size is to be approved.
    pub memory: Option<u64>,
    /// Its number of processors, where only that is to be approved.
    pub cpus: Option<u32>,
}

/// Where signatures go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// In which way a machine gets them.
    pub kind: DeliveryKind,
    /// The folder of the files.
    pub folder: PathBuf,
}

/// In which way a machine gets its signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryKind {
    /// Somebody else takes the file there.
    Files,
    /// QEMU shows the file to the guest.
    FwCfg,
    /// The file is a disk of the machine, which it cannot write.
    Disk,
    /// dom0 puts the file's text into the machine's QubesDB.
    Qubesdb,
}

/// Where the files go unless the template says otherwise: QEMU must be able to read them, which
/// `/var/lib/vmseal` is not for.
const FOLDER: &str = "/var/lib/vmseal-templates";
/// The words that machines made of one template differ in.
const OWN_WORDS: [&str; 3] = ["systemd.machine_id=", "systemd.hostname=", "vmseal.pin="];

impl Template {
    /// Where a machine's own words stand in the command line of all.
    pub const OWN: &'static str = "@own";
    /// Where the command line of all stands in a machine's own words, which then come on both sides.
    pub const ALL: &'static str = "@all";
    /// Longest text of a template.
    pub const MAX_LEN: usize = 8 << 20;
    /// Most machines of a template.
    pub const MAX_VMS: usize = 1 << 14;
    /// Most machines of a template with words of their own on their disks: GRUB's scripts are walked
    /// for each, which takes some 0.1 s.
    pub const MAX_OWN_DISKS: usize = 500;
    /// Longest command line: the kernel cuts it after that many bytes on x86, one for the NUL apart.
    pub const MAX_CMDLINE: usize = 2047;

    /// How words of its own may begin, where the template does not say.
    pub fn default_own_words() -> Vec<String> {
        OWN_WORDS.map(str::to_owned).to_vec()
    }

    /// The folder of the files, where the template does not say.
    pub fn default_folder(name: &str) -> PathBuf {
        PathBuf::from(FOLDER).join(name)
    }

    /// The machines; where none is named, one that stands for all, by the name of the template.
    pub fn machines(&self) -> Vec<Vm> {
        match self.vms.is_empty() {
            true => {
                let name = self.name.clone();
                vec![Vm { name, cmdline: String::new(), memory: None, cpus: None }]
            }
            false => self.vms.clone(),
        }
    }

    /// The whole command line of a machine: its own words stand where the template says so, or around
    /// what all have where they say so, else at the end.
    pub fn cmdline(&self, own: &str) -> String {
        let cmdline = self.boot.cmdline().unwrap_or_default();
        if has_word(own, Self::ALL) {
            return with_word(own, Self::ALL, cmdline);
        }
        if has_word(cmdline, Self::OWN) {
            return with_word(cmdline, Self::OWN, own);
        }
        match (cmdline, own) {
            (all, "") => all.to_owned(),
            ("", own) => own.to_owned(),
            (all, own) => format!("{all} {own}"),
        }
    }

    /// Whether a machine has words of its own on its disk: then its boots are told by themselves.
    pub fn has_own_disk(&self, vm: &Vm) -> bool {
        self.boot.grubenv().is_some() && !vm.cmdline.is_empty()
    }

    /// The first of a machine's own words that no machine may have: it would be another boot than
    /// the one that is looked at.
    pub fn stranger<'a>(&self, vm: &'a Vm) -> Option<&'a str> {
        let is_known = |word: &str| {
            // In quotes a word goes on after a space.
            let is_plain = !word.contains(['"', '\'']);
            word == Self::ALL
                || is_plain && self.own_words.iter().any(|start| word.starts_with(start.as_str()))
        };
        vm.cmdline.split(' ').filter(|word| !word.is_empty()).find(|word| !is_known(word))
    }

    /// Memory and processors with which a machine may be started; `None` stands for those of the
    /// reference.
    pub fn sizes(&self, vm: &Vm) -> Vec<(Option<u64>, Option<u32>)> {
        fn choices<T: Copy>(own: Option<T>, all: &[T]) -> Vec<Option<T>> {
            match (own, all) {
                (Some(own), _) => vec![Some(own)],
                (None, []) => vec![None],
                (None, all) => all.iter().copied().map(Some).collect(),
            }
        }
        let cpus = choices(vm.cpus, &self.cpus);
        let memory = choices(vm.memory, &self.memory);
        memory.iter().flat_map(|memory| cpus.iter().map(|cpus| (*memory, *cpus))).collect()
    }
}

/// Whether a command line has a word.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    line.split(' ').any(|found| found == word)
}

/// A command line with others in the place of a word.
fn with_word(line: &str, word: &str, others: &str) -> String {
    let words = line.split(' ').map(|found| if found == word { others } else { found });
    let is_left_out = |found: &str| others.is_empty() && found.is_empty();
    words.filter(|found| !is_left_out(found)).collect::<Vec<_>>().join(" ")
}
