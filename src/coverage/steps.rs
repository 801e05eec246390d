//! A boot as a sequence of steps: only what a log proves and coverage asks about.

use crate::measurement::efi::{DevicePath, Guid};
use crate::measurement::{Event, EventData, EventLog, EventType, Tag};

/// Most words of a GRUB command that are kept: more than a command may name files.
pub(super) const MAX_WORDS: usize = 66;

/// Something that happened on the way to the kernel, by the event that shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Number of the event.
    pub(super) event: usize,
    pub(super) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// The firmware, or shim for it, measured an application into PCR 4.
    Image(DevicePath),
    /// shim measured its keys: it runs, and starts the next image.
    Shim,
    /// GRUB measured a command (PCR 8), its text proven by the digest.
    GrubCommand(Vec<String>),
    /// GRUB measured the kernel's command line (PCR 8), its text proven by the digest.
    GrubCommandLine,
    /// GRUB measured a file (PCR 9), under this name.
    GrubFile(String),
    /// systemd-boot measured its configuration (PCR 5).
    LoaderConf,
    /// systemd-stub measured the content of a section (PCR 11), after its name.
    Section(String),
    /// systemd-boot or systemd-stub measured a command line (PCR 12), its text proven.
    CommandLine,
    /// The kernel's EFI stub measured its command line (PCR 9).
    LoadOptions,
    /// The kernel's EFI stub measured its initrd (PCR 9).
    Initrd,
    /// The firmware measured that somebody takes over the machine (PCR 5).
    ExitBootServices,
}

impl What {
    /// Whether a boot loader is at work, so that the kernel does not run yet.
    pub(super) fn is_before_kernel(&self) -> bool {
        !matches!(self, Self::LoadOptions | Self::Initrd | Self::ExitBootServices)
    }

    pub(super) fn is_grub(&self) -> bool {
        matches!(self, Self::GrubCommand(_) | Self::GrubCommandLine | Self::GrubFile(_))
    }

    pub(super) fn is_image(&self) -> bool {
        matches!(self, Self::Image(_))
    }

    /// Whether this is the image of a file that the host gave QEMU, by its name.
    pub(super) fn is_qemu_file(&self, name: &str) -> bool {
        matches!(self, Self::Image(path) if path.has_vendor(Guid::QEMU_KERNEL_LOADER)
            && path.file().is_some_and(|file| file.as_str() == name))
    }

    /// Whether this is an image that a loader had in memory: GRUB's `linux` (2.12 and later).
    pub(super) fn is_memory_image(&self) -> bool {
        matches!(self, Self::Image(path) if path.is_memory())
    }

    /// Whether systemd-stub loads such an image: the kernel inside it, or an addon beside it.
    pub(super) fn is_of_stub(&self) -> bool {
        let Self::Image(path) = self else { return false };
        path.has_vendor(Guid::STUB_PAYLOAD)
            || path
                .file()
                .is_some_and(|file| file.as_str().to_ascii_lowercase().ends_with(".addon.efi"))
    }
}

/// The steps of the boot attempt that led to the running kernel.
pub(super) fn steps(log: &EventLog) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut section_name = None;
    for event in log.events().iter().filter(|event| is_evidence(event, log)) {
        let data = event.data();
        // A boot option that returned is over; what it started does not run.
        if is_action(event, &data, 4, "Returning from EFI Application") {
            steps.clear();
            continue;
        }
        if let EventData::UkiSection { name } = &data {
            let name = name.as_str().to_owned();
            if event.measures(format!("{name}\0").as_bytes()) {
                section_name = Some(name);
            } else if section_name.take().as_ref() == Some(&name) {
                steps.push(Step { event: event.number, what: What::Section(name) });
            }
            continue;
        }
        steps.extend(what(event, data).map(|what| Step { event: event.number, what }));
    }
    steps
}

/// Whether the event put something of its own into its PCR, in every bank of the log.
pub(super) fn is_evidence(event: &Event, log: &EventLog) -> bool {
    let banks = log.banks();
    event.extends()
        && event.event_type != EventType::Separator
        && !banks.is_empty()
        && banks.iter().all(|bank| event.digest(*bank).is_some_and(|digest| !digest.is_zero()))
}

fn is_action(event: &Event, data: &EventData, pcr: u32, start: &str) -> bool {
    event.pcr == pcr
        && event.event_type == EventType::EfiAction
        && event.data_is_measured()
        && matches!(data, EventData::Text { text } if text.as_str().starts_with(start))
}

fn what(event: &Event, data: EventData) -> Option<What> {
    if is_action(event, &data, 5, "Exit Boot Services Invocation") {
        return Some(What::ExitBootServices);
    }
    if event.pcr == 4 && event.event_type == EventType::EfiBootServicesApplication {
        // An image whose description cannot be read was started all the same.
        return Some(What::Image(match data {
            EventData::Image { device_path, .. } => device_path.unwrap_or_default(),
            _ => DevicePath::default(),
        }));
    }
    match (event.pcr, data) {
        (8, EventData::GrubCommand { command }) if event.measures(command.as_str().as_bytes()) => {
            let words = command.as_str().split_ascii_whitespace().map(str::to_owned);
            Some(What::GrubCommand(words.take(MAX_WORDS).collect()))
        }
        (8, EventData::KernelCommandLine { cmdline })
            if event.measures(cmdline.as_str().as_bytes()) =>
        {
            Some(What::GrubCommandLine)
        }
        (9, EventData::GrubFile { path }) => Some(What::GrubFile(path.as_str().to_owned())),
        (5, data) if data.has_tag(Tag::LoaderConf) => Some(What::LoaderConf),
        (9, data) if data.has_tag(Tag::LoadOptions) => Some(What::LoadOptions),
        (9, data) if data.has_tag(Tag::LinuxInitrd) => Some(What::Initrd),
        (12, EventData::KernelCommandLine { .. }) => Some(What::CommandLine),
        (14, EventData::MokState { .. }) => Some(What::Shim),
        _ => None,
    }
}
