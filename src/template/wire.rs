//! What the process that has a template's key and the one that reads its disks say to each other.
//! The second may have been taken over by what it read: whatever it says is checked before it is
//! shown, and it names nothing but PCR values that are shown.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::definition::{Template, Vm};
use super::forecast::MachineKind;
use super::forecasts::{Forecasts, NAME, Shape, VmForecast, WHY};
use crate::measurement::diff::Expected;
use crate::measurement::text::printable;
use crate::measurement::{Digest, PcrBank, PcrIndex, PcrSelection, PcrValues};
use crate::policy::{PolicyDigest, literal_digest, with_latch};
use crate::reseal::{ChangeKind, ChangedEvent};

/// Longest text of a question.
pub const MAX_QUESTION: usize = Template::MAX_LEN * 2 + (16 << 20);
/// Longest text of an answer.
pub const MAX_ANSWER: usize = 32 << 20;
/// Most boots of an answer, and of each the most changes.
const MAX_BOOTS: usize = 1024;
/// Most of them that have words of one machine's own: each may have some entries and kinds.
const MAX_OWN_BOOTS: usize = Template::MAX_OWN_DISKS * 16;
const MAX_CHANGES: usize = 8192;
/// Most lines of other things.
const MAX_LINES: usize = 4096;
/// Characters of one side of a change: a whole command line.
const WORDS: usize = 4096;
/// Characters of a refusal.
const MAX_REFUSAL: usize = 300;

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The template's name.
    pub name: String,
    /// Its text.
    pub template: String,
    /// The events that were approved last.
    pub approved: Vec<Expected>,
    /// The public half of its key, in PEM.
    pub public: String,
}

/// What the answer is: forecasts, or why there are none.
pub type Answer = Result<Forecasts, String>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuestionText {
    name: String,
    template: String,
    approved: Vec<Value>,
    public: String,
}

impl Question {
    /// Its text.
    pub fn to_text(&self) -> String {
        let approved = self.approved.iter().filter_map(Expected::to_json);
        let text = QuestionText {
            name: self.name.clone(),
            template: self.template.clone(),
            approved: approved.filter_map(|text| serde_json::from_str(&text).ok()).collect(),
            public: self.public.clone(),
        };
        serde_json::to_string(&text).unwrap_or_default()
    }

    /// Reads its text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text: QuestionText =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let QuestionText { name, template, approved, public } = text;
        let approved = approved.iter().map(|it| Expected::parse(it.to_string().as_bytes()));
        let approved = approved.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        Ok(Self { name, template, approved, public })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AnswerText {
    Forecasts(ForecastsText),
    Refused(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ForecastsText {
    signed: Vec<Vec<u64>>,
    boots: Vec<BootText>,
    machines: Vec<MachineText>,
    left_out: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BootText {
    entry: Option<String>,
    machine: Option<String>,
    kinds: Vec<(Option<u64>, Option<u32>)>,
    pcrs: BTreeMap<u64, String>,
    signed: usize,
    changes: Vec<ChangeText>,
    events: Value,
}

/// What a boot that is told can be of.
struct Bounds<'a> {
    bank: PcrBank,
    signed: &'a [PcrSelection],
    sizes: BTreeSet<(Option<u64>, Option<u32>)>,
    own: BTreeSet<&'a str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeText {
    pcr: u64,
    kind: Option<String>,
    follows: bool,
    old: Option<(String, String)>,
    new: Option<(String, String)>,
    files: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineText {
    boots: Vec<usize>,
    open: Vec<String>,
}

/// The text of an answer about a template.
pub fn to_text(template: &Template, answer: &Answer) -> String {
    let text = match answer {
        Ok(forecasts) => AnswerText::Forecasts(ForecastsText::of(template, forecasts)),
        Err(why) => AnswerText::Refused(plain(why, MAX_REFUSAL)),
    };
    serde_json::to_string(&text).unwrap_or_default()
}

/// Reads an answer about a template.
///
/// # Errors
/// What is wrong with it, which whoever answered may have worded.
pub fn parse(template: &Template, bytes: &[u8]) -> Result<Answer, String> {
    if bytes.len() > MAX_ANSWER {
        return Err(format!("more than {MAX_ANSWER} bytes"));
    }
    let text: AnswerText = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match text {
        AnswerText::Refused(why) => Ok(Err(shown(why, MAX_REFUSAL)?)),
        AnswerText::Forecasts(text) => text.checked(template).map(Ok),
    }
}

impl ForecastsText {
    fn of(template: &Template, forecasts: &Forecasts) -> Self {
        let Forecasts { shapes, signed, vms, left_out } = forecasts;
        let told = shapes
            .iter()
            .map(|shape| (shape.machine.as_deref(), approved(shape, signed), shape.signed));
        let told: Vec<_> = told.collect();
        let machine = |(vm, of): (&VmForecast, &Vm)| {
            let own = template.has_own_disk(of).then_some(of.name.as_str());
            let index = |(boot, of): &(PolicyDigest, usize)| {
                told.iter().position(|known| *known == (own, Some(*boot), *of))
            };
            let open = vm.open.iter().map(|why| plain(why, WHY)).collect();
            MachineText { boots: vm.boots.iter().filter_map(index).collect(), open }
        };
        Self {
            signed: signed
                .iter()
                .map(|pcrs| pcrs.pcrs.iter().map(|pcr| pcr.get().into()).collect())
                .collect(),
            boots: shapes.iter().map(BootText::of).collect(),
            machines: vms.iter().zip(&template.machines()).map(machine).collect(),
            left_out: left_out.iter().cloned().collect(),
        }
    }

    fn checked(self, template: &Template) -> Result<Forecasts, String> {
        let machines = template.machines();
        require(self.machines.len() == machines.len(), "other machines than the template's")?;
        let (own, common): (Vec<_>, Vec<_>) =
            self.boots.iter().partition(|boot| boot.machine.is_some());
        let are_few = common.len() <= MAX_BOOTS && own.len() <= MAX_OWN_BOOTS;
        require(are_few, "too many boots")?;
        require(self.left_out.len() <= MAX_LINES, "too many entries")?;
        require(self.signed.len() <= self.boots.len(), "PCRs that no boot has")?;
        let signed = self.signed.into_iter().map(|pcrs| selection(template, &pcrs));
        let signed: Vec<PcrSelection> = signed.collect::<Result<_, _>>()?;
        let sizes = machines.iter().flat_map(|vm| template.sizes(vm)).collect();
        let own = machines.iter().filter(|vm| template.has_own_disk(vm));
        let own = own.map(|vm| vm.name.as_str()).collect();
        let bounds = Bounds { bank: template.bank, signed: &signed, sizes, own };
        let boots = self.boots.into_iter().map(|boot| boot.checked(&bounds));
        let shapes: Vec<Shape> = boots.collect::<Result<_, _>>()?;
        let (own, common): (Vec<&Shape>, Vec<&Shape>) =
            shapes.iter().partition(|shape| shape.machine.is_some());
        let is_told = |own: &&Shape| common.iter().any(|shape| own.differs_by_words(shape));
        require(own.iter().all(is_told), "a machine's own boot")?;
        let vms = self.machines.into_iter().zip(&machines).map(|(machine, vm)| {
            require(machine.boots.len() <= shapes.len(), "a boot twice")?;
            let own = template.has_own_disk(vm).then_some(&vm.name);
            require(machine.open.len() <= MAX_LINES, "too many reasons")?;
            let boots = machine.boots.into_iter().map(|index| {
                let shape = shapes.get(index).filter(|shape| shape.machine.as_ref() == own)?;
                Some((approved(shape, &signed)?, shape.signed))
            });
            let boots = boots.collect::<Option<_>>().ok_or("a boot that is not told of it")?;
            let open = machine.open.into_iter().map(|why| shown(why, WHY));
            Ok(VmForecast { boots, open: open.collect::<Result<_, String>>()? })
        });
        let vms = vms.collect::<Result<_, String>>()?;
        let left_out = self.left_out.into_iter();
        let left_out = left_out.map(|(name, why)| Ok((shown(name, NAME)?, shown(why, WHY)?)));
        Ok(Forecasts { vms, left_out: left_out.collect::<Result<_, String>>()?, shapes, signed })
    }
}

impl BootText {
    fn of(shape: &Shape) -> Self {
        let events = shape.expected.to_json().or_else(|| {
            // Only the words of the next comparison are lost.
            let Expected { bank, policy_hash, .. } = shape.expected.clone();
            Expected::new(bank, policy_hash, vec![]).to_json()
        });
        let pcrs = shape.values.iter();
        Self {
            entry: shape.entry.clone(),
            machine: shape.machine.clone(),
            kinds: shape.kinds.iter().map(|kind| (kind.memory, kind.cpus)).collect(),
            pcrs: pcrs.map(|(pcr, value)| (pcr.get().into(), value.to_string())).collect(),
            signed: shape.signed,
            changes: shape.changes.iter().map(ChangeText::of).collect(),
            events: events.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        }
    }

    fn checked(self, bounds: &Bounds<'_>) -> Result<Shape, String> {
        let Bounds { bank, signed, ref sizes, ref own } = *bounds;
        let mut values = PcrValues::new(bank);
        for (pcr, value) in self.pcrs {
            let pcr = PcrIndex::new(pcr).map_err(|error| error.to_string())?;
            values.set(pcr, Digest::from_hex(bank, &value).map_err(|error| error.to_string())?);
        }
        let pcrs = signed.get(self.signed).ok_or("PCRs that are not told")?;
        let wanted = PcrSelection::new(bank, with_latch(pcrs.pcrs.clone()));
        require(values.selection() == wanted, "other PCRs than the signed ones")?;
        let latch = values.get(PcrIndex::LATCH);
        require(latch.is_some_and(Digest::is_zero), "a boot that is latched")?;
        let expected = Expected::parse(self.events.to_string().as_bytes());
        let expected = expected.map_err(|error| error.to_string())?;
        let is_of_it =
            expected.bank == bank && expected.policy_hash == literal_digest(&values).to_string();
        require(is_of_it, "events of another boot")?;
        let kind = |(memory, cpus)| {
            require(sizes.contains(&(memory, cpus)), "a machine that the template does not have")?;
            Ok(MachineKind { memory, cpus })
        };
        require(self.kinds.len() <= MAX_BOOTS, "too many machines of a boot")?;
        let is_own = self.machine.as_deref().is_none_or(|name| own.contains(name));
        require(is_own, "words of a machine that has none of its own")?;
        require(self.changes.len() <= MAX_CHANGES, "too many changes")?;
        let changes = self.changes.into_iter().map(ChangeText::checked);
        Ok(Shape {
            entry: self.entry.map(|name| shown(name, NAME)).transpose()?,
            machine: self.machine,
            kinds: self.kinds.into_iter().map(kind).collect::<Result<_, String>>()?,
            values,
            signed: self.signed,
            changes: changes.collect::<Result<_, _>>()?,
            expected,
        })
    }
}

impl ChangeText {
    fn of(change: &ChangedEvent) -> Self {
        let side = |side: &Option<(String, String)>| {
            let (words, digest) = side.as_ref()?;
            Some((plain(words, WORDS), plain(digest, WORDS)))
        };
        Self {
            pcr: change.pcr.get().into(),
            kind: change.kind.map(|kind| kind.name().to_owned()),
            follows: change.follows,
            old: side(&change.old),
            new: side(&change.new),
            files: change.files.iter().map(|file| plain(file, WHY)).collect(),
        }
    }

    fn checked(self) -> Result<ChangedEvent, String> {
        let side = |side: Option<(String, String)>| {
            let checked = |(words, digest)| Ok((shown(words, WORDS)?, shown(digest, WORDS)?));
            side.map(checked).transpose()
        };
        let kind = |name: String| {
            let mut known = ChangeKind::ALL.into_iter();
            known.find(|kind| kind.name() == name).ok_or("a change of no known kind")
        };
        require(self.files.len() <= MAX_FILES, "too many files of a change")?;
        let (old, new): (_, Result<_, String>) = (side(self.old), side(self.new));
        Ok(ChangedEvent {
            pcr: PcrIndex::new(self.pcr).map_err(|error| error.to_string())?,
            kind: self.kind.map(kind).transpose()?,
            follows: self.follows,
            old: old?,
            new: new?,
            files: self.files.into_iter().map(|file| shown(file, WHY)).collect::<Result<_, _>>()?,
        })
    }
}

/// Files of one change that are named.
const MAX_FILES: usize = 64;

/// What is signed for a boot.
fn approved(shape: &Shape, signed: &[PcrSelection]) -> Option<PolicyDigest> {
    let values = shape.values.restricted_to(&signed.get(shape.signed)?.pcrs)?;
    Some(literal_digest(&values))
}

/// PCRs that a boot may be approved by: what starts the kernel, and kernel, initrd and command line.
fn selection(template: &Template, pcrs: &[u64]) -> Result<PcrSelection, String> {
    let pcrs = pcrs.iter().map(|pcr| PcrIndex::new(*pcr).map_err(|error| error.to_string()));
    let selection = PcrSelection::new(template.bank, pcrs.collect::<Result<Vec<_>, _>>()?);
    let has_kernel = selection.has(PcrIndex::BOOT_LOADER_CODE)
        && (selection.has(PcrIndex::KERNEL_INITRD) || selection.has(PcrIndex::KERNEL_BOOT));
    let is_stable = |pcr: &PcrIndex| *pcr != PcrIndex::LATCH && !pcr.is_resettable();
    require(has_kernel && selection.pcrs.iter().all(is_stable), "PCRs that cover no boot")?;
    Ok(selection)
}

fn require(holds: bool, else_told: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("it tells {else_told}")) }
}

/// A text as it may be shown, cut where it is too long.
fn plain(text: &str, max: usize) -> String {
    let mut text = printable(text, max);
    text.truncate(max);
    text
}

/// A text that was made so.
fn shown(text: String, max: usize) -> Result<String, String> {
    let is_plain = text.len() <= max && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    require(is_plain, "a text that cannot be shown").map(|()| text)
}

#[cfg(test)]
mod tests;
