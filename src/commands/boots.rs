//! How many boots in a row somebody had to type a passphrase for.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vmseal::boot::{BootReport, OpenedBy, VolumeReport};
use vmseal::measurement::text::printable;
use vmseal::reseal::{Kind, Store};

use super::inputs;
use super::terminal::Talk;
use crate::cli::Global;

const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";

/// The boots since the last good one.
pub struct TypedBoots {
    /// How many there are, this one included.
    count: usize,
    /// Of this boot: the volumes that a passphrase opened, each with the reason.
    volumes: Vec<(String, Option<String>)>,
}

impl TypedBoots {
    /// Counts. `None` where the boot step did not open the volumes of this boot.
    pub fn count(global: &Global) -> Option<Self> {
        if !inputs::is_own_system(global) {
            return None;
        }
        let all = BootReport::read(&global.root)?.volumes;
        let by = |volume: &VolumeReport, who| volume.by == Some(who);
        let typed = all.iter().filter(|volume| by(volume, OpenedBy::Passphrase));
        let volumes: Vec<_> =
            typed.map(|volume| (volume.name.clone(), volume.cause.clone())).collect();
        if volumes.is_empty() {
            let opened = all.iter().any(|volume| by(volume, OpenedBy::Tpm));
            return opened.then_some(Self { count: 0, volumes });
        }
        let this = boot_id(global);
        let earlier = earlier(global).into_iter().filter(|boot| *boot != this).count();
        Some(Self { count: earlier + 1, volumes })
    }

    /// For `status --json`.
    pub fn to_json(&self) -> Value {
        let volume =
            |(name, cause): &(String, Option<String>)| json!({ "name": name, "cause": cause });
        json!({
            "in_a_row": self.count,
            "this_boot": self.volumes.iter().map(volume).collect::<Vec<_>>(),
        })
    }

    /// Says it, where there is something to say.
    pub fn say(&self, talk: Talk) {
        for (name, cause) in &self.volumes {
            let name = printable(name, 60);
            let cause = printable(cause.as_deref().unwrap_or("the TPM did not"), 200);
            talk.prose(format_args!("in this boot a passphrase opened {name}: {cause}"));
        }
        if !self.volumes.is_empty() {
            talk.prose("look at what changed, and approve it if it is yours: vmseal reseal");
        }
        if self.count > 1 {
            talk.prose(format_args!("{} boots in a row were opened by passphrase", self.count));
        }
    }
}

/// What tells this boot from others; empty where the kernel does not say.
pub fn boot_id(global: &Global) -> String {
    let text = std::fs::read_to_string(global.root.join(BOOT_ID)).unwrap_or_default();
    text.trim().to_owned()
}

/// Whether the journal tells of boots by passphrase since the last good one.
pub fn are_typed(global: &Global) -> bool {
    !earlier(global).is_empty()
}

/// Whether the journal tells already how a volume was opened in a boot.
pub fn is_on_record(global: &Global, boot: &str, uuid: &str) -> bool {
    let Ok(seen) = Store::below(&global.root).read() else { return false };
    let lines = seen.verify(vec![], &|_, _| None).lines;
    lines.iter().any(|line| {
        let is =
            |name: &str, value: &str| line.body.get(name).and_then(Value::as_str) == Some(value);
        let is_typed = matches!(line.kind, Kind::PassphraseBoot | Kind::RecoveryKeyBoot);
        is_typed && is("boot", boot) && is("volume", uuid)
    })
}

/// The boots by passphrase or recovery key that the journal tells of since the last good boot.
fn earlier(global: &Global) -> BTreeSet<String> {
    let Ok(seen) = Store::below(&global.root).read() else { return BTreeSet::new() };
    let lines = seen.verify(vec![], &|_, _| None).lines;
    let since = lines.iter().rev().take_while(|line| line.kind != Kind::Confirm);
    since
        .filter(|line| matches!(line.kind, Kind::PassphraseBoot | Kind::RecoveryKeyBoot))
        .map(|line| match line.body.get("boot").and_then(Value::as_str) {
            Some(boot) => boot.to_owned(),
            None => line.seq.to_string(),
        })
        .collect()
}
