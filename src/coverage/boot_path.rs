//! Which way the kernel was started, by the words of those who started it.
//!
//! A program is in PCR 4 before it speaks. So an image belongs to the first speaker after it, and
//! a speaker without an image of its own was started by somebody who did not measure it there.

use std::fmt;

use super::steps::{Step, What};

/// The way from the firmware to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BootPath {
    /// The firmware (or shim) started a unified kernel image.
    Uki,
    /// systemd-boot started a unified kernel image.
    SystemdBootUki,
    /// Another boot loader started a unified kernel image.
    ChainedUki,
    /// systemd-boot started a kernel with the command line and initrd of a type 1 entry.
    SystemdBootEntry,
    /// GRUB that measures nothing itself started a kernel through the firmware.
    Grub,
    /// GRUB with its tpm module: commands in PCR 8, files in PCR 9.
    GrubMeasured,
    /// The host gave the kernel to the firmware (QEMU's `-kernel`).
    DirectKernel,
    /// A BIOS, which measures no kernel.
    Bios,
    /// None of these, or the log does not show which.
    Unknown,
}

impl fmt::Display for BootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uki => "unified kernel image",
            Self::SystemdBootUki => "systemd-boot, unified kernel image",
            Self::ChainedUki => "boot loader, unified kernel image",
            Self::SystemdBootEntry => "systemd-boot, type 1 entry",
            Self::Grub => "GRUB without its tpm module",
            Self::GrubMeasured => "GRUB with its tpm module",
            Self::DirectKernel => "kernel given by the host",
            Self::Bios => "BIOS",
            Self::Unknown => "not recognised",
        })
    }
}

/// What a recognised path shows, by event number.
#[derive(Debug, Default)]
pub(super) struct Trail {
    pub(super) path: Option<BootPath>,
    /// Images in PCR 4 that ran before the kernel.
    pub(super) loaders: Vec<usize>,
    /// Images in PCR 4 that are the kernel.
    pub(super) kernel_images: Vec<usize>,
    /// The kernel as a file that GRUB read: the command that named it, and the file.
    pub(super) kernel_file: Vec<usize>,
    /// The initrd files that GRUB read: the command that named them, and the files.
    pub(super) initrd_files: Vec<usize>,
    /// The command line in the words of the loader.
    pub(super) loader_cmdline: Option<usize>,
    /// Contents of `.linux`, `.initrd` and `.cmdline`.
    pub(super) sections: Sections,
    /// The command line and the initrd in the words of the kernel.
    pub(super) load_options: Option<usize>,
    pub(super) initrd: Option<usize>,
    /// shim measured its keys.
    pub(super) shim: bool,
}

/// Contents of a unified kernel image's sections.
#[derive(Debug, Default)]
pub(super) struct Sections {
    pub(super) linux: Option<usize>,
    pub(super) initrd: Option<usize>,
    pub(super) cmdline: Option<usize>,
}

/// Recognises the path; `path` stays empty where the steps do not show one.
pub(super) fn recognise(steps: &[Step]) -> Trail {
    let start_of_kernel =
        steps.iter().rposition(|step| step.what.is_before_kernel()).map_or(0, |last| last + 1);
    let (before, kernel) = steps.split_at(start_of_kernel);
    let said = |what| kernel.iter().find(|step| step.what == what).map(|step| step.event);
    let trail = Trail {
        load_options: said(What::LoadOptions),
        initrd: said(What::Initrd),
        shim: steps.iter().any(|step| step.what == What::Shim),
        ..Trail::default()
    };
    // Without a word of the kernel or the firmware, something else may have run after the last
    // event: the log is not the whole story.
    if kernel.is_empty() {
        return trail;
    }
    let with = |path: fn(&[Step], &mut Trail) -> Option<BootPath>, trail: Trail| {
        let mut found = Trail { path: None, ..trail };
        match path(before, &mut found) {
            Some(path) => Ok(Trail { path: Some(path), ..found }),
            None => Err(Trail {
                load_options: found.load_options,
                initrd: found.initrd,
                shim: found.shim,
                ..Trail::default()
            }),
        }
    };
    with(uki, trail)
        .or_else(|trail| with(grub_measured, trail))
        .or_else(|trail| with(systemd_boot_entry, trail))
        .or_else(|trail| with(direct_kernel, trail))
        .or_else(|trail| with(grub, trail))
        .unwrap_or_else(|trail| trail)
}

fn last_image(steps: &[Step]) -> Option<usize> {
    steps.iter().rposition(|step| step.what.is_image())
}

fn image_events(steps: &[Step]) -> Vec<usize> {
    steps.iter().filter(|step| step.what.is_image()).map(|step| step.event).collect()
}

/// The last command by which GRUB chose what to start.
fn last_load_command(steps: &[Step]) -> Option<(usize, &[String])> {
    let is_load = |name: &str| matches!(name, "linux" | "linuxefi" | "chainloader" | "uki");
    steps.iter().enumerate().rev().find_map(|(position, step)| match &step.what {
        What::GrubCommand(words) if words.first().is_some_and(|name| is_load(name)) => {
            Some((position, words.as_slice()))
        }
        _ => None,
    })
}

fn uki(steps: &[Step], trail: &mut Trail) -> Option<BootPath> {
    let is_linux = |step: &Step| matches!(&step.what, What::Section(name) if name == ".linux");
    let linux = steps.iter().rposition(is_linux)?;
    let (before, after) = steps.split_at(linux);
    let stub = last_image(before)?;
    // The stub is alone from its image to the kernel: whoever else speaks or is started shows
    // that it returned.
    let others = |step: &Step| {
        step.what.is_grub()
            || step.what == What::LoaderConf
            || (step.what.is_image() && !step.what.is_of_stub())
    };
    let (earlier, own) = before.split_at(stub);
    let chained_by_grub = earlier.iter().any(|step| step.what.is_grub());
    if after.iter().any(others)
        || own.iter().any(|step| step.what == What::LoaderConf)
        || last_load_command(own).is_some()
        || chained_by_grub && last_load_command(earlier).is_none()
    {
        return None;
    }
    let of_stub = steps.get(stub..).unwrap_or_default();
    let section = |wanted: &str| {
        let is_wanted = |step: &&Step| matches!(&step.what, What::Section(name) if name == wanted);
        of_stub.iter().find(is_wanted).map(|step| step.event)
    };
    trail.sections = Sections {
        linux: section(".linux"),
        initrd: section(".initrd"),
        cmdline: section(".cmdline"),
    };
    trail.loader_cmdline =
        after.iter().find(|step| step.what == What::CommandLine).map(|step| step.event);
    trail.loaders = image_events(steps.get(..=stub).unwrap_or_default());
    trail.kernel_images = image_events(after);
    let images_before = image_events(earlier).len() - usize::from(trail.shim && stub > 0);
    Some(match images_before {
        0 => BootPath::Uki,
        _ if earlier.iter().any(|step| step.what == What::LoaderConf) => BootPath::SystemdBootUki,
        _ => BootPath::ChainedUki,
    })
}

fn grub_measured(steps: &[Step], trail: &mut Trail) -> Option<BootPath> {
    let first_word = steps.iter().position(|step| step.what.is_grub())?;
    let (loaders, _) = steps.split_at(first_word);
    // GRUB itself must be in PCR 4, else nobody vouches for what it says.
    last_image(loaders)?;
    let (load, words) = last_load_command(steps)?;
    let after = steps.get(load + 1..).unwrap_or_default();
    trail.loaders = image_events(steps.get(..load).unwrap_or_default());
    trail.kernel_images = image_events(after);
    if words.first().is_some_and(|name| name.starts_with("linux")) {
        let command = steps.get(load).map(|step| step.event);
        trail.kernel_file = files_named(command, words.get(1..2).unwrap_or_default(), after);
        trail.loader_cmdline =
            after.iter().find(|step| step.what == What::GrubCommandLine).map(|step| step.event);
        let initrd = after.iter().enumerate().rev().find_map(|(position, step)| match &step.what {
            What::GrubCommand(words)
                if matches!(words.first()?.as_str(), "initrd" | "initrdefi") =>
            {
                Some((position, step.event, words.get(1..).unwrap_or_default()))
            }
            _ => None,
        });
        if let Some((position, event, files)) = initrd {
            let read = after.get(position + 1..).unwrap_or_default();
            trail.initrd_files = files_named(Some(event), files, read);
        }
    }
    Some(BootPath::GrubMeasured)
}

/// The events of a command and of every file that it names; empty when one is missing.
fn files_named(command: Option<usize>, names: &[String], steps: &[Step]) -> Vec<usize> {
    let read = |name: &String| {
        steps
            .iter()
            .find(|step| matches!(&step.what, What::GrubFile(path) if path == name))
            .map(|step| step.event)
    };
    let files: Option<Vec<usize>> = names.iter().map(read).collect();
    match (command, files) {
        (Some(command), Some(files)) if !files.is_empty() => {
            std::iter::once(command).chain(files).collect()
        }
        _ => Vec::new(),
    }
}

/// systemd-boot measures the command line after it loaded the kernel and before it starts it.
fn systemd_boot_entry(steps: &[Step], trail: &mut Trail) -> Option<BootPath> {
    let kernel = last_image(steps)?;
    let (loaders, own) = steps.split_at(kernel);
    let speaks = |step: &Step| step.what.is_grub() || matches!(step.what, What::Section(_));
    let cmdline = own.iter().find(|step| step.what == What::CommandLine)?;
    last_image(loaders)?;
    if steps.iter().any(speaks) || own.iter().any(|step| step.what == What::LoaderConf) {
        return None;
    }
    trail.loaders = image_events(loaders);
    trail.kernel_images = own.iter().take(1).map(|step| step.event).collect();
    trail.loader_cmdline = Some(cmdline.event);
    Some(BootPath::SystemdBootEntry)
}

fn direct_kernel(steps: &[Step], trail: &mut Trail) -> Option<BootPath> {
    let kernel = last_image(steps)?;
    let (loaders, own) = steps.split_at(kernel);
    let kernel = own.first().filter(|step| step.what.is_qemu_file("kernel"))?;
    trail.loaders = image_events(loaders);
    trail.kernel_images = vec![kernel.event];
    own.iter().all(|step| step.what.is_image()).then_some(BootPath::DirectKernel)
}

/// GRUB 2.12 hands the kernel to the firmware in memory. An image from a file could be another
/// loader, which starts its kernel unmeasured, so it shows no kernel.
fn grub(steps: &[Step], trail: &mut Trail) -> Option<BootPath> {
    let kernel = last_image(steps)?;
    let (loaders, own) = steps.split_at(kernel);
    let kernel = own.first().filter(|step| step.what.is_memory_image())?;
    last_image(loaders)?;
    let alone = |step: &Step| step.what.is_image() || step.what == What::Shim;
    trail.loaders = image_events(loaders);
    trail.kernel_images = vec![kernel.event];
    steps.iter().all(alone).then_some(BootPath::Grub)
}
