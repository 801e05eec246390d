//! Signatures for the machines of a template: those that are delivered already count, the others are
//! made, each distinct one once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;

use vmseal::Error;
use vmseal::authority::AuthorityError;
use vmseal::policy::{PolicyDigest, Signatures, SigningKey};
use vmseal::template::{Account, Delivered, Plan, Template, TemplateError, VmPlan};

/// The file of a machine.
pub fn path_of(template: &Template, vm: &str) -> PathBuf {
    let ending = template.delivery.kind.extension();
    template.delivery.folder.join(format!("{vm}.{ending}"))
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
    key: &SigningKey,
) -> Result<(Vec<Delivered>, usize), Error> {
    let kind = template.delivery.kind;
    let there = in_parallel(&plan.vms, |vm| {
        let text = read(&path_of(template, &vm.name));
        let kept = text.as_deref().map(|text| kept(kind.unwrap(text), &vm.name, account, key));
        Ok((text, kept.unwrap_or_default()))
    })?;
    let mut known = BTreeMap::<Vec<u8>, Signatures>::new();
    let mut missing = BTreeMap::<Vec<u8>, (PolicyDigest, usize)>::new();
    for (vm, (_, kept)) in plan.vms.iter().zip(&there) {
        for (approved, index) in wanted(vm, account) {
            let is_there = plan
                .authorizations
                .get(index)
                .is_some_and(|of| !kept.matching(of, &approved).is_empty());
            if !is_there {
                missing.insert(approved.as_bytes().to_vec(), (approved, index));
            }
        }
    }
    let missing: Vec<_> = missing.into_values().collect();
    let signed =
        in_parallel(&missing, |(approved, index)| match plan.authorizations.get(*index) {
            Some(of) => Ok(key.sign(of, *approved).map_err(AuthorityError::from)?),
            None => Ok(Signatures::default()),
        })?;
    for ((approved, _), signatures) in missing.iter().zip(signed) {
        known.insert(approved.as_bytes().to_vec(), signatures);
    }
    let (mut files, mut dropped) = (vec![], 0);
    for (vm, (text, mut signatures)) in plan.vms.iter().zip(there) {
        for (approved, _) in wanted(vm, account) {
            if let Some(new) = known.get(approved.as_bytes()) {
                signatures.merge(new.clone());
            }
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
                return Err(TemplateError::TooLarge { path, limit, found }.into());
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

/// What was approved for a machine before and is not planned any more, the oldest first.
fn older<'a>(vm: &VmPlan, account: &'a Account) -> Vec<&'a str> {
    let known = account.vms.get(&vm.name).map(|known| known.boots.iter()).into_iter().flatten();
    let mut older: Vec<_> = known
        .filter(|(old, _)| !vm.boots.iter().any(|(new, ..)| new.to_string() == **old))
        .collect();
    older.sort_by_key(|(_, generation)| **generation);
    older.into_iter().map(|(old, _)| old.as_str()).collect()
}

/// What a machine was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// There is no file of it, or none that can be read.
    Nothing,
    /// A file, with signatures by the template's key for so many of the planned boots.
    Signed(usize),
}

impl Delivery {
    /// What a machine of so many boots lacks.
    pub fn lack(self, boots: usize) -> Option<String> {
        match self {
            Self::Nothing => Some("no signatures are delivered".to_owned()),
            Self::Signed(0) if boots > 0 => Some("its boot is not signed for".to_owned()),
            Self::Signed(signed) if signed < boots => {
                Some(format!("{} of its {boots} boots are not signed for", boots - signed))
            }
            Self::Signed(_) => None,
        }
    }
}

/// What each machine of a plan was given, in the plan's order.
///
/// # Errors
/// None that a file on disk can bring about.
pub fn delivered(
    template: &Template,
    plan: &Plan,
    key: &SigningKey,
) -> Result<Vec<Delivery>, Error> {
    in_parallel(&plan.vms, |vm| {
        let Some(text) = read(&path_of(template, &vm.name)) else { return Ok(Delivery::Nothing) };
        let signatures = key.verifying().verified(&template.delivery.kind.unwrap(&text));
        let is_signed = |approved: &PolicyDigest, index: usize| {
            let of = plan.authorizations.get(index);
            of.is_some_and(|of| !signatures.matching(of, approved).is_empty())
        };
        let signed = vm.boots.iter().filter(|(approved, index, _)| is_signed(approved, *index));
        Ok(Delivery::Signed(signed.count()))
    })
}

/// What is planned for a machine and approved.
fn wanted<'a>(
    vm: &'a VmPlan,
    account: &'a Account,
) -> impl Iterator<Item = (PolicyDigest, usize)> + 'a {
    let boots = vm.boots.iter().map(|(approved, index, _)| (*approved, *index));
    boots.filter(|(approved, _)| account.approves(&vm.name, approved))
}

/// The signatures of a file that are this key's, and of what is still approved.
fn kept(mut signatures: Signatures, vm: &str, account: &Account, key: &SigningKey) -> Signatures {
    let boots = account.vms.get(vm).map(|known| &known.boots);
    // What is signed is the digest itself: there is no policyRef.
    signatures.retain(|_, approved, _| {
        boots.is_some_and(|boots| boots.contains_key(&hex::encode(approved)))
    });
    match signatures.is_empty() {
        true => signatures,
        false => key.verifying().verified(&signatures),
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
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
