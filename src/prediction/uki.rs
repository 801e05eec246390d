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
/// before where the image is as before, or where its other sections are said to be.
pub(super) fn plan(
    artifacts: &Artifacts<'_>,
    volume: Volume,
    path: &str,
    events: &[(&Event, PcrIndex)],
    said: &Said<'_>,
) -> Vec<Planned> {
    let uki = artifacts.image_measurement(volume, path);
    let first = events.first().map(|(event, _)| *event);
    let is_same = uki.digests.as_ref().is_ok_and(|new| first.is_some_and(|old| agrees(old, new)));
    let own: Vec<&NamedSection> =
        said.sections.iter().filter(|section| section.image.is_of(volume, path)).collect();
    let is_told = !own.is_empty() || said.cmdline.is_some();
    let addons = Addons::of(artifacts, volume, path, said);
    let cmdline = Cmdline::of(artifacts, events, &own, said, &addons);
    let mut planned = vec![uki];
    let mut section_names: Vec<String> = Vec::new();
    let mut addons_planned = false;
    for (event, event_pcr) in events.iter().skip(1) {
        let carried = Planned::carried(event, *event_pcr);
        let unknown = |planned: Planned| {
            if is_same || is_told {
                return planned;
            }
            let why = format!("the content of {path} is not known, only its digests");
            Planned { digests: Err(why), source: Some(path.to_owned()), ..planned }
        };
        if let Some(name) = section(event) {
            // Once the name, which stays, then the content.
            if section_names.last() != Some(&name) {
                section_names.push(name);
                planned.push(unknown(carried));
                continue;
            }
            let known = own.iter().find(|section| section.name == name);
            planned.push(match known {
                Some(section) => Planned {
                    digests: Ok(hashed(artifacts.banks(), &section.bytes)),
                    source: Some(format!("{path}#{name}")),
                    ..carried
                },
                None if name == ".cmdline" => match &cmdline.section {
                    Some(text) if !is_same => Planned {
                        digests: Ok(hashed(artifacts.banks(), text.as_bytes())),
                        source: Some("command line".to_owned()),
                        ..carried
                    },
                    _ => unknown(carried),
                },
                None => unknown(carried),
            });
            continue;
        }
        let is_inner = image(event).is_some_and(|path| path.has_vendor(Guid::STUB_PAYLOAD));
        let is_word = *event_pcr == pcr(9);
        if (is_inner || is_word) && !addons_planned {
            addons_planned = true;
            planned.extend(addons.planned.iter().cloned());
        }
        if image_file(event).is_some() || *event_pcr == pcr(12) {
            // Addons were planned from the files that are there.
            continue;
        }
        if event.data().has_tag(Tag::LoadOptions) {
            planned.push(match &cmdline.whole {
                Some(Ok(text)) => Planned {
                    digests: Ok(hashed(artifacts.banks(), &utf16_with_nul(text))),
                    source: Some("command line".to_owned()),
                    ..carried
                },
                Some(Err(why)) => Planned { digests: Err(why.clone()), ..carried },
                None => unknown(carried),
            });
            continue;
        }
        let replaced = |name: &str| own.iter().any(|section| section.name == name);
        let touched = is_inner && replaced(".linux")
            || event.data().has_tag(Tag::LinuxInitrd) && (replaced(".initrd") || replaced(".osrel"));
        planned.push(if touched {
            let why = "the stub makes it of sections that are replaced one by one".to_owned();
            Planned { digests: Err(why), ..carried }
        } else {
            unknown(carried)
        });
    }
    if !addons_planned {
        planned.extend(addons.planned);
    }
    planned
}

/// The addons that the stub will find beside the image, sorted by name.
struct Addons {
    planned: Vec<Planned>,
    /// What they add to the command line; `None` where one of them is not known.
    text: Option<String>,
    count: usize,
}

impl Addons {
    fn of(artifacts: &Artifacts<'_>, volume: Volume, path: &str, said: &Said<'_>) -> Self {
        let folders = ["/loader/addons".to_owned(), format!("{path}.extra.d")];
        let (mut planned, mut texts, mut count) = (Vec::new(), Vec::new(), 0);
        let mut complete = true;
        for folder in folders {
            let names = artifacts.files().names(volume, &folder).unwrap_or_default();
            let addons =
                names.iter().filter(|name| name.to_ascii_lowercase().ends_with(".addon.efi"));
            for name in addons {
                let file = format!("{folder}/{name}");
                planned.push(artifacts.image_measurement(volume, &file));
                count += 1;
                let text = said.sections.iter().find(|section| {
                    section.name == ".cmdline" && section.image.is_of(volume, &file)
                });
                match text {
                    Some(section) => texts.push(stub_text(&section.bytes)),
                    None => complete = false,
                }
            }
        }
        Self { planned, text: complete.then(|| texts.join(" ")), count }
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
struct Cmdline {
    /// The content of `.cmdline`, where it is said.
    section: Option<String>,
    /// What the kernel is started with; `None` where it stays.
    whole: Option<Result<String, String>>,
}

impl Cmdline {
    fn of(
        artifacts: &Artifacts<'_>,
        events: &[(&Event, PcrIndex)],
        own: &[&NamedSection],
        said: &Said<'_>,
        addons: &Addons,
    ) -> Self {
        let _ = artifacts;
        let _ = events;
        let section = own.iter().find(|section| section.name == ".cmdline");
        let with_addons = |own: String| match &addons.text {
            Some(text) if text.is_empty() => Ok(own),
            Some(text) if own.is_empty() => Ok(text.clone()),
            Some(text) => Ok(format!("{own} {text}")),
            None => Err("the command line of an addon is not known".to_owned()),
        };
        match (section, said.cmdline) {
            (Some(section), _) => Self {
                section: None,
                whole: Some(with_addons(stub_text(&section.bytes))),
            },
            (None, Some(text)) if addons.count == 0 => {
                Self { section: Some(text.to_owned()), whole: Some(Ok(text.to_owned())) }
            }
            _ => Self { section: None, whole: None },
        }
    }
}
