//! What a plan for a template looks like, to people, scripts and the journal.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use vmseal::authority::TemplateKeys;
use vmseal::measurement::pcr::join_pcrs;
use vmseal::measurement::text::printable;
use vmseal::measurement::{PcrBank, PcrIndex};
use vmseal::reseal::ChangedEvent;
use vmseal::template::{Outlook, Plan, Shape, Template, VmPlan};

use super::handover::Handover;
use super::signing::{fingerprint, path_of};

/// Machines that are named; the others are counted.
pub const NAMED: usize = 20;
/// Boots, and events of each, that a line of the journal tells.
const JOURNALED_BOOTS: usize = 4;
const JOURNALED: usize = 24;

/// The plan for people, line by line.
pub fn lines(template: &Template, plan: &Plan, keys: &TemplateKeys) -> Vec<String> {
    let mut lines = vec![format!(
        "template {}: {}, {} to be approved",
        template.name,
        count(plan.vms.len(), "machine"),
        count(plan.new_boots(), "boot"),
    )];
    lines.extend(both(keys).map(|both| format!("  {both}")));
    let common = plan.shapes.iter().filter(|shape| shape.machine.is_none());
    let of_several = common.clone().count() > 1;
    for shape in common.filter(|shape| !shape.changes.is_empty()) {
        lines.extend(of_shape(shape, of_several));
    }
    let new: Vec<&VmPlan> = plan.with(Outlook::New).collect();
    let names: BTreeSet<&str> = new.iter().map(|vm| vm.name.as_str()).collect();
    let own = plan.shapes.iter().filter_map(|shape| {
        let machine = shape.machine.as_deref().filter(|machine| names.contains(machine))?;
        Some(of_own(shape, machine))
    });
    lines.extend(some(own.collect(), "boots of machines with words of their own"));
    let own = new.iter().filter(|vm| vm.before.as_ref() != Some(&vm.own));
    let own: Vec<String> = own
        .map(|vm| {
            let words = printable(if vm.own.is_empty() { "no words" } else { &vm.own }, 160);
            match &vm.before {
                None => format!("  new machine {} with {words} of its own", vm.name),
                Some(before) => {
                    let before = if before.is_empty() { "no words" } else { before };
                    let before = printable(before, 160);
                    format!("  {}: {before} -> {words}", vm.name)
                }
            }
        })
        .collect();
    lines.extend(some(own, "machines that are new or have other words of their own"));
    let mut reasons = BTreeMap::<&str, Vec<&str>>::new();
    for vm in plan.with(Outlook::NotCovered) {
        for why in &vm.open {
            reasons.entry(why).or_default().push(&vm.name);
        }
    }
    for (why, names) in reasons {
        let more = names.len().saturating_sub(NAMED);
        let mut named = names.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
        if more > 0 {
            named += &format!(" and {more} more");
        }
        lines.push(format!("  not covered: {named}: {}", printable(why, 400)));
    }
    let left_out = plan.left_out.iter().map(|(entry, why)| format!("  left out: {entry}: {why}"));
    lines.extend(some(left_out.collect(), "entries that are left out"));
    let gone = plan.gone.iter().map(|name| format!("  no longer a machine of it: {name}"));
    lines.extend(some(gone.collect(), "machines that it no longer has"));
    if plan.narrowed > 0 {
        let boots = count(plan.narrowed, "boot");
        lines.push(format!("  {boots} approved so far, and no longer"));
    }
    lines
}

/// Which keys sign, where there are two.
pub fn both(keys: &TemplateKeys) -> Option<String> {
    let (present, old) = (fingerprint(keys.present()), fingerprint(keys.old()?));
    Some(format!(
        "two keys sign, until the rotation is finished: {present}, and the one before it, {old}"
    ))
}

fn of_shape(shape: &Shape, of_several: bool) -> Vec<String> {
    let mut pcrs: Vec<PcrIndex> = shape.changes.iter().map(|change| change.pcr).collect();
    pcrs.sort_unstable();
    pcrs.dedup();
    let kinds: Vec<String> = shape.kinds.iter().map(ToString::to_string).collect();
    let kinds = if of_several { format!(" with {}", kinds.join(", ")) } else { String::new() };
    let entry = shape.entry.as_ref().map(|entry| format!(" of {entry}")).unwrap_or_default();
    let head = format!("  changes{entry}{kinds}: PCR {}", join_pcrs(&pcrs));
    let changes = shape.changes.iter().map(|change| format!("    {change}"));
    [head].into_iter().chain(changes).collect()
}

/// What its own words change of a boot is told by the values: the words themselves are beside them.
fn of_own(shape: &Shape, machine: &str) -> String {
    let entry = shape.entry.as_ref().map(|entry| format!(" of {entry}")).unwrap_or_default();
    let values = shape.values.iter().filter(|(pcr, _)| Shape::is_of_words(*pcr));
    let values = values.map(|(pcr, value)| format!("PCR {pcr} {value}"));
    let values = values.collect::<Vec<_>>().join(", ");
    format!("  with its own words {machine} measures{entry}: {values}")
}

/// The first lines, and how many there are besides.
fn some(mut lines: Vec<String>, what: &str) -> Vec<String> {
    let more = lines.len().saturating_sub(NAMED);
    lines.truncate(NAMED);
    if more > 0 {
        lines.push(format!("  and {more} more {what}"));
    }
    lines
}

/// So many of something.
pub fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The plan for scripts.
pub fn to_json(template: &Template, plan: &Plan, keys: &TemplateKeys) -> Value {
    let vms = plan.vms.iter().map(|vm| {
        let path = path_of(template, &vm.name);
        let boots: Vec<String> = vm.boots.iter().map(|(it, ..)| it.to_string()).collect();
        let mut object = json!({
            "name": vm.name, "outlook": vm.outlook().name(), "words": vm.own,
            "signed": boots, "why": vm.open, "file": path,
        });
        let handover = Handover::of(template.delivery.kind, &path.to_string_lossy());
        if let Some(object) = object.as_object_mut() {
            object.extend(handover.qemu.map(|option| ("qemu".into(), option.into())));
            object.extend(handover.libvirt.map(|xml| ("libvirt".into(), xml.into())));
        }
        object
    });
    json!({
        "name": template.name, "pkfp": fingerprint(keys.present()),
        "old_pkfp": keys.old().map(fingerprint), "boots": shapes(plan, usize::MAX, usize::MAX),
        "machines": vms.collect::<Vec<_>>(), "gone": plan.gone,
        "left_out": plan.left_out.iter().map(|(entry, why)| json!({ "entry": entry, "why": why }))
            .collect::<Vec<_>>(),
        "new_boots": plan.new_boots(), "narrowed": plan.narrowed,
    })
}

fn shapes(plan: &Plan, boots: usize, events: usize) -> Vec<Value> {
    let shape = |shape: &Shape| {
        let changes = shape.changes.iter().take(events).map(ChangedEvent::to_json);
        let kinds = shape.kinds.iter();
        json!({
            "entry": shape.entry, "machine": shape.machine, "machines": kinds
                .map(|kind| json!({ "memory": kind.memory, "cpus": kind.cpus }))
                .collect::<Vec<_>>(),
            "pcrs": shape.values, "changes": changes.collect::<Vec<_>>(),
            "more_changes": shape.changes.len().saturating_sub(events),
        })
    };
    plan.shapes.iter().take(boots).map(shape).collect()
}

/// The line of the journal: what was approved, with a digest of all that is signed.
pub fn body(template: &Template, plan: &Plan, keys: &TemplateKeys, how: &str) -> Value {
    let mut signed: Vec<String> =
        plan.vms.iter().flat_map(|vm| &vm.boots).map(|(it, ..)| it.to_string()).collect();
    signed.sort();
    signed.dedup();
    let all = PcrBank::Sha256.hash(signed.join("\n").as_bytes());
    let names = |names: Vec<&String>| names.into_iter().take(NAMED).cloned().collect::<Vec<_>>();
    json!({
        "how": how, "pkfp": fingerprint(keys.present()), "old_pkfp": keys.old().map(fingerprint),
        "policy": "authority", "boots": shapes(plan, JOURNALED_BOOTS, JOURNALED),
        "machines": plan.vms.len(), "new_boots": plan.new_boots(), "signed": signed.len(),
        "signed_sha256": all.to_string(),
        "not_covered": names(plan.with(Outlook::NotCovered).map(|vm| &vm.name).collect()),
        "gone": names(plan.gone.iter().collect()), "folder": template.delivery.folder,
    })
}
