//! The initramfs that carries the pins: which generator makes it, whether it has them, how it is
//! made anew.

use std::fs::{self, File};
use std::io::{self, Read, stderr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use vmseal::Error;
use vmseal::boot::{BOOT_REPORT, BootReport};
use vmseal::luks::Pins;

use super::terminal::Talk;
use crate::cli::Global;

/// Where programs are looked for.
const FOLDERS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];
/// The digest of the pins that the initramfs was last rebuilt with, until the next boot.
const REBUILT: &str = "run/vmseal/rebuilt";
/// Most bytes of it that are read.
const MAX_NOTE: u64 = 128;
/// Folders below `/boot` in which boot files lie, one in another.
const MAX_DEPTH: usize = 5;

/// What makes the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generator {
    InitramfsTools,
    Dracut,
    /// dracut or another, called by kernel-install, which makes unified kernel images.
    KernelInstall,
}

/// A generator with vmseal's hook in it.
#[derive(Debug, Clone)]
pub struct Integration {
    generator: Generator,
    root: PathBuf,
}

/// Which initramfs carries the pins as they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// That of this boot.
    ByThisBoot,
    /// One that was built since.
    ByTheNext,
    /// None that is known of.
    No,
}

impl Integration {
    /// The generator of the system below `--root` that has the hook, if one has.
    pub fn find(global: &Global) -> Option<Self> {
        let root = global.root.clone();
        let has = |path: &str| root.join(path).exists();
        let tools = ["usr/share", "etc"].map(|top| format!("{top}/initramfs-tools/hooks/vmseal"));
        let generator = if tools.iter().any(|hook| has(hook)) && !has("usr/bin/dracut") {
            Generator::InitramfsTools
        } else if has("usr/lib/dracut/modules.d/90vmseal/module-setup.sh") {
            match makes_unified_images(&root) {
                true => Generator::KernelInstall,
                false => Generator::Dracut,
            }
        } else {
            return None;
        };
        Some(Self { generator, root })
    }

    /// The command that rebuilds, for people.
    pub fn command(&self) -> &'static str {
        match self.generator {
            Generator::InitramfsTools => "update-initramfs -u -k all",
            Generator::Dracut => "dracut --force --regenerate-all",
            Generator::KernelInstall => "kernel-install add",
        }
    }

    /// Rebuilds the initramfs of every kernel, and notes which pins they carry. What the generator
    /// prints is talk.
    ///
    /// # Errors
    /// [`Error::RebuildFailed`].
    pub fn rebuild(&self, global: &Global, talk: Talk) -> Result<(), Error> {
        let digest = Pins::file_digest(&global.pins)?;
        let mut ran = false;
        for words in self.commands() {
            talk.remark(format_args!("running: {}", words.join(" ")));
            run(&self.root, &words, talk).map_err(|cause| {
                let command = words.join(" ");
                Error::RebuildFailed { command, cause }
            })?;
            ran = true;
        }
        if !ran {
            let (command, cause) = (self.command().to_owned(), "there is no kernel".to_owned());
            return Err(Error::RebuildFailed { command, cause });
        }
        // Without the note it is only rebuilt once more than needed.
        let note = self.root.join(REBUILT);
        let _ = note.parent().map(fs::create_dir_all);
        let _ = fs::write(note, digest);
        Ok(())
    }

    fn commands(&self) -> Vec<Vec<String>> {
        if self.generator != Generator::KernelInstall {
            return vec![self.command().split(' ').map(str::to_owned).collect()];
        }
        let add = |(version, image): (String, PathBuf)| {
            let image = image.display().to_string();
            ["kernel-install".to_owned(), "add".to_owned(), version, image].to_vec()
        };
        kernels(&self.root).into_iter().map(add).collect()
    }

    /// Which initramfs carries the pins.
    pub fn carried(&self, global: &Global) -> Carried {
        let Ok(digest) = Pins::file_digest(&global.pins) else { return Carried::No };
        if self.rebuilt().is_some_and(|rebuilt| rebuilt.trim() == digest) {
            return Carried::ByTheNext;
        }
        match BootReport::read(&self.root).and_then(|report| report.pins_sha256) {
            Some(booted) if booted == digest => Carried::ByThisBoot,
            _ => Carried::No,
        }
    }

    /// The digest of the pins that the initramfs was rebuilt with since this boot.
    fn rebuilt(&self) -> Option<String> {
        let mut text = String::new();
        File::open(self.root.join(REBUILT)).ok()?.take(MAX_NOTE).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Whether a boot file was written after this boot had reached its seal point.
    pub fn has_newer_files(&self) -> bool {
        let report = fs::metadata(self.root.join(BOOT_REPORT)).and_then(|meta| meta.modified());
        let Ok(booted) = report else { return true };
        ["boot", "efi"].iter().any(|folder| is_newer_below(&self.root.join(folder), booted, 0))
    }
}

/// Whether a file below `folder` is newer, apart from those that a running system writes there.
fn is_newer_below(folder: &Path, booted: SystemTime, depth: usize) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name() != "vmseal" && entry.file_name() != "grubenv").any(
        |entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => {
                depth < MAX_DEPTH && is_newer_below(&entry.path(), booted, depth + 1)
            }
            Ok(meta) => meta.modified().is_ok_and(|modified| modified > booted),
            Err(_) => true,
        },
    )
}

/// Whether kernel-install is told to make unified kernel images: the first file that says so counts.
fn makes_unified_images(root: &Path) -> bool {
    let files = ["etc", "run", "usr/local/lib", "usr/lib"];
    let text = files
        .iter()
        .find_map(|top| fs::read_to_string(root.join(top).join("kernel/install.conf")).ok());
    text.is_some_and(|text| text.lines().any(|line| line.trim() == "layout=uki"))
}

/// The installed kernels: version and image.
fn kernels(root: &Path) -> Vec<(String, PathBuf)> {
    let entries = ["usr/lib/modules", "lib/modules"].iter().find_map(|folder| {
        let folder = root.join(folder);
        Some((fs::read_dir(&folder).ok()?, folder))
    });
    let Some((entries, modules)) = entries else { return vec![] };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut kernels: Vec<_> = names
        .filter_map(|version| {
            let own = modules.join(&version).join("vmlinuz");
            let images = [own, root.join("boot").join(format!("vmlinuz-{version}"))];
            let image = images.into_iter().find(|image| image.exists())?;
            Some((version, image))
        })
        .collect();
    kernels.sort();
    kernels
}

/// Runs a program of the system below `root`; what it prints goes to standard error.
fn run(root: &Path, words: &[String], talk: Talk) -> Result<(), String> {
    let [program, arguments @ ..] = words else { return Ok(()) };
    let places = FOLDERS.map(|folder| root.join(folder).join(program));
    let path = places.iter().find(|path| path.exists()).ok_or("it is not installed")?;
    let words = |error: io::Error| error.to_string();
    let stdout = match talk.quiet {
        true => Stdio::null(),
        false => stderr().as_fd().try_clone_to_owned().map_err(words)?.into(),
    };
    let mut command = Command::new(path);
    // The hook of kernel updates would approve what is about to be sealed to.
    command.env("VMSEAL_ENROLLING", "1");
    let status = command.args(arguments).stdin(Stdio::null()).stdout(stdout).status();
    match status.map_err(words)? {
        status if status.success() => Ok(()),
        status => Err(status.to_string()),
    }
}
