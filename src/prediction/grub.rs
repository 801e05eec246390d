//! GRUB: the last boot derived again to learn from it, then every entry of the menu to come.

use super::account::LOAD_OPTIONS;
use super::anatomy::{image, is_grub};
use super::artifacts::{Artifacts, Joint};
use super::compose::EntryPlan;
use super::layers::Overwritten;
use super::plan::{Planned, pcr};
use super::tally::Unpredictable;
use super::type1::hashed;
use crate::artifact::grub::{
    self, Boot, BootFiles, Choice, Facts, FileDigests, FileRef, Walk, Written, entries, learn, walk,
};
use crate::artifact::{Files, FilesError, Volume};
use crate::measurement::text::printable;
use crate::measurement::{Digest, Event, EventData, EventLog, PcrIndex, Tag};

/// What the menu to come gives.
pub(super) struct Menu {
    pub(super) entries: Vec<EntryPlan>,
    /// PCRs that no entry tells.
    pub(super) open: Vec<Unpredictable>,
    /// What the default entry's boot rewrites.
    pub(super) written: Vec<Written>,
}

/// Digests of the files that GRUB finds.
struct Digests<'a> {
    artifacts: &'a Artifacts<'a>,
    files: &'a dyn Files,
}

impl FileDigests for Digests<'_> {
    fn digests(&self, parts: &[FileRef]) -> Result<Option<Vec<Digest>>, FilesError> {
        let Some(first) = parts.first() else { return Ok(None) };
        for part in parts {
            if self.files.find(part.volume, &part.path)?.is_none() {
                return Ok(None);
            }
        }
        if parts.len() == 1 && self.artifacts.is_known_as_image(first.volume, &first.path) {
            // Of what the firmware started, the log has no other digest to compare with.
            let image = self.artifacts.image(first.volume, &first.path);
            return Ok(Some(image.map(|known| known.digests).unwrap_or_default()));
        }
        let paths: Vec<String> = parts.iter().map(|part| part.path.clone()).collect();
        // A digest that is not known is no error: the bank is missing.
        let joined = self.artifacts.joined(first.volume, &paths, Joint::Aligned);
        Ok(Some(joined.map(|known| known.digests).unwrap_or_default()))
    }
}

/// What `log` teaches: from its own files where they are at hand, else from those to come as far as
/// they are the same.
///
/// # Errors
/// Which event does not follow from the files, in words.
pub(super) fn facts(
    log: &EventLog,
    base: Option<&Artifacts<'_>>,
    next: &Artifacts<'_>,
    seen: &dyn Files,
) -> Result<Facts, String> {
    let is_measured = log.events().iter().any(is_grub);
    let artifacts = base.unwrap_or(next);
    let banks = artifacts.banks();
    let digests = Digests { artifacts, files: seen };
    let files = BootFiles { files: seen, digests: &digests, banks };
    match learn(&files, log) {
        Ok(lesson) if base.is_none() => Ok(lesson.facts.about_image_of(log)),
        Ok(lesson) => Ok(lesson.facts),
        // Without words of GRUB there is nothing to learn: the usual places hold.
        Err(_) if !is_measured && base.is_none() => {
            Facts::without_tpm(&files).map_err(|error| error.to_string())
        }
        // The script that ran is not there; the one to come may have much in common with it.
        Err(_) if base.is_none() => grub::follow(&files, log).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Walks every entry. `events` are those of the entry that ran.
pub(super) fn menu(
    facts: &Facts,
    artifacts: &Artifacts<'_>,
    files: &dyn Files,
    events: &[(&Event, PcrIndex)],
) -> Menu {
    let digests = Digests { artifacts, files };
    let boot_files = BootFiles { files, digests: &digests, banks: artifacts.banks() };
    let by_itself = walk(&boot_files, facts, &Choice::Default);
    let default = by_itself.boot.as_ref().ok().and_then(|boot| boot.entry.clone());
    let mut written = by_itself.written.clone();
    let mut menu = Menu { entries: Vec::new(), open: Vec::new(), written: Vec::new() };
    let listed = match entries(&boot_files, facts) {
        Ok(listed) => listed,
        Err(why) => {
            menu.open.extend(told(&why));
            Vec::new()
        }
    };
    for name in listed {
        let is_default = default.as_ref() == Some(&name);
        let walk = if is_default {
            by_itself.clone()
        } else {
            walk(&boot_files, facts, &Choice::Entry(name.positions.clone()))
        };
        let is_kernel = walk.boot.is_ok() || is_linux_expected(&walk);
        if !is_kernel {
            continue;
        }
        let positions: Vec<String> = name.positions.iter().map(ToString::to_string).collect();
        let aliases = vec![
            name.title_path(),
            positions.join(">"),
            name.ids.last().cloned().unwrap_or_default(),
            name.titles.last().cloned().unwrap_or_default(),
        ];
        let (block, open) = block(&walk, artifacts, events);
        menu.entries.push(EntryPlan {
            id: name.id_path(),
            title: Some(name.title_path()),
            aliases,
            default: is_default,
            block,
            open,
        });
    }
    if default.is_none() {
        // A script that boots without a menu, or a default that cannot be told.
        let (block, open) = block(&by_itself, artifacts, events);
        if by_itself.boot.is_ok() {
            menu.entries.push(EntryPlan {
                id: facts.config().to_owned(),
                title: None,
                aliases: Vec::new(),
                default: true,
                block,
                open,
            });
        } else {
            written.clear();
            if menu.entries.is_empty() {
                menu.open.extend(open);
            }
        }
    }
    menu.written = written;
    menu
}

/// Whether an entry that could not be walked to its end may start a kernel all the same: not one
/// that ends in the firmware's setup.
fn is_linux_expected(walk: &Walk) -> bool {
    match &walk.boot {
        Ok(_) => true,
        Err(unpredictable) => {
            let why = &unpredictable.why;
            !["starts nothing", "firmware's setup"].iter().any(|end| why.contains(end))
        }
    }
}

fn told(unpredictable: &grub::Unpredictable) -> Vec<Unpredictable> {
    let event = match unpredictable.line {
        0 => unpredictable.file.clone(),
        line => format!("{}, line {line}", unpredictable.file),
    };
    let of = |pcr: &PcrIndex| Unpredictable {
        pcr: *pcr,
        event: event.clone(),
        why: unpredictable.why.clone(),
    };
    unpredictable.pcrs.iter().map(of).collect()
}

/// What one walk measures, in GRUB and in the kernel that it starts.
fn block(
    walk: &Walk,
    artifacts: &Artifacts<'_>,
    events: &[(&Event, PcrIndex)],
) -> (Vec<Planned>, Vec<Unpredictable>) {
    let mut planned: Vec<Planned> = walk
        .events
        .iter()
        .map(|measured| Planned {
            pcr: measured.pcr,
            what: measured.words.clone(),
            digests: Ok(measured.digests.clone()),
            source: Some("grub.cfg".to_owned()),
        })
        .collect();
    let mut open: Vec<Unpredictable> = walk.gaps.iter().flat_map(told).collect();
    match &walk.boot {
        Ok(boot) => planned.extend(kernel(boot, artifacts, events)),
        Err(why) => {
            open.extend(told(why));
            let of_kernel = [4, 9].map(|number| Unpredictable {
                pcr: pcr(number),
                event: "kernel".to_owned(),
                why: why.to_string(),
            });
            open.extend(of_kernel);
        }
    }
    (planned, open)
}

/// The kernel's image as often as the boot that ran measured it, and the kernel's own words as far
/// as it had them: both depend on shim, GRUB and Secure Boot, not on the kernel.
fn kernel(boot: &Boot, artifacts: &Artifacts<'_>, events: &[(&Event, PcrIndex)]) -> Vec<Planned> {
    let mut planned = Vec::new();
    for (event, event_pcr) in events {
        let data = event.data();
        if image(event).is_some() {
            let kernel = &boot.kernel;
            planned.push(artifacts.image_measurement(kernel.volume, &kernel.path));
        } else if data.has_tag(Tag::LoadOptions) {
            planned.push(Planned {
                pcr: *event_pcr,
                what: format!(
                    "{LOAD_OPTIONS}{}",
                    printable(&boot.kernel_sees(), EventData::MAX_WORDS)
                ),
                digests: Ok(hashed(artifacts.banks(), &boot.load_options())),
                source: Some("grub.cfg".to_owned()),
            });
        } else if data.has_tag(Tag::LinuxInitrd) && !boot.initrds.is_empty() {
            let paths: Vec<String> = boot.initrds.iter().map(|file| file.path.clone()).collect();
            let volume = boot.initrds.first().map_or(Volume::Boot, |file| file.volume);
            let joined = artifacts.joined(volume, &paths, Joint::Aligned);
            planned.push(Planned {
                pcr: *event_pcr,
                what: data.to_string(),
                digests: joined.map(|known| known.digests),
                source: Some(paths.join(" ")),
            });
        }
    }
    planned
}

/// Without a configuration to walk: files are replaced one by one, and a script that changes makes
/// the rest unknown.
pub(super) fn files_of_log(
    artifacts: &Artifacts<'_>,
    events: &[(&Event, PcrIndex)],
) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::new();
    let mut changed_script: Option<String> = None;
    let (mut kernel, mut initrds) = (None, Vec::new());
    for (event, event_pcr) in events {
        let data = event.data();
        let mut new = Planned::carried(event, *event_pcr);
        let path_of = |text: &str| super::Spelled::parse(text).path();
        match &data {
            EventData::GrubFile { path } => {
                let path = path_of(path.as_str());
                if let Some(known) = given(artifacts, &path) {
                    let differs =
                        known.as_ref().is_ok_and(|digests| !super::plan::agrees(event, digests));
                    if differs && is_script(&path) {
                        changed_script = Some(path.clone());
                    }
                    new = Planned { digests: known, source: Some(path), ..new };
                }
            }
            EventData::GrubCommand { command } => {
                let mut words = command.as_str().split_ascii_whitespace();
                match words.next() {
                    Some("linux" | "linuxefi") => kernel = words.next().map(path_of),
                    Some("initrd" | "initrdefi") => initrds = words.map(path_of).collect(),
                    _ => {}
                }
            }
            data if data.has_tag(Tag::LinuxInitrd) => {
                if let [initrd] = initrds.as_slice() {
                    if let Some(known) = given(artifacts, initrd) {
                        new = Planned { digests: known, source: Some(initrd.clone()), ..new };
                    }
                } else if initrds.iter().any(|path| given(artifacts, path).is_some()) {
                    let why = "one of several initrds changes".to_owned();
                    new = Planned { digests: Err(why), ..new };
                }
            }
            _ if image(event).is_some() => {
                if let Some(path) = &kernel {
                    let volume = [Volume::Boot, Volume::Esp]
                        .into_iter()
                        .find(|volume| artifacts.is_given(*volume, path));
                    if let Some(volume) = volume {
                        new =
                            Planned { what: new.what, ..artifacts.image_measurement(volume, path) };
                    }
                }
            }
            _ => {}
        }
        if let Some(script) = &changed_script
            && matches!(event_pcr.get(), 4 | 8 | 9)
        {
            let why = format!("{script} changes, and that of the boot that ran is not at hand");
            new = Planned { digests: Err(why), ..new };
        }
        planned.push(new);
    }
    planned
}

/// The digests of a file that was given, on whichever volume.
fn given(artifacts: &Artifacts<'_>, path: &str) -> Option<Result<Vec<Digest>, String>> {
    let volume =
        [Volume::Boot, Volume::Esp].into_iter().find(|volume| artifacts.is_given(*volume, path))?;
    Some(artifacts.plain(volume, path).map(|known| known.digests))
}

/// Whether the content of a file decides what GRUB does next.
fn is_script(path: &str) -> bool {
    [".cfg", ".conf", ".lst", "/grubenv"].iter().any(|end| path.ends_with(end))
}

/// The files as they are once a boot has rewritten some.
pub(super) fn after<'a>(files: &'a dyn Files, written: &[Written]) -> (Overwritten, &'a dyn Files) {
    let files_written = written
        .iter()
        .map(|written| (written.file.volume, written.file.path.clone(), written.bytes.clone()));
    (Overwritten::new(files_written), files)
}
