//! Which PCRs bind firmware, loader, kernel, initrd and command line of a boot, and by which events.
//!
//! A component is covered only where an event shows that it was measured by somebody who was
//! measured before. PCRs that nothing extended are no evidence, though they may be required as
//! constants; PCRs 16 and 23 can be reset by software and never count.

mod boot_path;
mod steps;
mod story;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::measurement::pcr::join_pcrs;
use crate::measurement::{EventData, EventLog, EventType, PcrIndex};

pub use boot_path::BootPath;
use boot_path::{Trail, recognise};
pub use story::{Phase, StoryLine, story};

/// A part of the boot that a seal must cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Component {
    /// The firmware.
    Firmware,
    /// What the firmware starts, up to the kernel.
    Loader,
    /// The kernel.
    Kernel,
    /// The initial ramdisk.
    Initrd,
    /// The kernel's command line.
    Cmdline,
}

/// Not the name of a [`Component`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownComponent {
    /// What was found.
    pub found: String,
}

impl fmt::Display for UnknownComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Component::ALL.map(Component::name).join(", ");
        write!(f, "unknown component {:?}: expected one of {names}", self.found)
    }
}

impl std::error::Error for UnknownComponent {}

impl Component {
    /// Every component, in the order of the boot.
    pub const ALL: [Self; 5] =
        [Self::Firmware, Self::Loader, Self::Kernel, Self::Initrd, Self::Cmdline];

    /// The name that `--allow-uncovered` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Firmware => "firmware",
            Self::Loader => "loader",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Cmdline => "cmdline",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Component {
    type Err = UnknownComponent;

    fn from_str(name: &str) -> Result<Self, UnknownComponent> {
        let found = Self::ALL.into_iter().find(|component| component.name() == name);
        found.ok_or_else(|| UnknownComponent { found: name.to_owned() })
    }
}

/// What the log says about Secure Boot, bound by PCR 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SecureBoot {
    /// The firmware measured that it is on.
    On,
    /// The firmware measured that it is off.
    Off,
    /// No event proves either.
    Unknown,
}

impl fmt::Display for SecureBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Unknown => "unknown",
        })
    }
}

/// PCRs that bind a component when all of them are sealed to, and the events that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The PCRs.
    pub pcrs: BTreeSet<PcrIndex>,
    /// Numbers of the events, ascending; none of them in a PCR that is required as a constant.
    pub events: Vec<usize>,
}

/// A component that a set of PCRs does not bind, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncovered {
    /// The component.
    pub component: Component,
    /// A clause without a full stop.
    pub reason: String,
}

impl fmt::Display for Uncovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.component, self.reason)
    }
}

/// What binds each component of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    path: BootPath,
    secure_boot: SecureBoot,
    shim: bool,
    bindings: BTreeMap<Component, Vec<Binding>>,
}

impl Coverage {
    /// Reads the coverage of a boot out of its log.
    ///
    /// Trust the answer as far as the log's replay equals the TPM's PCRs.
    pub fn of(log: &EventLog) -> Self {
        let trail = without_contradiction(recognise(&steps::steps(log)), log);
        let path =
            trail.path.unwrap_or(if is_bios(log) { BootPath::Bios } else { BootPath::Unknown });
        let mut bindings = bindings(&trail, path);
        let firmware = firmware_events(log);
        if path == BootPath::DirectKernel && trail.loaders.is_empty() {
            // The firmware is the loader.
            bindings.insert(Component::Loader, binding(&[0], firmware.clone()));
        }
        bindings.insert(Component::Firmware, binding(&[0], firmware));
        bindings.retain(|_, alternatives| !alternatives.is_empty());
        Self { path, secure_boot: secure_boot(log), shim: trail.shim, bindings }
    }

    /// The way to the kernel.
    pub fn boot_path(&self) -> BootPath {
        self.path
    }

    /// Whether Secure Boot was on.
    pub fn secure_boot(&self) -> SecureBoot {
        self.secure_boot
    }

    /// The sets of PCRs each of which binds the component; empty when nothing does.
    pub fn bindings(&self, component: Component) -> &[Binding] {
        self.bindings.get(&component).map(Vec::as_slice).unwrap_or_default()
    }

    /// The smallest stable set for the boot path (without the latch), whether it covers or not.
    pub fn pcrs(&self) -> BTreeSet<PcrIndex> {
        let own: &[u8] = match self.path {
            // 12 and 13 show that nothing was added to the image from outside.
            BootPath::Uki | BootPath::SystemdBootUki | BootPath::ChainedUki => &[11, 12, 13],
            BootPath::SystemdBootEntry => &[9, 12],
            BootPath::Grub | BootPath::DirectKernel => &[9],
            BootPath::GrubMeasured => &[8, 9],
            BootPath::Bios | BootPath::Unknown => &[],
        };
        let shim: &[u8] = if self.shim { &[14] } else { &[] };
        pcr_set([0, 4, 7].iter().chain(own).chain(shim))
    }

    /// [`Coverage::pcrs`] and the latch: what `enroll` seals to unless told otherwise.
    pub fn recommended_pcrs(&self) -> BTreeSet<PcrIndex> {
        let mut pcrs = self.pcrs();
        pcrs.insert(PcrIndex::LATCH);
        pcrs
    }

    /// The components that `chosen` does not bind, in the order of the boot.
    pub fn uncovered(&self, chosen: &BTreeSet<PcrIndex>) -> Vec<Uncovered> {
        let uncovered = |component| {
            let bindings = self.bindings(component);
            if bindings.iter().any(|binding| binding.pcrs.is_subset(chosen)) {
                return None;
            }
            Some(Uncovered { component, reason: self.reason(component, bindings) })
        };
        Component::ALL.into_iter().filter_map(uncovered).collect()
    }

    fn reason(&self, component: Component, bindings: &[Binding]) -> String {
        if !bindings.is_empty() {
            let sets: Vec<String> = bindings.iter().map(|found| join_pcrs(&found.pcrs)).collect();
            return format!("it takes PCR {}, which the set leaves out", sets.join(" or "));
        }
        match (component, self.path) {
            (Component::Firmware, _) => "PCR 0 holds no measurement of firmware code or version",
            (_, BootPath::Bios) => "a BIOS measures neither kernel nor initrd nor command line",
            (_, BootPath::Unknown) => {
                "the log does not show which image is the kernel, or ends before it was started"
            }
            (Component::Loader, _) => "no image in PCR 4 is the loader's",
            (Component::Kernel, _) => "no event measures it",
            (Component::Initrd, _) => "neither the loader nor the kernel measured it",
            (Component::Cmdline, _) => "neither the loader nor the kernel measured it",
        }
        .to_owned()
    }

    /// What the set cannot rule out although every component is bound; whole sentences.
    pub fn cautions(&self) -> Vec<&'static str> {
        let mut cautions = Vec::new();
        if self.path == BootPath::Grub {
            cautions.push(
                "GRUB's modules are measured nowhere: whoever can write to /boot can run code in \
                 the loader, and such code can extend PCRs as it likes.",
            );
        }
        let systemd_boot =
            matches!(self.path, BootPath::SystemdBootUki | BootPath::SystemdBootEntry);
        if systemd_boot && self.secure_boot != SecureBoot::On {
            cautions.push(
                "systemd-boot loads drivers from the EFI system partition, which the firmware \
                 measures into PCR 2, and Secure Boot does not check them: add PCR 2 if it is stable here.",
            );
        }
        if self.secure_boot == SecureBoot::Unknown {
            cautions.push("The log does not prove whether Secure Boot was on.");
        }
        cautions
    }
}

/// A BIOS measures its boot sector into PCR 4, and of EFI's events knows only the SMBIOS tables.
fn is_bios(log: &EventLog) -> bool {
    let is_boot_sector = |event_type| matches!(event_type, EventType::Ipl | EventType::CompactHash);
    let is_efi = |event_type: EventType| {
        event_type.code() >= 0x8000_0000 && event_type != EventType::EfiHandoffTables
    };
    log.events().iter().any(|event| event.pcr == 4 && is_boot_sector(event.event_type))
        && !log.events().iter().any(|event| is_efi(event.event_type))
}

fn pcr_set<'a>(pcrs: impl IntoIterator<Item = &'a u8>) -> BTreeSet<PcrIndex> {
    pcrs.into_iter().filter_map(|pcr| PcrIndex::new(u64::from(*pcr)).ok()).collect()
}

/// One binding, or none when no event shows it.
fn binding(pcrs: &[u8], events: impl IntoIterator<Item = usize>) -> Vec<Binding> {
    let events: BTreeSet<usize> = events.into_iter().collect();
    if events.is_empty() {
        return Vec::new();
    }
    vec![Binding { pcrs: pcr_set(pcrs), events: events.into_iter().collect() }]
}

fn bindings(trail: &Trail, path: BootPath) -> BTreeMap<Component, Vec<Binding>> {
    let loader = binding(&[4], trail.loaders.clone());
    let mut kernel = match path {
        BootPath::Uki | BootPath::SystemdBootUki | BootPath::ChainedUki => {
            binding(&[4, 11], trail.sections.linux)
        }
        _ => binding(&[4], trail.kernel_images.clone()),
    };
    if kernel.is_empty() {
        // GRUB says which file it boots in PCR 8 and what was in it in PCR 9.
        kernel = binding(&[8, 9], trail.kernel_file.clone());
    }
    let mut initrd = binding(&[11, 12, 13], trail.sections.initrd);
    initrd.extend(binding(&[8, 9], trail.initrd_files.clone()));
    let said_by_loader = trail.loader_cmdline.iter().copied();
    let mut cmdline = match (trail.sections.cmdline, path) {
        (Some(built_in), _) => binding(&[11, 12], said_by_loader.chain([built_in])),
        (None, BootPath::GrubMeasured) => binding(&[8], said_by_loader),
        (None, _) => binding(&[12], said_by_loader),
    };
    // The kernel's own words count only where the kernel is bound.
    if !kernel.is_empty() {
        initrd.extend(binding(&[9], trail.initrd));
        cmdline.extend(binding(&[9], trail.load_options));
    }
    BTreeMap::from([
        (Component::Loader, loader),
        (Component::Kernel, kernel),
        (Component::Initrd, initrd),
        (Component::Cmdline, cmdline),
    ])
}

/// The kernel must have got the very command line that systemd-boot measured, else systemd-boot
/// started something else, which then started the kernel.
fn without_contradiction(trail: Trail, log: &EventLog) -> Trail {
    let digests = |event: usize| log.events().get(event).map(|event| &event.digests);
    match (trail.path, trail.loader_cmdline.last(), trail.load_options) {
        (Some(BootPath::SystemdBootEntry), Some(given), Some(got))
            if digests(*given) != digests(got) =>
        {
            Trail { shim: trail.shim, ..Trail::default() }
        }
        _ => trail,
    }
}

fn firmware_events(log: &EventLog) -> Vec<usize> {
    let shows_firmware = |event_type, data: &EventData| match event_type {
        // A blank version, as old OVMF logs it, tells no firmware from another.
        EventType::SCrtmVersion => {
            matches!(data, EventData::CrtmVersion { version } if !version.as_str().trim().is_empty())
        }
        EventType::SCrtmContents
        | EventType::PostCode
        | EventType::PostCode2
        | EventType::EfiPlatformFirmwareBlob
        | EventType::EfiPlatformFirmwareBlob2
        | EventType::EfiHcrtmEvent => true,
        _ => false,
    };
    let in_pcr_0 = log.events().iter().filter(|event| event.pcr == 0);
    in_pcr_0
        .filter(|event| steps::is_evidence(event, log))
        .filter(|event| shows_firmware(event.event_type, &event.data()))
        .map(|event| event.number)
        .collect()
}

fn secure_boot(log: &EventLog) -> SecureBoot {
    use crate::measurement::variable::VariableValue;
    let is_config = |event_type| event_type == EventType::EfiVariableDriverConfig;
    let configs = log.events().iter().filter(|event| event.pcr == 7 && is_config(event.event_type));
    let mut states =
        configs.filter(|event| event.data_is_measured()).filter_map(|event| match event.data() {
            EventData::Variable(found) if found.is_global("SecureBoot") => Some(found.value),
            _ => None,
        });
    match states.next_back() {
        Some(VariableValue::Flag(true)) => SecureBoot::On,
        Some(VariableValue::Flag(false)) => SecureBoot::Off,
        _ => SecureBoot::Unknown,
    }
}
