//! What is kept of an event to explain it later: where, which digest, what it stands for.

use super::super::data::{EventData, Tag, TaggedEvent};
use super::super::digest::PcrBank;
use super::super::efi::{DevicePath, Guid};
use super::super::event::{Event, EventType};
use super::super::eventlog::EventLog;
use super::super::pcr::PcrIndex;
use super::super::text::printable;
use super::super::userspace::UserspaceLog;
use super::super::variable::VariableValue;

/// Characters of a text that are kept: no command line of Linux is longer.
const MAX_TEXT: usize = 4096;

macro_rules! roles {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal;)*) => {
        /// What an event stands for in a boot.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Role {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Role {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word for it in files.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The role of a word; [`Role::Unknown`] for others.
            pub fn from_name(name: &str) -> Self {
                match name {
                    $($name => Self::$variant,)*
                    _ => Self::Unknown,
                }
            }
        }
    };
}

roles! {
    /// Nothing but the digest is known.
    Unknown = "unknown";
    /// The version of the root of trust.
    FirmwareVersion = "firmware-version";
    /// A region of firmware code.
    FirmwareCode = "firmware-code";
    /// A driver or an option ROM.
    Driver = "driver";
    /// ACPI tables, SMBIOS and the like.
    Machine = "machine";
    /// `BootOrder`.
    BootOrder = "boot-order";
    /// `Boot####`.
    BootOption = "boot-option";
    /// `SecureBoot`.
    SecureBoot = "secure-boot";
    /// `PK`, `KEK`, `db`, `dbx` and the like.
    Keys = "keys";
    /// Who vouched for an image.
    Authority = "authority";
    /// `SbatLevel` and other decisions of shim.
    ShimPolicy = "shim-policy";
    /// A PE image that starts others.
    Loader = "loader";
    /// A unified kernel image.
    Uki = "uki";
    /// An addon of one.
    Addon = "addon";
    /// The kernel inside a unified kernel image.
    InnerKernel = "inner-kernel";
    /// A kernel that the firmware loaded from a file.
    Kernel = "kernel";
    /// A kernel that the host gave with `-kernel`.
    HostKernel = "host-kernel";
    /// A kernel that a loader handed over in memory.
    MemoryKernel = "memory-kernel";
    /// A kernel file that GRUB read.
    KernelFile = "kernel-file";
    /// An initrd file that GRUB read.
    InitrdFile = "initrd-file";
    /// The initrd that the kernel loaded.
    Initrd = "initrd";
    /// A command line, as text.
    CommandLine = "command-line";
    /// The command line that the kernel was started with.
    LoadOptions = "load-options";
    /// A section of a unified kernel image.
    Section = "section";
    /// A command that GRUB ran.
    GrubCommand = "grub-command";
    /// A configuration file that GRUB read.
    GrubConfig = "grub-config";
    /// GRUB's environment block.
    GrubEnvironment = "grub-environment";
    /// Any other file that GRUB read.
    GrubFile = "grub-file";
    /// systemd-boot's `loader.conf`.
    LoaderConf = "loader-conf";
    /// Credentials, extensions and other companions of a unified kernel image.
    Companion = "companion";
    /// shim's machine owner keys.
    Mok = "mok";
    /// The partition table of the boot disk.
    PartitionTable = "partition-table";
    /// What systemd measured itself.
    Userspace = "userspace";
    /// Anything else.
    Other = "other";
}

/// One event that extended a PCR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The PCR.
    pub pcr: PcrIndex,
    /// The digest, or its first bytes.
    pub digest: Vec<u8>,
    /// What the event stands for.
    pub role: Role,
    /// Which of its kind it is, or what it says: hostile, at most 4096 characters.
    pub text: String,
    /// Bytes of the image, where it is one.
    pub size: Option<u64>,
}

impl Note {
    /// A note of a digest alone.
    pub fn unknown(pcr: PcrIndex, digest: &[u8]) -> Self {
        Self { pcr, digest: digest.to_vec(), role: Role::Unknown, text: String::new(), size: None }
    }

    /// At most `max` characters of the text, printable ASCII; the role where there is none.
    pub fn shown(&self, max: usize) -> String {
        match self.role {
            Role::LoadOptions if self.text.is_empty() => "the command line".to_owned(),
            Role::GrubCommand => format!("GRUB's command {}", printable(&self.text, max)),
            _ => printable(&self.text, max),
        }
    }

    /// The first four bytes of the digest, in hexadecimal.
    pub fn short_digest(&self) -> String {
        hex::encode(self.digest.get(..4).unwrap_or(&self.digest))
    }

    /// What two notes must have in common, besides the role, for one to take the other's place.
    pub(super) fn key(&self) -> &str {
        let first = |end: &[char]| self.text.split(end).next().unwrap_or_default();
        match self.role {
            Role::Keys | Role::BootOption | Role::ShimPolicy => first(&[' ', ':', ',']),
            Role::GrubCommand => first(&[' ', '=']),
            Role::Section | Role::GrubFile | Role::Mok | Role::Driver => &self.text,
            _ => "",
        }
    }
}

/// The notes of a boot, in order, in one bank. `cmdline` is the text of the command line, where it
/// is known from elsewhere; it is kept where the log proves it.
pub fn notes(
    log: &EventLog,
    userspace: Option<&UserspaceLog>,
    bank: PcrBank,
    cmdline: Option<&str>,
) -> Vec<Note> {
    let extending = log.events().iter().filter(|event| event.extends());
    let mut notes: Vec<Note> = extending
        .filter_map(|event| {
            let pcr = PcrIndex::new(event.pcr.into()).ok()?;
            let digest = event.digest(bank)?.as_bytes().to_vec();
            let (role, text, size) = classify(event);
            let text = text.chars().take(MAX_TEXT).collect();
            Some(Note { pcr, digest, role, text, size })
        })
        .collect();
    tell_images_apart(&mut notes);
    tell_files_apart(&mut notes);
    tell_load_options(&mut notes, bank, cmdline);
    let userspace = userspace.into_iter().flat_map(UserspaceLog::events);
    notes.extend(userspace.filter_map(|event| {
        let digest = event.digests.get(&bank)?.as_bytes().to_vec();
        let text = event.to_string();
        Some(Note { pcr: event.pcr?, digest, role: Role::Userspace, text, size: None })
    }));
    notes
}

/// The kernel's stub logs no text. Whose digest it is, is tried: the text known from elsewhere, and
/// the command lines that the loader logged, before which GRUB puts `BOOT_IMAGE=`.
fn tell_load_options(notes: &mut [Note], bank: PcrBank, cmdline: Option<&str>) {
    /// Most command lines that are tried; one is usual.
    const MAX: usize = 4;
    let logged = notes.iter().filter(|note| note.role == Role::CommandLine).take(MAX);
    let logged = logged.flat_map(|note| [note.text.clone(), format!("BOOT_IMAGE={}", note.text)]);
    let candidates: Vec<String> =
        cmdline.map(ToOwned::to_owned).into_iter().chain(logged).collect();
    let options = notes.iter_mut().filter(|note| note.role == Role::LoadOptions).take(MAX);
    for note in options {
        let proven = candidates.iter().find(|text| is_digest_of(&note.digest, bank, text));
        note.text = proven.cloned().unwrap_or_default();
    }
}

/// With and without a NUL, as systemd-stub and GRUB hand it over.
fn is_digest_of(digest: &[u8], bank: PcrBank, cmdline: &str) -> bool {
    let units: Vec<u8> = cmdline.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let parts: [&[&[u8]]; 2] = [&[&units], &[&units, &[0, 0]]];
    parts.iter().any(|parts| bank.hash_parts(parts).as_bytes() == digest)
}

fn classify(event: &Event) -> (Role, String, Option<u64>) {
    let data = event.data();
    let words = data.to_string();
    let text = |role, text: &str| (role, text.to_owned(), None);
    match &data {
        EventData::CrtmVersion { version } => text(Role::FirmwareVersion, version.as_str()),
        EventData::FirmwareBlob { .. } => (Role::FirmwareCode, words, None),
        EventData::Image { device_path, length, .. } => {
            let (role, path) = image(event, device_path.as_ref());
            (role, path, Some(*length))
        }
        EventData::Variable(variable) => {
            let role = match (&variable.value, variable.name.as_str()) {
                (VariableValue::Flag(_), "SecureBoot") => Role::SecureBoot,
                (VariableValue::Authority { .. }, _) => Role::Authority,
                (_, "BootOrder") => Role::BootOrder,
                _ if event.pcr == 1 => Role::BootOption,
                _ if event.event_type == EventType::EfiVariableDriverConfig => Role::Keys,
                _ => Role::ShimPolicy,
            };
            (role, words, None)
        }
        EventData::Gpt(_) => (Role::PartitionTable, words, None),
        EventData::GrubCommand { command } => text(Role::GrubCommand, command.as_str()),
        EventData::KernelCommandLine { cmdline } => text(Role::CommandLine, cmdline.as_str()),
        EventData::GrubFile { path } => text(Role::GrubFile, path.as_str()),
        EventData::UkiSection { name } => text(Role::Section, name.as_str()),
        EventData::MokState { name } => text(Role::Mok, name.as_str()),
        // Its words say nothing that its role does not; a text is the command line itself.
        EventData::Tagged { tags } if tagged(tags) == Role::LoadOptions => {
            (Role::LoadOptions, String::new(), None)
        }
        EventData::Tagged { tags } => (tagged(tags), words, None),
        EventData::HandoffTables { .. } => (Role::Machine, words, None),
        _ if event.pcr == 1 && event.event_type != EventType::Separator => {
            (Role::Machine, words, None)
        }
        _ if matches!(event.pcr, 12 | 13) => (Role::Companion, words, None),
        _ => (Role::Other, words, None),
    }
}

fn tagged(tags: &[TaggedEvent]) -> Role {
    match tags.first().map(|tagged| tagged.tag) {
        Some(Tag::LoadOptions) => Role::LoadOptions,
        Some(Tag::LinuxInitrd) => Role::Initrd,
        Some(Tag::LoaderConf) => Role::LoaderConf,
        Some(Tag::Smbios) => Role::Machine,
        Some(Tag::DevicetreeAddon | Tag::InitrdAddon | Tag::UcodeAddon | Tag::UkiProfile) => {
            Role::Companion
        }
        Some(Tag::Unknown(_)) | None => Role::Other,
    }
}

/// Role and name of a PE image, as far as its own event tells.
fn image(event: &Event, path: Option<&DevicePath>) -> (Role, String) {
    let shown = path.map(ToString::to_string).unwrap_or_default();
    let file = path.and_then(DevicePath::file).map(|file| file.as_str().to_owned());
    let is_vendor = |guid| path.is_some_and(|path| path.has_vendor(guid));
    let role = match event.event_type {
        EventType::EfiBootServicesApplication if event.pcr == 4 => {
            let addon =
                file.as_ref().is_some_and(|file| file.to_ascii_lowercase().ends_with(".addon.efi"));
            match () {
                () if is_vendor(Guid::QEMU_KERNEL_LOADER) => Role::HostKernel,
                () if is_vendor(Guid::STUB_PAYLOAD) => Role::InnerKernel,
                () if path.is_some_and(DevicePath::is_memory) => Role::MemoryKernel,
                () if addon => Role::Addon,
                () => Role::Loader,
            }
        }
        _ => Role::Driver,
    };
    let name = match role {
        Role::HostKernel | Role::MemoryKernel => String::new(),
        _ => file.unwrap_or(shown),
    };
    (role, name)
}

/// The last image is the unified kernel image where sections are measured, and the kernel where
/// nothing else was started that could be one; images before it are loaders.
fn tell_images_apart(notes: &mut [Note]) {
    let has = |role| notes.iter().any(|note| note.role == role);
    let role = match () {
        () if has(Role::Section) => Role::Uki,
        () if has(Role::GrubFile) || has(Role::GrubCommand) => return,
        () if has(Role::MemoryKernel) || has(Role::HostKernel) => return,
        () if has(Role::LoadOptions) || has(Role::Initrd) => Role::Kernel,
        () => return,
    };
    if let Some(last) = notes.iter_mut().rev().find(|note| note.role == Role::Loader) {
        last.role = role;
    }
}

/// What GRUB read is told apart by the commands that name it.
fn tell_files_apart(notes: &mut [Note]) {
    let words = |commands: &[&str]| -> Vec<String> {
        let named = notes
            .iter()
            .filter(|note| note.role == Role::GrubCommand && commands.contains(&note.key()));
        named
            .flat_map(|note| note.text.split_whitespace().skip(1))
            .map(|word| without_device(word).to_owned())
            .collect()
    };
    let kernels = words(&["linux", "linuxefi", "linux16"]);
    let initrds = words(&["initrd", "initrdefi", "initrd16"]);
    for note in notes.iter_mut().filter(|note| note.role == Role::GrubFile) {
        let path = without_device(&note.text);
        let is_in = |files: &[String]| files.iter().any(|file| file == path);
        note.role = match path {
            _ if is_in(&kernels) => Role::KernelFile,
            _ if is_in(&initrds) => Role::InitrdFile,
            _ if path.ends_with("/grubenv") => Role::GrubEnvironment,
            _ if path.ends_with(".cfg") => Role::GrubConfig,
            _ => Role::GrubFile,
        };
    }
}

/// A path of GRUB without its `(hd0,gpt2)`.
pub(super) fn without_device(path: &str) -> &str {
    match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, path)) => path,
        None => path,
    }
}
