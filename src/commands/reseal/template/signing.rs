//! Signatures for the machines of a template: those that are delivered already count, the others are
//! made, each distinct one once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;

use vmseal::Error;
use vmseal::authority::AuthorityError;
use vmseal::boot::Sources;
use vmseal::policy::{PolicyDigest, Signatures, SigningKey, verified};
use vmseal::template::{Account, Delivered, DeliveryKind, Plan, Template, TemplateError, VmPlan};

/// The file of a machine.
pub fn path_of(template: &Template, vm: &str) -> PathBuf {
    template.delivery.folder.join(format!("{vm}.json"))
}

/// The files that are not as `account` wants them, with what they are to hold.
///
/// # Errors
/// Those of signing, and [`TemplateError::TooLarge`].
pub fn outdated(
    template: &Template,
    plan: &Plan,
    account: &Account,
    key: &SigningKey,
) -> Result<Vec<Delivered>, Error> {
    let there = in_parallel(&plan.vms, |vm| {
        let text = read(&path_of(template, &vm.name));
        let kept = text.as_deref().map(|text| kept(text, &vm.name, account, key));
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
    let mut files = vec![];
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
        let new = format!("{}\n", signatures.to_json());
        if template.delivery.kind == DeliveryKind::FwCfg && new.len() > Sources::MAX_FW_CFG {
            let (limit, found) = (Sources::MAX_FW_CFG, new.len());
            return Err(TemplateError::TooLarge { path, limit, found }.into());
        }
        if text.as_deref() != Some(new.as_bytes()) {
            files.push(Delivered { path, text: new });
        }
    }
    Ok(files)
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
fn kept(text: &[u8], vm: &str, account: &Account, key: &SigningKey) -> Signatures {
    let mut signatures = Signatures::default();
    let _ = signatures.add_json(text);
    let boots = account.vms.get(vm).map(|known| &known.boots);
    // What is signed is the digest itself: there is no policyRef.
    signatures.retain(|_, approved, _| {
        boots.is_some_and(|boots| boots.contains_key(&hex::encode(approved)))
    });
    match signatures.is_empty() {
        true => signatures,
        false => verified(&signatures, &[key.public()]),
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
