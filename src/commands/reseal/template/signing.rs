//! Signatures for the machines of a template: those that are delivered already count, the others are
//! made, each distinct one once by each key.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;

use vmseal::Error;
use vmseal::authority::{AuthorityError, TemplateKeys};
use vmseal::measurement::PcrSelection;
use vmseal::policy::{Authorization, PolicyDigest, Signatures, SigningKey};
use vmseal::template::{Account, Delivered, Plan, Template, TemplateError, VmPlan};

/// The file of a machine.
pub fn path_of(template: &Template, vm: &str) -> PathBuf {
    let ending = template.delivery.kind.extension();
    template.delivery.folder.join(format!("{vm}.{ending}"))
}

/// A signature that is due and not delivered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Lack {
    /// The key that is to make it, by its place in [`TemplateKeys::all`].
    key: usize,
    pcrs: PcrSelection,
    approved: PolicyDigest,
}

/// The files that are not as `account` wants them, with what they are to hold, and how many older
/// approvals there was no room for.
///
/// # Errors
/// Those of signing, and [`TemplateError::TooLarge`].
pub fn outdated(
    template: &Template,
    plan: &Plan,
    account: &Account,
    keys: &TemplateKeys,
) -> Result<(Vec<Delivered>, usize), Error> {
    let kind = template.delivery.kind;
    let there = in_parallel(&plan.vms, |vm| {
        let text = read(&path_of(template, &vm.name));
        let kept = text.as_deref().map(|text| kept(kind.unwrap(text), &vm.name, account, keys));
        let kept = kept.unwrap_or_default();
        let lacks = lacks(vm, &kept, plan, account, keys);
        Ok((text, kept, lacks))
    })?;
    let missing: BTreeSet<Lack> =
        there.iter().flat_map(|(_, _, lacks)| lacks.iter().cloned()).collect();
    let missing: Vec<Lack> = missing.into_iter().collect();
    let all: Vec<&SigningKey> = keys.all().collect();
    let signed = in_parallel(&missing, |lack| match all.get(lack.key) {
        Some(key) => sign(key, lack),
        None => Ok(Signatures::default()),
    })?;
    let made: BTreeMap<Lack, Signatures> = missing.into_iter().zip(signed).collect();
    let (mut files, mut dropped) = (vec![], 0);
    for (vm, (text, mut signatures, lacks)) in plan.vms.iter().zip(there) {
        for new in lacks.iter().filter_map(|lack| made.get(lack)) {
            signatures.merge(new.clone());
        }
        if signatures.is_empty() {
            continue;
        }
        let path = path_of(template, &vm.name);
        let mut new = kind.wrap(&signatures);
        let mut older = older(vm, account).into_iter();
        while new.len() > kind.limit() {
            let Some(oldest) = older.next() else {
                let (limit, found) = (kind.limit(), new.len());
                let keys = all.len();
                return Err(TemplateError::TooLarge { path, limit, found, keys }.into());
            };
            let before = signatures.len();
            signatures.retain(|_, approved, _| hex::encode(approved) != oldest);
            dropped += before - signatures.len();
            new = kind.wrap(&signatures);
        }
        if text.as_deref() != Some(new.as_bytes()) {
            files.push(Delivered { path, text: new });
        }
    }
    Ok((files, dropped))
}

fn sign(key: &SigningKey, lack: &Lack) -> Result<Signatures, Error> {
    let (pcrs, public) = (lack.pcrs.clone(), key.public().clone());
    let of = Authorization { pcrs, key: public, policy_ref: String::new(), signatures: Vec::new() };
    Ok(key.sign(&of, lack.approved).map_err(AuthorityError::from)?)
}

/// What is approved for a machine, and that a key has not signed: the boots that are planned, and older
/// ones that another key has signed.
fn lacks(
    vm: &VmPlan,
    kept: &Signatures,
    plan: &Plan,
    account: &Account,
    keys: &TemplateKeys,
) -> Vec<Lack> {
    let pcrs = |index: usize| plan.authorizations.get(index).map(|of| of.pcrs.clone());
    let planned =
        wanted(vm, account).filter_map(|(approved, index)| Some((pcrs(index)?, approved)));
    let due: Vec<_> = planned.chain(kept.approvals()).collect();
    let mut lacks = vec![];
    for (key, pkfp) in keys.all().map(fingerprint).enumerate() {
        let unsigned = due.iter().filter(|(pcrs, approved)| !kept.has(&pkfp, pcrs, approved));
        let lack = |(pcrs, approved): &(PcrSelection, PolicyDigest)| Lack {
            key,
            pcrs: pcrs.clone(),
            approved: *approved,
        };
        lacks.extend(unsigned.map(lack));
    }
    lacks
}

/// Whether the present key has signed all that is delivered and approved: then no machine needs the
/// signatures of the key before.
///
/// # Errors
/// None that a file on disk can bring about.
pub fn is_signed_by_present(
    template: &Template,
    plan: &Plan,
    account: &Account,
    keys: &TemplateKeys,
) -> Result<bool, Error> {
    let signed = in_parallel(&plan.vms, |vm| {
        let text = read(&path_of(template, &vm.name)).unwrap_or_default();
        let kept = kept(template.delivery.kind.unwrap(&text), &vm.name, account, keys);
        Ok(lacks(vm, &kept, plan, account, keys).iter().all(|lack| lack.key != 0))
    })?;
    Ok(signed.into_iter().all(|is_signed| is_signed))
}

/// The fingerprint of a key, as signature files have it.
pub fn fingerprint(key: &SigningKey) -> String {
    key.public().fingerprint().to_string()
}

/// What was approved for a machine before and is not planned any more, the oldest first.
fn older<'a>(vm: &VmPlan, account: &'a Account) -> Vec<&'a str> {
    let known = account.vms.get(&vm.name).map(|known| known.boots.iter()).into_iter().flatten();
    let mut older: Vec<_> = known
        .filter(|(old, _)| !vm.boots.iter().any(|(new, ..)| new.to_string() == **old))
        .collect();
    older.sort_by_key(|(_, generation)| **generation);
    older.into_iter().map(|(old, _)| old.as_str()).collect()
}

/// What is planned for a machine and approved.
fn wanted<'a>(
    vm: &'a VmPlan,
    account: &'a Account,
) -> impl Iterator<Item = (PolicyDigest, usize)> + 'a {
    let boots = vm.boots.iter().map(|(approved, index, _)| (*approved, *index));
    boots.filter(|(approved, _)| account.approves(&vm.name, approved))
}

/// The signatures of a file that are these keys', and of what is still approved.
fn kept(
    mut signatures: Signatures,
    vm: &str,
    account: &Account,
    keys: &TemplateKeys,
) -> Signatures {
    let boots = account.vms.get(vm).map(|known| &known.boots);
    // What is signed is the digest itself: there is no policyRef.
    signatures.retain(|_, approved, _| {
        boots.is_some_and(|boots| boots.contains_key(&hex::encode(approved)))
    });
    match signatures.is_empty() {
        true => signatures,
        false => keys.verified(&signatures),
    }
}

pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|it| it.is_file()))?;
    file.take(Signatures::MAX_LEN as u64 + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Does the same with each item, on every processor; what comes of it keeps the items' order.
///
/// # Errors
/// The first one.
pub fn in_parallel<T: Sync, U: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<U, Error> + Sync,
) -> Result<Vec<U>, Error> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let work = &work;
        let parts = items.chunks(share);
        let running: Vec<_> = parts
            .map(|part| scope.spawn(move || part.iter().map(work).collect::<Vec<_>>()))
            .collect();
        let ended = running.into_iter().flat_map(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.collect()
    })
}
