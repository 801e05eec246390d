//! Which way the kernel was started, by the words of those who started it.
//!
//! A program is in PCR 4 before it speaks. So an image belongs to the first speaker after it, and
//! a speaker without an image of its own was started by somebody who did not measure it there.

use std::fmt;

use super::steps::{MAX_WORDS, Step, What};

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
    /// The command line in the words of the loader, or what an addon adds to it.
    pub(super) loader_cmdline: Vec<usize>,
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
    let paths = [uki, grub_measured, systemd_boot_entry, direct_kernel, grub];
    // Without a word of the kernel or the firmware, something else may have run after the last
    // event: the log is not the whole story.
    let found = match kernel {
        [] => None,
        _ => paths.iter().find_map(|path| path(before)),
    };
    let said = |what| kernel.iter().find(|step| step.what == what).map(|step| step.event);
    Trail {
        load_options: said(What::LoadOptions),
        initrd: said(What::Initrd),
        shim: is_shim_among(steps),
        ..found.unwrap_or_default()
    }
}

fn is_shim_among(steps: &[Step]) -> bool {
    steps.iter().any(|step| step.what == What::Shim)
}

fn last_image(steps: &[Step]) -> Option<usize> {
    steps.iter().rposition(|step| step.what.is_image())
}

fn image_events(steps: &[Step]) -> Vec<usize> {
    steps.iter().filter(|step| step.what.is_image()).map(|step| step.event).collect()
}

fn events_of(what: &What, steps: &[Step]) -> Vec<usize> {
    steps.iter().filter(|step| step.what == *what).map(|step| step.event).collect()
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

fn uki(steps: &[Step]) -> Option<Trail> {
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
    let images_before =
        image_events(earlier).len() - usize::from(is_shim_among(earlier) && stub > 0);
    let path = match images_before {
        0 => BootPath::Uki,
        _ if earlier.iter().any(|step| step.what == What::LoaderConf) => BootPath::SystemdBootUki,
        _ => BootPath::ChainedUki,
    };
    Some(Trail {
        path: Some(path),
        loaders: image_events(steps.get(..=stub).unwrap_or_default()),
        kernel_images: image_events(after),
        loader_cmdline: events_of(&What::CommandLine, after),
        sections: Sections {
            linux: section(".linux"),
            initrd: section(".initrd"),
            cmdline: section(".cmdline"),
        },
        ..Trail::default()
    })
}

fn grub_measured(steps: &[Step]) -> Option<Trail> {
    let first_word = steps.iter().position(|step| step.what.is_grub())?;
    let (loaders, _) = steps.split_at(first_word);
    // GRUB itself must be in PCR 4, else nobody vouches for what it says.
    last_image(loaders)?;
    let (load, words) = last_load_command(steps)?;
    let after = steps.get(load + 1..).unwrap_or_default();
    let trail = Trail {
        path: Some(BootPath::GrubMeasured),
        loaders: image_events(steps.get(..load).unwrap_or_default()),
        ..Trail::default()
    };
    // What `chainloader` starts may be a loader that starts its kernel unmeasured.
    if !words.first().is_some_and(|name| name.starts_with("linux")) {
        return Some(trail);
    }
    let initrd = after.iter().enumerate().rev().find_map(|(position, step)| match &step.what {
        What::GrubCommand(words) if matches!(words.first()?.as_str(), "initrd" | "initrdefi") => {
            let read = after.get(position + 1..).unwrap_or_default();
            Some(files_named(step.event, words.get(1..).unwrap_or_default(), read))
        }
        _ => None,
    });
    let command = steps.get(load)?.event;
    Some(Trail {
        kernel_images: image_events(after),
        kernel_file: files_named(command, words.get(1..2).unwrap_or_default(), after),
        initrd_files: initrd.unwrap_or_default(),
        loader_cmdline: events_of(&What::GrubCommandLine, after),
        ..trail
    })
}

/// Most files that one command may name: a log is hostile, and every name is searched for.
const MAX_FILES: usize = MAX_WORDS - 2;

/// The events of a command and of every file that it names; empty when one is missing.
fn files_named(command: usize, names: &[String], steps: &[Step]) -> Vec<usize> {
    let read = |name: &String| {
        steps
            .iter()
            .find(|step| matches!(&step.what, What::GrubFile(path) if path == name))
            .map(|step| step.event)
    };
    if names.len() > MAX_FILES {
        return Vec::new();
    }
    let files: Option<Vec<usize>> = names.iter().map(read).collect();
    match files {
        Some(files) if !files.is_empty() => std::iter::once(command).chain(files).collect(),
        _ => Vec::new(),
    }
}

/// systemd-boot measures the command line after it loaded the kernel and before it starts it.
fn systemd_boot_entry(steps: &[Step]) -> Option<Trail> {
    let (loaders, own) = steps.split_at(last_image(steps)?);
    last_image(loaders)?;
    let cmdline = events_of(&What::CommandLine, own);
    let speaks = |step: &Step| step.what.is_grub() || matches!(step.what, What::Section(_));
    let entered_again = own.iter().any(|step| step.what == What::LoaderConf);
    if cmdline.is_empty() || entered_again || steps.iter().any(speaks) {
        return None;
    }
    Some(Trail {
        path: Some(BootPath::SystemdBootEntry),
        loaders: image_events(loaders),
        kernel_images: image_events(own),
        loader_cmdline: cmdline,
        ..Trail::default()
    })
}

fn direct_kernel(steps: &[Step]) -> Option<Trail> {
    let (loaders, own) = steps.split_at(last_image(steps)?);
    let [kernel] = own else { return None };
    kernel.what.is_qemu_file("kernel").then(|| Trail {
        path: Some(BootPath::DirectKernel),
        loaders: image_events(loaders),
        kernel_images: vec![kernel.event],
        ..Trail::default()
    })
}

/// GRUB 2.12 hands the kernel to the firmware in memory. An image from a file could be another
/// loader, which starts its kernel unmeasured, so it shows no kernel.
fn grub(steps: &[Step]) -> Option<Trail> {
    let (loaders, own) = steps.split_at(last_image(steps)?);
    last_image(loaders)?;
    let [kernel] = own else { return None };
    let alone = loaders.iter().all(|step| step.what.is_image() || step.what == What::Shim);
    (alone && kernel.what.is_memory_image()).then(|| Trail {
        path: Some(BootPath::Grub),
        loaders: image_events(loaders),
        kernel_images: vec![kernel.event],
        ..Trail::default()
    })
}
