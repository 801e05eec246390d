//! Which events of a log belong to the boot entry that ran, and which lie before and after it.

use std::ops::Range;

use crate::coverage::{BootPath, Coverage};
use crate::measurement::efi::{DevicePath, Guid};
use crate::measurement::{Event, EventData, EventLog, EventType, Tag};

/// A log cut into what the firmware and the loader did, what the entry did, and the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Anatomy {
    /// The way to the kernel.
    pub(super) path: BootPath,
    /// The events of the entry: positions in the log.
    pub(super) entry: Range<usize>,
}

impl Anatomy {
    pub(super) fn of(log: &EventLog) -> Self {
        let path = Coverage::of(log).boot_path();
        let events = log.events();
        // An attempt that returned to the firmware is over.
        let attempt = events.iter().rposition(is_return).map_or(0, |last| last + 1);
        let position = |wanted: &dyn Fn(&Event) -> bool| {
            let of_attempt = events.get(attempt..).unwrap_or_default();
            of_attempt.iter().position(wanted).map(|found| attempt + found)
        };
        let uki = || {
            let first_section = position(&|event| section(event).is_some())?;
            let before = events.get(..first_section).unwrap_or_default();
            before.iter().rposition(|event| image(event).is_some())
        };
        let start = match path {
            BootPath::SystemdBootEntry => events.iter().rposition(|event| image(event).is_some()),
            BootPath::Uki | BootPath::SystemdBootUki => uki(),
            BootPath::ChainedUki => position(&is_grub).or_else(uki),
            BootPath::GrubMeasured => position(&is_grub)
                .or_else(|| events.iter().rposition(|event| image(event).is_some())),
            BootPath::Grub => {
                events.iter().rposition(|event| image(event).is_some_and(|path| path.is_memory()))
            }
            BootPath::DirectKernel => position(&is_kernel_word),
            BootPath::Bios | BootPath::Unknown => None,
        };
        let start = start.unwrap_or(events.len());
        let after = events.get(start..).unwrap_or_default();
        let end = after.iter().position(is_exit).map_or(events.len(), |found| start + found);
        Self { path, entry: start..end }
    }
}

impl Anatomy {
    /// The file of the program that started the entry.
    pub(super) fn loader(&self, log: &EventLog) -> Option<String> {
        let before = log.events().get(..self.entry.start).unwrap_or_default();
        before.iter().rfind(|event| image(event).is_some()).and_then(image_file)
    }
}

/// Where an application in PCR 4 came from; empty where that cannot be read.
pub(super) fn image(event: &Event) -> Option<DevicePath> {
    let is_image = event.pcr == 4 && event.event_type == EventType::EfiBootServicesApplication;
    is_image.then(|| match event.data() {
        EventData::Image { device_path, .. } => device_path.unwrap_or_default(),
        _ => DevicePath::default(),
    })
}

/// The file that an image was read from, as `/EFI/BOOT/BOOTX64.EFI`.
pub(super) fn image_file(event: &Event) -> Option<String> {
    let path = image(event)?;
    if path.has_vendor(Guid::QEMU_KERNEL_LOADER) || path.has_vendor(Guid::STUB_PAYLOAD) {
        return None;
    }
    let text = path.file()?.as_str().replace('\\', "/");
    Some(format!("/{}", text.trim_start_matches('/')))
}

/// Whether it is the kernel that the host gave QEMU.
pub(super) fn is_direct_kernel(event: &Event) -> bool {
    image(event).is_some_and(|path| {
        path.has_vendor(Guid::QEMU_KERNEL_LOADER)
            && path.file().is_some_and(|file| file.as_str() == "kernel")
    })
}

/// The section of a unified kernel image that an event is about.
pub(super) fn section(event: &Event) -> Option<String> {
    match event.data() {
        EventData::UkiSection { name } => Some(name.as_str().to_owned()),
        _ => None,
    }
}

pub(super) fn is_grub(event: &Event) -> bool {
    match event.data() {
        EventData::GrubCommand { .. } | EventData::GrubFile { .. } => true,
        EventData::KernelCommandLine { .. } => event.pcr == 8,
        _ => false,
    }
}

/// Whether the kernel's EFI stub speaks.
fn is_kernel_word(event: &Event) -> bool {
    let data = event.data();
    event.pcr == 9 && (data.has_tag(Tag::LoadOptions) || data.has_tag(Tag::LinuxInitrd))
}

fn is_exit(event: &Event) -> bool {
    is_action(event, 5, "Exit Boot Services Invocation")
}

fn is_return(event: &Event) -> bool {
    is_action(event, 4, "Returning from EFI Application")
}

fn is_action(event: &Event, pcr: u32, start: &str) -> bool {
    event.pcr == pcr
        && event.event_type == EventType::EfiAction
        && matches!(event.data(), EventData::Text { text } if text.as_str().starts_with(start))
}
