//! The next boot, put together: what firmware and loader measure whichever entry they start, then
//! what the entry measures, then the rest.

use super::account::Account;
use super::anatomy::{Anatomy, image_file, is_direct_kernel};
use super::artifacts::Artifacts;
use super::boot_entry::{EntryFile, Starts};
use super::evidence::Evidence;
use super::plan::{Planned, align, pcr};
use super::systemd_boot::{Kind, Menu};
use super::tally::{Unpredictable, tally};
use super::uki::{self, Said};
use super::{Base, EntryPrediction, Next, Prediction, direct, firmware, type1};
use crate::artifact::Volume;
use crate::artifact::efivar::is_policy_event;
use crate::coverage::BootPath;
use crate::measurement::{Event, EventData, EventLog, PcrIndex, Tag};

/// What one entry adds to what every entry measures.
struct EntryPlan {
    id: String,
    default: bool,
    block: Vec<Planned>,
}

/// Predicts every bootable entry of the boot to come.
pub fn predict(base: &Base<'_>, next: &Next<'_>) -> Prediction {
    let evidence = Evidence::of(base.log);
    let composer = Composer {
        base,
        next,
        anatomy: Anatomy::of(base.log),
        artifacts: Artifacts::new(next.files, &evidence, &base.log.banks()),
    };
    composer.predict()
}

/// The unified kernel image that a boot started, as `/EFI/Linux/x.efi`.
pub fn uki_path(log: &EventLog) -> Option<String> {
    let anatomy = Anatomy::of(log);
    let is_uki = matches!(
        anatomy.path,
        BootPath::Uki | BootPath::SystemdBootUki | BootPath::ChainedUki
    );
    let first = log.events().get(anatomy.entry.start).filter(|_| is_uki)?;
    image_file(first)
}

struct Composer<'a> {
    base: &'a Base<'a>,
    next: &'a Next<'a>,
    anatomy: Anatomy,
    artifacts: Artifacts<'a>,
}

impl Composer<'_> {
    fn predict(&self) -> Prediction {
        let open = firmware::open(self.base.log, &self.next.machine);
        let (plans, more) = self.plans();
        let events = self.base.log.events();
        let part = |range: std::ops::Range<usize>| events.get(range).unwrap_or_default();
        let before = self.shared(part(0..self.anatomy.entry.start));
        let after = self.shared(part(self.anatomy.entry.end..events.len()));
        let old: Vec<(&Event, PcrIndex)> =
            part(self.anatomy.entry.clone()).iter().filter_map(extending).collect();
        let entries = plans.into_iter().map(|plan| {
            let mut accounts = before.clone();
            accounts.extend(align(&old, plan.block));
            accounts.extend(after.iter().cloned());
            accounts.extend(self.early());
            let open = open.iter().chain(&more).cloned().collect();
            let (pcrs, unpredictable) = tally(self.base.log, &accounts, open);
            EntryPrediction { id: plan.id, default: plan.default, pcrs, unpredictable, events: accounts }
        });
        Prediction { entries: entries.collect() }
    }

    /// What systemd measured in the initrd before the seal point.
    fn early(&self) -> Vec<Account> {
        let events = self.base.early.iter().flat_map(|log| log.events());
        events
            .filter_map(|event| {
                let digests: Vec<_> = event.digests.values().copied().collect();
                Some(Account {
                    pcr: event.pcr?,
                    what: event.to_string(),
                    fate: super::Fate::CarriedOver,
                    old: digests.clone(),
                    new: Ok(digests),
                    source: None,
                })
            })
            .collect()
    }

    /// The events that do not depend on the entry.
    fn shared(&self, events: &[Event]) -> Vec<Account> {
        let policy = self.next.machine.policy.as_ref();
        let mut accounts = Vec::new();
        let mut logged_policy: Vec<(&Event, PcrIndex)> = Vec::new();
        for (event, pcr) in events.iter().filter_map(extending) {
            // The variables are one block: what is empty may be left out.
            if policy.is_some() && is_policy_event(event) {
                logged_policy.push((event, pcr));
                continue;
            }
            if let Some(policy) = policy.filter(|_| !logged_policy.is_empty()) {
                let planned = firmware::policy(policy, self.artifacts.banks());
                accounts.extend(align(&std::mem::take(&mut logged_policy), planned));
            }
            accounts.push(self.shared_event(event, pcr).against(Some(event)));
        }
        accounts
    }

    fn shared_event(&self, event: &Event, pcr: PcrIndex) -> Planned {
        let what = event.data().to_string();
        let machine = &self.next.machine;
        if is_direct_kernel(event) {
            return direct::kernel(&self.artifacts, self.base.log, machine, event);
        }
        if let Some(path) = image_file(event) {
            return Planned { what, ..self.artifacts.image_measurement(Volume::Esp, &path) };
        }
        if event.pcr == 5 && event.data().has_tag(Tag::LoaderConf) {
            let path = "/loader/loader.conf";
            if let Ok(known) = self.artifacts.plain(Volume::Esp, path) {
                let digests = Ok(known.digests);
                return Planned { pcr, what, digests, source: Some(path.to_owned()) };
            }
        }
        match &machine.partitions {
            Some(data) if matches!(event.data(), EventData::Gpt(_)) => {
                firmware::partitions(data, self.artifacts.banks())
            }
            _ => Planned::carried(event, pcr),
        }
    }

    fn plans(&self) -> (Vec<EntryPlan>, Vec<Unpredictable>) {
        match self.anatomy.path {
            BootPath::SystemdBootEntry | BootPath::SystemdBootUki => self.systemd_boot(),
            BootPath::Uki => (vec![self.uki_of_log(true)], Vec::new()),
            BootPath::DirectKernel => (vec![self.direct_kernel()], Vec::new()),
            _ => (vec![self.as_before()], Vec::new()),
        }
    }

    fn direct_kernel(&self) -> EntryPlan {
        let events = self.entry_events();
        let has_initrd = events.iter().any(|event| event.data().has_tag(Tag::LinuxInitrd));
        let words = events.iter().filter_map(extending).map(|(event, pcr)| {
            let planned =
                direct::words(&self.artifacts, event, self.next.cmdline.as_deref(), has_initrd);
            Planned { pcr, ..planned }
        });
        EntryPlan { id: "kernel".to_owned(), default: true, block: words.collect() }
    }

    /// The unified kernel image that ran. systemd-boot names entries after files, in lower case.
    fn uki_of_log(&self, by_firmware: bool) -> EntryPlan {
        let events = self.entry_events();
        let Some(path) = events.first().and_then(image_file) else { return self.as_before() };
        let said = Said { sections: &self.next.sections, cmdline: self.next.cmdline.as_deref() };
        let events: Vec<_> = events.iter().filter_map(extending).collect();
        let block = uki::plan(&self.artifacts, Volume::Esp, &path, &events, &said);
        let id = match path.rsplit_once('/') {
            Some((_, name)) if !by_firmware => name.to_ascii_lowercase(),
            _ => path.trim_start_matches('/').to_owned(),
        };
        EntryPlan { id, default: true, block }
    }

    fn entry_events(&self) -> &[Event] {
        self.base.log.events().get(self.anatomy.entry.clone()).unwrap_or_default()
    }

    /// The entry that ran, without any knowledge of it.
    fn as_before(&self) -> EntryPlan {
        let events = self.entry_events().iter().filter_map(extending);
        EntryPlan {
            id: "base".to_owned(),
            default: true,
            block: events.map(|(event, pcr)| Planned::carried(event, pcr)).collect(),
        }
    }

    fn systemd_boot(&self) -> (Vec<EntryPlan>, Vec<Unpredictable>) {
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
            .filter_map(|(index, entry)| {
                let block = match &entry.kind {
                    Kind::Type1(file) => {
                        let from = format!("/loader/entries/{}", entry.id);
                        type1::plan(&self.artifacts, entry.volume, file, Some(&from))
                    }
                    Kind::Uki(path) => {
                        let said = Said {
                            sections: &self.next.sections,
                            cmdline: self.next.cmdline.as_deref(),
                        };
                        let events: Vec<_> =
                            self.entry_events().iter().filter_map(extending).collect();
                        uki::plan(&self.artifacts, entry.volume, path, &events, &said)
                    }
                    Kind::Unread(path) => [4, 9, 12]
                        .map(|number| Planned {
                            pcr: pcr(number),
                            what: format!("entry {path}"),
                            digests: Err("only its digest is known, not its text".to_owned()),
                            source: Some(path.clone()),
                        })
                        .to_vec(),
                };
                Some(EntryPlan { id: entry.id.clone(), default: menu.default == Some(index), block })
            })
            .collect();
        match self.anatomy.path {
            _ if !plans.is_empty() => (plans, Vec::new()),
            BootPath::SystemdBootUki => (vec![self.uki_of_log(false)], Vec::new()),
            _ => (vec![self.entry_of_log()], Vec::new()),
        }
    }

    /// The entry that ran, as the log tells it: kernel by its device path, initrds and options by
    /// the command line in PCR 12.
    fn entry_of_log(&self) -> EntryPlan {
        let events = self.entry_events();
        let kernel = events.first().and_then(image_file);
        let options = events.iter().find_map(|event| match event.data() {
            EventData::KernelCommandLine { cmdline } if event.pcr == 12 && event.data_is_measured() => {
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
        EntryPlan { id: kernel.trim_start_matches('/').to_owned(), default: true, block }
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

fn extending(event: &Event) -> Option<(&Event, PcrIndex)> {
    let pcr = PcrIndex::new(event.pcr.into()).ok()?;
    event.extends().then_some((event, pcr))
}
