//! What stands against a plan that nobody was asked about, and what somebody must name.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::change::{ChangeKind, ChangedEvent, MENU};
use super::conf::{Conf, Consent};
use super::plan::{NewBoot, Plan};
use crate::measurement::Digest;
use crate::measurement::text::printable;
use crate::vouch::{FileDigests, Voucher};

/// A file that boots to come are measured from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// What its bytes are.
    pub digests: FileDigests,
    /// Who vouches for them.
    pub voucher: Voucher,
}

/// The files of a plan, by their paths on their volumes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Artifacts(pub BTreeMap<String, Artifact>);

impl Artifacts {
    /// The SHA-256 of each file that a boot's changes come from, as the state keeps them.
    pub fn of(&self, boot: &NewBoot) -> BTreeMap<String, Digest> {
        let files = boot.changes.iter().flat_map(|change| &change.files);
        files.filter_map(|path| Some((path.clone(), self.0.get(path)?.digests.sha256))).collect()
    }

    /// One line a file, for people.
    pub fn lines(&self) -> Vec<String> {
        let line = |(path, artifact): (&String, &Artifact)| {
            let Artifact { digests, voucher } = artifact;
            format!("{}: {voucher}, sha256 {}", printable(path, 200), digests.sha256)
        };
        self.0.iter().map(line).collect()
    }

    /// Whether somebody vouches for a file. Nobody does for one that is not at hand.
    pub fn is_vouched_for(&self, path: &str) -> bool {
        self.0.get(path).is_some_and(|artifact| artifact.voucher.is_somebody())
    }

    /// For `--json` and the journal.
    pub fn to_json(&self) -> Value {
        let artifact = |(path, artifact): (&String, &Artifact)| {
            let told = json!({
                "sha256": artifact.digests.sha256.to_string(),
                "voucher": artifact.voucher.to_string(),
            });
            (path.clone(), told)
        };
        Value::Object(self.0.iter().map(artifact).collect())
    }

    /// Who vouches for all of these files: the one who says least. `None` where there are no files.
    fn voucher(&self, files: &[String]) -> Option<&Voucher> {
        let nobody = &Voucher::Nobody;
        let vouchers =
            files.iter().map(|path| self.0.get(path).map_or(nobody, |file| &file.voucher));
        let mut vouchers: Vec<_> = vouchers.collect();
        vouchers.sort_by_key(|voucher| **voucher != Voucher::Nobody);
        vouchers.first().copied()
    }
}

/// Why the plan may not be carried out with nobody asked: one sentence each, none where it may.
pub fn objections(plan: &Plan, artifacts: &Artifacts, conf: &Conf) -> Vec<String> {
    let mut found = vec![];
    if !plan.runs_approved {
        found.push("the boot that runs was not approved itself".to_owned());
    }
    for (_, boot) in plan.new_boots() {
        if boot.changes.is_empty() {
            found.push("what changed is not known".to_owned());
        }
        // What GRUB runs follows from the scripts that it reads, where these are measured.
        let is_script = |change: &&ChangedEvent| {
            change.kind == Some(ChangeKind::Menu) && change.files != [MENU]
        };
        let scripts = boot.changes.iter().filter(is_script).flat_map(|change| change.files.clone());
        let scripts: Vec<String> = scripts.collect();
        for change in &boot.changes {
            let files = match change.files == [MENU] && !scripts.is_empty() {
                true => &scripts,
                false => &change.files,
            };
            found.extend(objection(change, files, artifacts, conf));
        }
    }
    found.sort();
    found.dedup();
    found
}

fn objection(
    change: &ChangedEvent,
    files: &[String],
    artifacts: &Artifacts,
    conf: &Conf,
) -> Option<String> {
    let voucher = artifacts.voucher(files);
    let Some(kind) = change.kind else {
        return Some(format!("PCR {}: nothing is known of an event but its digest", change.pcr));
    };
    let is_allowed = match change.follows {
        // The file that it names is judged by its own events.
        true => conf.consent(kind) != Consent::No,
        false => conf.allows(kind, voucher),
    };
    if is_allowed {
        return None;
    }
    let files: Vec<String> = files.iter().map(|path| printable(path, 120)).collect();
    Some(match (files.as_slice(), voucher) {
        ([], _) | (_, None) => format!("{} changed", name(kind)),
        (files, Some(voucher)) => format!("{} changed: {} {voucher}", name(kind), files.join(" ")),
    })
}

fn name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Kernel => "the kernel",
        ChangeKind::Initrd => "the initrd",
        ChangeKind::Cmdline => "the command line",
        ChangeKind::Menu => "the boot menu",
        ChangeKind::Loader => "the boot loader",
        ChangeKind::Firmware => "the firmware or the machine",
        ChangeKind::SecureBoot => "Secure Boot or its keys",
    }
}
