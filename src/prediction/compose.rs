//! The next boot, put together: what firmware and loader measure whichever entry they start, then
//! what the entry measures, then the rest.

use std::fmt;

use super::account::Account;
use super::anatomy::{Anatomy, image_file, is_direct_kernel};
use super::artifacts::Artifacts;
use super::evidence::Evidence;
use super::layers::{DigestTable, Layers};
use super::partial::Partial;
use super::plan::{Planned, align, pcr};
use super::rederive::Rederived;
use super::stub::{self, Start};
use super::systemd_boot::{CONFIG, is_systemd_boot};
use super::tally::{Unpredictable, tally};
use super::uki::{self, Said};
use super::{Base, EntryPrediction, Next, Prediction, authority, direct, firmware, grub};
use crate::artifact::efivar::{PolicyVariables, is_policy_event};
use crate::artifact::grub::Written;
use crate::artifact::hashing::Memory;
use crate::artifact::{Files, Volume};
use crate::coverage::{BootPath, Coverage, SecureBoot};
use crate::measurement::text::printable;
use crate::measurement::{Event, EventData, EventLog, PcrIndex, Tag};

/// What one entry adds to what every entry measures.
pub(super) struct EntryPlan {
    pub(super) id: String,
    /// What a menu shows, where that differs.
    pub(super) title: Option<String>,
    /// Other names for it.
    pub(super) aliases: Vec<String>,
    pub(super) default: bool,
    pub(super) block: Vec<Planned>,
    /// PCRs of this entry that cannot be told.
    pub(super) open: Vec<Unpredictable>,
}

impl EntryPlan {
    pub(super) fn new(id: String, default: bool, block: Vec<Planned>) -> Self {
        Self { id, title: None, aliases: Vec::new(), default, block, open: Vec::new() }
    }
}

/// Predicts every bootable entry of the boot to come, and of the one after it where it reads what
/// the former rewrites.
///
/// # Errors
/// [`NotReproduced`] where the files of the boot that ran are at hand and nothing of its log follows
/// from them.
pub fn predict(base: &Base<'_>, next: &Next<'_>) -> Result<Prediction, NotReproduced> {
    predict_with(base, next, &Memory::default())
}

/// The same, with what is known already of files that several predictions share.
///
/// # Errors
/// As [`predict`].
pub fn predict_with(
    base: &Base<'_>,
    next: &Next<'_>,
    memory: &Memory,
) -> Result<Prediction, NotReproduced> {
    let evidence = Evidence::of(base.log);
    let failed = match base.files {
        Some(files) => {
            let itself = Next::of_base(files);
            let derived =
                Composer::new(base, &itself, files, &evidence, next.files, memory).rederive();
            if derived.reproduced == 0 && derived.failures() > 0 {
                let first = derived.failed.into_iter().next();
                return Err(first.map(NotReproduced::from).unwrap_or_default());
            }
            derived.failed
        }
        None => Vec::new(),
    };
    let composer = Composer::new(base, next, next.files, &evidence, next.files, memory);
    let (mut prediction, written) = composer.predict(&failed);
    if !written.is_empty() {
        let (written, before) = grub::after(next.files, &written);
        let files = Layers(vec![&written, before]);
        let (then, _) =
            Composer::new(base, next, &files, &evidence, next.files, memory).predict(&failed);
        prediction.then = Some(Box::new(then));
    }
    Ok(prediction)
}

/// The files that were named as those of the boot that ran are not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NotReproduced {
    /// The first event that does not follow from them.
    pub event: String,
    /// What they give instead.
    pub why: String,
}

impl From<Unpredictable> for NotReproduced {
    fn from(found: Unpredictable) -> Self {
        Self { event: found.event, why: found.why }
    }
}

impl fmt::Display for NotReproduced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (event, why) = (printable(&self.event, 200), printable(&self.why, 400));
        write!(f, "nothing of the boot that ran follows from its files: {event}: {why}")
    }
}

impl std::error::Error for NotReproduced {}

/// The unified kernel image that a boot started, as `/EFI/Linux/x.efi`.
pub fn uki_path(log: &EventLog) -> Option<String> {
    let anatomy = Anatomy::of(log);
    let is_uki =
        matches!(anatomy.path, BootPath::Uki | BootPath::SystemdBootUki | BootPath::ChainedUki);
    let first = log.events().get(anatomy.entry.start).filter(|_| is_uki)?;
    image_file(first)
}

/// One boot that is being put together.
pub(super) struct Composer<'a> {
    pub(super) base: &'a Base<'a>,
    pub(super) next: &'a Next<'a>,
    pub(super) anatomy: Anatomy,
    pub(super) artifacts: Artifacts<'a>,
    base_artifacts: Option<Artifacts<'a>>,
    pub(super) evidence: &'a DigestTable,
    /// The files of the boot to come, whichever of the two is derived here.
    to_come: &'a dyn Files,
}

impl<'a> Composer<'a> {
    fn new(
        base: &'a Base<'a>,
        next: &'a Next<'a>,
        files: &'a dyn Files,
        evidence: &'a DigestTable,
        to_come: &'a dyn Files,
        memory: &'a Memory,
    ) -> Self {
        let banks = base.log.banks();
        let artifacts = Artifacts::new(files, evidence, &banks, memory);
        let mut anatomy = Anatomy::of(base.log);
        // Without a loader.conf, systemd-boot leaves no word of its own.
        if anatomy.path == BootPath::ChainedUki
            && anatomy.loader(base.log).is_some_and(|path| is_systemd_boot(&artifacts, &path))
        {
            anatomy.path = BootPath::SystemdBootUki;
        }
        Self {
            base,
            next,
            anatomy,
            artifacts,
            base_artifacts: base.files.map(|files| Artifacts::new(files, evidence, &banks, memory)),
            evidence,
            to_come,
        }
    }

    /// The prediction, and the files that the default entry rewrites.
    fn predict(&self, failed: &[Unpredictable]) -> (Prediction, Vec<Written>) {
        let mut open = firmware::open(self.base.log, &self.next.machine);
        open.extend(failed.iter().cloned());
        let (plans, more, written) = self.plans();
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
            let open = open.iter().chain(&more).chain(&plan.open).cloned().collect();
            let (pcrs, unpredictable) = tally(self.base.log, &accounts, open);
            EntryPrediction {
                id: plan.id,
                title: plan.title,
                aliases: plan.aliases,
                default: plan.default,
                pcrs,
                unpredictable,
                events: accounts,
            }
        });
        (Prediction { entries: entries.collect(), then: None }, written)
    }

    /// The boot that ran, against its own log: of the entries the one that comes nearest.
    fn rederive(&self) -> Rederived {
        let events = self.base.log.events();
        let part = |range: std::ops::Range<usize>| events.get(range).unwrap_or_default();
        let mut shared = self.shared(part(0..self.anatomy.entry.start));
        shared.extend(self.shared(part(self.anatomy.entry.end..events.len())));
        let old: Vec<(&Event, PcrIndex)> =
            part(self.anatomy.entry.clone()).iter().filter_map(extending).collect();
        let (plans, open, _) = self.plans();
        let blocks = plans.into_iter().filter(|plan| plan.open.is_empty()).map(|plan| {
            let mut accounts = shared.clone();
            accounts.extend(align(&old, plan.block));
            Rederived::of(&accounts)
        });
        let mut best =
            blocks.min_by_key(Rederived::failures).unwrap_or_else(|| Rederived::of(&shared));
        best.failed.extend(open);
        best
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
        let logged = PolicyVariables::from_log(self.base.log).ok();
        let mut accounts = Vec::new();
        let mut logged_policy: Vec<(&Event, PcrIndex)> = Vec::new();
        for (event, pcr) in events.iter().filter_map(extending) {
            // The variables are one block: what is empty may be left out.
            if policy.is_some() && is_policy_event(event) {
                logged_policy.push((event, pcr));
                continue;
            }
            if let Some(policy) = policy.filter(|_| !logged_policy.is_empty()) {
                let payloads = &self.next.machine.payloads;
                let planned = firmware::policy(policy, payloads, self.artifacts.banks());
                accounts.extend(align(&std::mem::take(&mut logged_policy), planned));
            }
            let planned = match self.vouched_for(event) {
                Some((path, image)) => {
                    let now = policy.or(logged.as_ref());
                    let now = now.filter(|_| authority::is_db_authority(event));
                    now.map(|now| authority::planned(&self.artifacts, now, event, &path, image))
                }
                None => None,
            };
            let planned = planned.unwrap_or_else(|| self.shared_event(event, pcr));
            accounts.push(planned.against(Some(event)));
        }
        accounts
    }

    /// The image that an authority event was measured for: the next one.
    fn vouched_for(&self, event: &Event) -> Option<(String, &Event)> {
        if !authority::is_db_authority(event) {
            return None;
        }
        let after = self.base.log.events().get(event.number..)?;
        after.iter().find_map(|image| Some((image_file(image)?, image)))
    }

    fn shared_event(&self, event: &Event, pcr: PcrIndex) -> Planned {
        let what = event.data().to_string();
        let machine = &self.next.machine;
        if is_direct_kernel(event) {
            let cmdline = self.next.cmdline.as_deref();
            return direct::kernel(&self.artifacts, self.base.log, machine, cmdline, event);
        }
        if let Some(path) = image_file(event) {
            return Planned { what, ..self.artifacts.image_measurement(Volume::Esp, &path) };
        }
        if event.pcr == 5
            && event.data().has_tag(Tag::LoaderConf)
            && let Ok(known) = self.artifacts.plain(Volume::Esp, CONFIG)
        {
            let digests = Ok(known.digests);
            return Planned { pcr, what, digests, source: Some(CONFIG.to_owned()) };
        }
        match &machine.partitions {
            Some(data) if matches!(event.data(), EventData::Gpt(_)) => {
                firmware::partitions(data, self.artifacts.banks())
            }
            _ => Planned::carried(event, pcr),
        }
    }

    fn plans(&self) -> (Vec<EntryPlan>, Vec<Unpredictable>, Vec<Written>) {
        let (plans, open) = match self.anatomy.path {
            BootPath::SystemdBootEntry | BootPath::SystemdBootUki => self.systemd_boot(),
            BootPath::Uki => (vec![self.uki_of_log(true)], Vec::new()),
            BootPath::DirectKernel => (vec![self.direct_kernel()], Vec::new()),
            BootPath::Grub | BootPath::GrubMeasured => return self.grub(),
            _ => (vec![self.as_before()], Vec::new()),
        };
        (plans, open, Vec::new())
    }

    fn grub(&self) -> (Vec<EntryPlan>, Vec<Unpredictable>, Vec<Written>) {
        let events: Vec<_> = self.entry_events().iter().filter_map(extending).collect();
        let files = self.artifacts.files();
        let (seen, trees) = match self.base.files {
            Some(base) => (base, base),
            None => (files, self.next.trees),
        };
        let seen = Partial::new(seen, trees, self.evidence, Some(self.to_come));
        let base_artifacts = self.base_artifacts.as_ref();
        let facts = grub::facts(self.base.log, base_artifacts, &self.artifacts, &seen);
        let why = match facts {
            Ok(facts) => {
                let files = Partial::new(files, self.next.trees, self.evidence, None);
                let menu = grub::menu(&facts, &self.artifacts, &files, &events);
                if !menu.entries.is_empty() {
                    return (menu.entries, menu.open, menu.written);
                }
                return (vec![self.as_before()], menu.open, Vec::new());
            }
            Err(why) => why,
        };
        let mut open = Vec::new();
        if self.base.files.is_some() {
            open.extend([4, 8, 9].map(|number| Unpredictable {
                pcr: pcr(number),
                event: "GRUB".to_owned(),
                why: format!("the boot that ran does not follow from its files: {why}"),
            }));
        }
        let block = grub::files_of_log(&self.artifacts, &events);
        (vec![EntryPlan::new("grub".to_owned(), true, block)], open, Vec::new())
    }

    fn direct_kernel(&self) -> EntryPlan {
        let events = self.entry_events();
        let has_initrd = events.iter().any(|event| event.data().has_tag(Tag::LinuxInitrd));
        let words = events.iter().filter_map(extending).map(|(event, pcr)| {
            let planned =
                direct::words(&self.artifacts, event, self.next.cmdline.as_deref(), has_initrd);
            Planned { pcr, ..planned }
        });
        EntryPlan::new("kernel".to_owned(), true, words.collect())
    }

    /// The unified kernel image that ran. systemd-boot names entries after files, in lower case.
    pub(super) fn uki_of_log(&self, by_firmware: bool) -> EntryPlan {
        let events = self.entry_events();
        let Some(path) = events.first().and_then(image_file) else { return self.as_before() };
        let (block, open) = self.uki(Volume::Esp, &path, None);
        let id = match path.rsplit_once('/') {
            Some((_, name)) if !by_firmware => name.to_ascii_lowercase(),
            _ => path.trim_start_matches('/').to_owned(),
        };
        EntryPlan { open, ..EntryPlan::new(id, true, block) }
    }

    /// What a unified kernel image measures: by its bytes, or by what is known without them.
    pub(super) fn uki(
        &self,
        volume: Volume,
        path: &str,
        options: Option<&str>,
    ) -> (Vec<Planned>, Vec<Unpredictable>) {
        let start = Start { options, secure_boot: self.is_secure_boot() };
        match stub::plan(&self.artifacts, volume, path, &start) {
            Ok(Some(planned)) => return (planned, Vec::new()),
            Ok(None) => {}
            Err(why) => {
                let event = format!("image {path}");
                let open = [4, 9, 11, 12, 13].map(|number| Unpredictable {
                    pcr: pcr(number),
                    event: event.clone(),
                    why: why.clone(),
                });
                return (Vec::new(), open.to_vec());
            }
        }
        let said = Said { sections: &self.next.sections, cmdline: self.next.cmdline.as_deref() };
        let events: Vec<_> = self.entry_events().iter().filter_map(extending).collect();
        let is_whole = self.tree().is_whole(volume);
        (uki::plan(&self.artifacts, volume, path, &events, &said, is_whole), Vec::new())
    }

    /// Whether Secure Boot will be on.
    fn is_secure_boot(&self) -> bool {
        match &self.next.machine.policy {
            Some(policy) => policy.secure_boot(),
            None => Coverage::of(self.base.log).secure_boot() == SecureBoot::On,
        }
    }

    pub(super) fn entry_events(&self) -> &[Event] {
        self.base.log.events().get(self.anatomy.entry.clone()).unwrap_or_default()
    }

    /// The entry that ran, without any knowledge of it.
    pub(super) fn as_before(&self) -> EntryPlan {
        let events = self.entry_events().iter().filter_map(extending);
        let block = events.map(|(event, pcr)| Planned::carried(event, pcr)).collect();
        EntryPlan::new("base".to_owned(), true, block)
    }
}

fn extending(event: &Event) -> Option<(&Event, PcrIndex)> {
    let pcr = PcrIndex::new(event.pcr.into()).ok()?;
    event.extends().then_some((event, pcr))
}
