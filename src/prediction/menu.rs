//! The entries of systemd-boot: those of its menu to come, or the one that the log tells of.

use super::anatomy::{Anatomy, image_file};
use super::boot_entry::{EntryFile, Starts};
use super::compose::{Composer, EntryPlan};
use super::partial::Partial;
use super::plan::{Planned, pcr};
use super::systemd_boot::{CONFIG, Kind, Menu, MenuEntry};
use super::tally::Unpredictable;
use super::{stub, type1};
use crate::artifact::Volume;
use crate::coverage::BootPath;
use crate::measurement::EventData;

impl Composer<'_> {
    /// What its menu gives, and PCRs that no entry tells.
    pub(super) fn systemd_boot(&self) -> (Vec<EntryPlan>, Vec<Unpredictable>) {
        let menu = match Menu::read(&self.artifacts, &self.next.loader) {
            Ok(menu) => menu,
            Err(why) => {
                let open = [4, 9, 12].map(|number| Unpredictable {
                    pcr: pcr(number),
                    event: "boot entries".to_owned(),
                    why: why.clone(),
                });
                return (vec![self.as_before()], open.to_vec());
            }
        };
        let plans: Vec<EntryPlan> = menu
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| self.can_start(entry))
            .map(|(index, entry)| {
                let (block, open) = self.menu_entry(entry);
                let plan = EntryPlan::new(entry.id.clone(), menu.default == Some(index), block);
                EntryPlan { open, ..plan }
            })
            .collect();
        match self.anatomy.path {
            _ if !plans.is_empty() => (plans, self.new_config().into_iter().collect()),
            BootPath::SystemdBootUki => (vec![self.uki_of_log(false)], Vec::new()),
            _ => (vec![self.entry_of_log()], Vec::new()),
        }
    }

    /// systemd-boot measures its configuration from some version on. Where the boot that ran had none,
    /// nothing tells whether this one does.
    fn new_config(&self) -> Option<Unpredictable> {
        let had_none = Anatomy::of(self.base.log).path == BootPath::ChainedUki;
        (had_none && self.artifacts.is_given(Volume::Esp, CONFIG)).then(|| Unpredictable {
            pcr: pcr(5),
            event: CONFIG.to_owned(),
            why: "the boot that ran measured none".to_owned(),
        })
    }

    /// systemd-boot shows no entry whose kernel is not there.
    fn can_start(&self, entry: &MenuEntry) -> bool {
        let Kind::Type1(EntryFile { starts: Some(starts), .. }) = &entry.kind else { return true };
        let (Starts::Linux(path) | Starts::Efi(path)) = starts;
        self.artifacts.is_given(entry.volume, path) || !self.tree().is_whole(entry.volume)
    }

    /// The files, and what must lie beside them.
    pub(super) fn tree(&self) -> Partial<'_> {
        Partial::new(self.artifacts.files(), self.next.trees, self.evidence, None)
    }

    fn menu_entry(&self, entry: &MenuEntry) -> (Vec<Planned>, Vec<Unpredictable>) {
        match &entry.kind {
            Kind::Type1(file) => {
                let (Some(Starts::Linux(path)) | Some(Starts::Efi(path))) = &file.starts else {
                    return (Vec::new(), Vec::new());
                };
                let from = format!("/loader/entries/{}", entry.id);
                if !stub::is_uki(&self.artifacts, entry.volume, path) {
                    let planned = type1::plan(&self.artifacts, entry.volume, file, Some(&from));
                    return (planned, Vec::new());
                }
                let options = file.load_options();
                let (planned, open) = self.uki(entry.volume, path, options.as_deref());
                let passed = options.map(|options| self.passed(&options, &from));
                (passed.into_iter().chain(planned).collect(), open)
            }
            Kind::Uki { path, profile: 0 } => self.uki(entry.volume, path, None),
            Kind::Uki { path, profile } => {
                let options = format!("@{profile}");
                let (planned, open) = self.uki(entry.volume, path, Some(&options));
                let mut whole = vec![self.passed(&options, path)];
                whole.extend(planned);
                (whole, open)
            }
            Kind::Unread(path) => {
                let why = "only its digest is known, not its text".to_owned();
                let open = [4, 9, 12].map(|number| Unpredictable {
                    pcr: pcr(number),
                    event: format!("entry {path}"),
                    why: why.clone(),
                });
                (Vec::new(), open.to_vec())
            }
        }
    }

    /// What systemd-boot measures of the options that it passes.
    fn passed(&self, options: &str, from: &str) -> Planned {
        Planned {
            pcr: pcr(12),
            what: format!("command line {options}"),
            digests: Ok(type1::hashed(self.artifacts.banks(), &type1::utf16_with_nul(options))),
            source: Some(from.to_owned()),
        }
    }

    /// The entry that ran, as the log tells it: kernel by its device path, initrds and options by
    /// the command line in PCR 12.
    fn entry_of_log(&self) -> EntryPlan {
        let events = self.entry_events();
        let kernel = events.first().and_then(image_file);
        let options = events.iter().find_map(|event| match event.data() {
            EventData::KernelCommandLine { cmdline }
                if event.pcr == 12 && event.data_is_measured() =>
            {
                Some(cmdline.as_str().to_owned())
            }
            _ => None,
        });
        let (Some(kernel), Some(options)) = (kernel, options) else { return self.as_before() };
        let options = match &self.next.cmdline {
            Some(new) => with_initrds_of(&options, new),
            None => options,
        };
        let (initrds, rest) = split_initrds(&options);
        let entry = EntryFile {
            starts: Some(Starts::Linux(kernel.clone())),
            initrds: initrds.iter().map(|path| path.replace('\\', "/")).collect(),
            options: (!rest.is_empty()).then(|| rest.to_owned()),
            ..EntryFile::default()
        };
        let block = type1::plan(&self.artifacts, Volume::Esp, &entry, None);
        EntryPlan::new(kernel.trim_start_matches('/').to_owned(), true, block)
    }
}

/// The `initrd=` words that systemd-boot puts first, and the rest.
fn split_initrds(options: &str) -> (Vec<&str>, &str) {
    let (mut initrds, mut rest) = (Vec::new(), options);
    while let Some(after) = rest.strip_prefix("initrd=") {
        let (path, after) = after.split_once(' ').unwrap_or((after, ""));
        initrds.push(path);
        rest = after;
    }
    (initrds, rest)
}

/// A new command line after the initrds of the old one, unless it names its own.
fn with_initrds_of(old: &str, new: &str) -> String {
    if new.starts_with("initrd=") {
        return new.to_owned();
    }
    let (initrds, _) = split_initrds(old);
    let words = initrds.iter().map(|path| format!("initrd={path}")).chain([new.to_owned()]);
    words.collect::<Vec<_>>().join(" ")
}
