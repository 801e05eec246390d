//! A unified kernel image of which only digests are known: what the log and a few named sections
//! tell of the rest.

use super::anatomy::{image, image_file, section};
use super::artifacts::Artifacts;
use super::plan::{Planned, agrees, pcr};
use super::spelled::Spelled;
use super::type1::{hashed, utf16_with_nul};
use crate::artifact::Volume;
use crate::measurement::efi::Guid;
use crate::measurement::{Event, EventData, PcrIndex, Tag};

/// The content of a section that is known although its image is not at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSection {
    /// The image.
    pub image: Spelled,
    /// The section, such as `.cmdline`.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// What is said about an image that is not at hand.
pub(super) struct Said<'a> {
    pub(super) sections: &'a [NamedSection],
    /// The command line that the kernel will be started with.
    pub(super) cmdline: Option<&'a str>,
}

/// The events of the entry, with those parts replaced that are known to change. The rest is as
/// before where the image is as before, or where some of its sections are said to be others.
pub(super) fn plan(
    artifacts: &Artifacts<'_>,
    volume: Volume,
    path: &str,
    events: &[(&Event, PcrIndex)],
    said: &Said<'_>,
    is_whole: bool,
) -> Vec<Planned> {
    let mut uki = artifacts.image_measurement(volume, path);
    let first = events.first().map(|(event, _)| *event);
    let is_same = uki.digests.as_ref().is_ok_and(|new| first.is_some_and(|old| agrees(old, new)));
    let own: Vec<&NamedSection> =
        said.sections.iter().filter(|section| section.image.is_of(volume, path)).collect();
    let of_cmdline = own.iter().find(|section| section.name == ".cmdline").copied();
    let mut addons = Addons::of(artifacts, volume, path, said);
    if addons.images.is_empty() && !is_whole {
        // Nobody said that those of the boot that ran are gone.
        addons = Addons::of_log(events);
    }
    addons.learn(events);
    let cmdline = Cmdline::of(events, of_cmdline, said.cmdline, &addons);
    let is_signed = events.iter().any(|(event, _)| section(event).as_deref() == Some(".pcrpkey"));
    let plan = Plan { artifacts, path, is_same, is_signed, own, cmdline };
    let mut planned: Vec<Planned> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut contents_change = false;
    for (event, event_pcr) in events.iter().skip(1) {
        if image_file(event).is_some() || *event_pcr == pcr(12) {
            // Addons are planned from the files that are there, below.
            continue;
        }
        let name = section(event);
        let is_content = name.is_some() && names.last() == name.as_ref();
        names.extend(name.clone());
        let new = match name {
            Some(name) if is_content => plan.content(event, *event_pcr, &name),
            _ => plan.other(event, *event_pcr),
        };
        contents_change |= new.source.is_some()
            && is_content
            && !new.digests.as_ref().is_ok_and(|digests| agrees(event, digests));
        planned.push(new);
    }
    if is_same && contents_change {
        let why = "its sections change, and its own digest is not known".to_owned();
        uki = Planned { digests: Err(why), source: Some(path.to_owned()), ..uki };
    }
    let mut whole = vec![uki];
    whole.extend(addons.images);
    whole.extend(plan.cmdline.addons.map(|text| Planned {
        pcr: pcr(12),
        what: format!("command line {}", text.as_deref().unwrap_or("of addons")),
        digests: text.map(|text| hashed(artifacts.banks(), &utf16_with_nul(&text))),
        source: Some(format!("{path}.extra.d")),
    }));
    whole.extend(planned);
    whole
}

struct Plan<'a> {
    artifacts: &'a Artifacts<'a>,
    path: &'a str,
    is_same: bool,
    /// Whether it carries a key for signed PCR values, and so such signatures.
    is_signed: bool,
    own: Vec<&'a NamedSection>,
    cmdline: Cmdline,
}

impl Plan<'_> {
    /// As before, if that can be said.
    fn unless_unknown(&self, planned: Planned) -> Planned {
        if self.is_same || !self.own.is_empty() || self.cmdline.section.is_some() {
            return planned;
        }
        let why = format!("the content of {} is not known, only its digests", self.path);
        Planned { digests: Err(why), source: Some(self.path.to_owned()), ..planned }
    }

    fn content(&self, event: &Event, pcr: PcrIndex, name: &str) -> Planned {
        let carried = Planned::carried(event, pcr);
        let named = self.own.iter().find(|section| section.name == name);
        let bytes = named.map(|section| section.bytes.as_slice());
        let bytes = bytes.or(self.cmdline.section.as_deref().filter(|_| name == ".cmdline"));
        match bytes {
            Some(bytes) => Planned {
                digests: Ok(hashed(self.artifacts.banks(), bytes)),
                source: Some(format!("{}#{name}", self.path)),
                ..carried
            },
            None => self.unless_unknown(carried),
        }
    }

    /// Names of sections, the inner kernel, and the kernel's words.
    fn other(&self, event: &Event, pcr: PcrIndex) -> Planned {
        let carried = Planned::carried(event, pcr);
        let replaced = |name: &str| self.own.iter().any(|section| section.name == name);
        let data = event.data();
        if data.has_tag(Tag::LoadOptions) {
            if let Some(whole) = &self.cmdline.whole {
                let digests = whole.clone();
                let digests =
                    digests.map(|text| hashed(self.artifacts.banks(), &utf16_with_nul(&text)));
                return Planned { digests, source: Some("command line".to_owned()), ..carried };
            }
        }
        let is_inner = image(event).is_some_and(|path| path.has_vendor(Guid::STUB_PAYLOAD));
        let is_initrd = data.has_tag(Tag::LinuxInitrd);
        if is_inner && replaced(".linux") || is_initrd && (replaced(".initrd") || replaced(".osrel"))
        {
            let why = "the stub makes it of sections that were named one by one".to_owned();
            return Planned { digests: Err(why), source: Some(self.path.to_owned()), ..carried };
        }
        if is_initrd && self.is_signed && self.changes() {
            let why = "the signed PCR values in the image, which the stub adds to the initrd, are \
                       not known";
            let source = Some(self.path.to_owned());
            return Planned { digests: Err(why.to_owned()), source, ..carried };
        }
        self.unless_unknown(carried)
    }

    fn changes(&self) -> bool {
        !self.is_same || !self.own.is_empty() || self.cmdline.section.is_some()
    }
}

/// The addons that the stub will find beside the image, in its order.
struct Addons {
    images: Vec<Planned>,
    /// Their texts, where known.
    texts: Vec<Option<String>>,
}

impl Addons {
    fn of(artifacts: &Artifacts<'_>, volume: Volume, path: &str, said: &Said<'_>) -> Self {
        let mut addons = Self { images: Vec::new(), texts: Vec::new() };
        for folder in ["/loader/addons".to_owned(), format!("{path}.extra.d")] {
            let names = artifacts.files().names(volume, &folder).unwrap_or_default();
            let is_addon = |name: &&String| name.to_ascii_lowercase().ends_with(".addon.efi");
            for name in names.iter().filter(is_addon) {
                let file = format!("{folder}/{name}");
                addons.images.push(artifacts.image_measurement(volume, &file));
                let text = said.sections.iter().find(|section| {
                    section.name == ".cmdline" && section.image.is_of(volume, &file)
                });
                addons.texts.push(text.map(|section| stub_text(&section.bytes)));
            }
        }
        addons
    }

    /// Those of the boot that ran.
    fn of_log(events: &[(&Event, PcrIndex)]) -> Self {
        let of_addons = events.iter().skip(1).filter(|(event, _)| image_file(event).is_some());
        let images: Vec<Planned> =
            of_addons.map(|(event, pcr)| Planned::carried(event, *pcr)).collect();
        Self { texts: vec![None; images.len()], images }
    }

    /// The text of a single addon that the log knows by its digest and by its text.
    fn learn(&mut self, events: &[(&Event, PcrIndex)]) {
        let mut logged = events.iter().skip(1).filter(|(event, _)| image_file(event).is_some());
        let mut texts = events.iter().filter_map(|(event, _)| match event.data() {
            EventData::KernelCommandLine { cmdline } if event.pcr == 12 && event.data_is_measured() => {
                Some(cmdline.as_str().to_owned())
            }
            _ => None,
        });
        let ([image], [text]) = (self.images.as_slice(), self.texts.as_mut_slice()) else { return };
        let (Some((old, _)), None) = (logged.next(), logged.next()) else { return };
        let (Some(known), None) = (texts.next(), texts.next()) else { return };
        let is_same = image.digests.as_ref().is_ok_and(|digests| agrees(old, digests));
        if is_same && text.is_none() {
            *text = Some(known);
        }
    }

    /// Whether the log has the same ones.
    fn is_as_logged(&self, events: &[(&Event, PcrIndex)]) -> bool {
        let logged: Vec<&Event> = events
            .iter()
            .skip(1)
            .map(|(event, _)| *event)
            .filter(|event| image_file(event).is_some())
            .collect();
        logged.len() == self.images.len()
            && self.images.iter().zip(logged).all(|(image, old)| {
                image.digests.as_ref().is_ok_and(|digests| agrees(old, digests))
            })
    }

    /// What all of them add to the command line.
    fn text(&self) -> Option<String> {
        let texts: Option<Vec<String>> = self.texts.iter().cloned().collect();
        Some(texts?.join(" "))
    }
}

/// A command line as the stub makes one of a section (`mangle_stub_cmdline`).
pub(super) fn stub_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\0');
    let spaced: String = text.chars().map(|c| if c.is_ascii_control() { ' ' } else { c }).collect();
    spaced.trim_matches(' ').to_owned()
}

/// What becomes of the command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Cmdline {
    /// The content of `.cmdline`, where it is another.
    section: Option<Vec<u8>>,
    /// What addons add.
    addons: Option<Result<String, String>>,
    /// What the kernel is started with, where it is another.
    whole: Option<Result<String, String>>,
}

impl Cmdline {
    fn of(events: &[(&Event, PcrIndex)], own: Option<&NamedSection>, said: Option<&str>, addons: &Addons) -> Self {
        let section = own.map(|section| section.bytes.clone());
        let own = own.map(|section| stub_text(&section.bytes));
        if addons.texts.is_empty() {
            let whole = own.or_else(|| said.map(str::to_owned));
            let section = section.or_else(|| said.map(|text| text.as_bytes().to_vec()));
            return Self { section, addons: None, whole: whole.map(Ok) };
        }
        let unknown = |why: &str| Some(Err(why.to_owned()));
        let text = addons.text();
        // The digest in the log proves where the image's own part of a command line ends.
        let own = own.or_else(|| proven_start(events, said?));
        let own = own.or_else(|| {
            let (text, said) = (text.as_ref().filter(|text| !text.is_empty())?, said?);
            Some(said.strip_suffix(text.as_str()).unwrap_or(said).trim_end_matches(' ').to_owned())
        });
        let section = section.or_else(|| {
            let own = own.clone().filter(|own| said.is_some() && !is_logged(events, own));
            own.map(String::into_bytes)
        });
        if said.is_none() && own.is_none() && addons.is_as_logged(events) {
            return Self { section, addons: text.map(Ok), whole: None };
        }
        match (own, text, said) {
            (Some(own), Some(text), _) => {
                let parts: Vec<String> = [own, text.clone()].into_iter().filter(|part| !part.is_empty()).collect();
                Self { section, addons: Some(Ok(text)), whole: Some(Ok(parts.join(" "))) }
            }
            (Some(own), None, Some(said)) => {
                let text = said.strip_prefix(&own).unwrap_or_default().trim_start_matches(' ');
                Self { section, addons: Some(Ok(text.to_owned())), whole: Some(Ok(said.to_owned())) }
            }
            (_, Some(text), _) => Self {
                section,
                addons: Some(Ok(text)),
                whole: unknown("the command line of the image is known by its digest alone"),
            },
            (_, None, _) => {
                let why = "the command line of an addon is known by its digest alone";
                Self { section, addons: unknown(why), whole: unknown(why) }
            }
        }
    }
}

/// Whether a text is the content of the logged `.cmdline`.
fn is_logged(events: &[(&Event, PcrIndex)], text: &str) -> bool {
    proven_start(events, text).as_deref() == Some(text)
}

/// The longest start of `text`, up to a space, that is the content of the logged `.cmdline`.
fn proven_start(events: &[(&Event, PcrIndex)], text: &str) -> Option<String> {
    let mut of_section = events.iter().filter(|(event, _)| section(event).as_deref() == Some(".cmdline"));
    let (content, _) = of_section.nth(1)?;
    let ends = text.match_indices(' ').map(|(at, _)| at).chain([text.len()]);
    let mut ends: Vec<usize> = ends.collect();
    ends.reverse();
    let starts = ends.into_iter().take(MAX_WORDS).filter_map(|end| text.get(..end));
    let mut proven = starts.filter(|start| content.measures(start.as_bytes()));
    proven.next().map(str::to_owned)
}

/// Most words of a command line that are tried.
const MAX_WORDS: usize = 4096;
