//! The state: which boots are approved for which volume. It lies in the encrypted root and is the
//! truth; what the header says is a copy for the boot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::artifact::variable_update::Target;
use crate::measurement::text::printable;
use crate::measurement::{Digest, PcrBank, PcrIndex, PcrValues};
use crate::policy::PolicyDigest;
use crate::token::{JournalHead, Record, boot_id};

/// Most bytes of one text.
const MAX_TEXT: usize = 4096;

/// How far a boot has proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Approved before the newest; still opens.
    Old,
    /// Approved, and not seen yet.
    New,
    /// Seen to open.
    Confirmed,
}

/// What is approved on this machine. Fields of later versions survive.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct State {
    /// Where the journal ended when this was written.
    pub journal_head: Option<JournalHead>,
    /// The volumes by UUID.
    pub volumes: BTreeMap<String, VolumeState>,
    other: Map<String, Value>,
}

/// What is approved for one volume.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct VolumeState {
    /// Where it was seen last: a hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Counts approvals: the policy epoch.
    pub generation: u64,
    /// Fingerprint of the authority's key, where one signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Components that no PCR covers, as was accepted when the volume was enrolled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uncovered: Vec<String>,
    /// The approved boots, oldest first.
    pub entries: Vec<Approved>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// One approved boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ApprovedText", into = "ApprovedText")]
pub struct Approved {
    /// Digest of the policy that opens for it.
    pub policy_hash: PolicyDigest,
    /// The keyslot, once it is made.
    pub keyslot: Option<u32>,
    /// Its PCR values at the seal point.
    pub values: PcrValues,
    /// The approval's number.
    pub generation: u64,
    /// How far it has proved itself.
    pub standing: Standing,
    /// SHA-256 of each file that was approved, by path.
    pub artifacts: BTreeMap<String, Digest>,
    /// The loader's name for it.
    pub entry: Option<String>,
    other: Map<String, Value>,
}

impl State {
    /// Most bytes of the file.
    pub const MAX_LEN: u64 = 1 << 20;
    /// The version that is written.
    pub const VERSION: u64 = 1;
    /// Most volumes.
    pub const MAX_VOLUMES: usize = 64;
    /// Most approved boots of one volume: those of the header, and as many whose keyslot is still to be
    /// made or removed.
    pub const MAX_ENTRIES: usize = 16;
    /// Most boots of one volume that are approved for good: those that the header can carry.
    pub const MAX_APPROVED: usize = Record::MAX_ENTRIES;

    /// Reads a state.
    ///
    /// # Errors
    /// A line that says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// The version of a state that may be of a later vmseal.
    pub fn version_of(bytes: &[u8]) -> Option<u64> {
        serde_json::from_slice::<Value>(bytes).ok()?.get("version")?.as_u64()
    }

    /// The text as it is written.
    pub fn to_text(&self) -> String {
        // A struct of texts and numbers always becomes JSON.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

impl VolumeState {
    /// Enters an approved boot, as the newest. The same values under the same policy are the same
    /// boot: it is approved anew, and keeps what has been made for it.
    pub fn approve(&mut self, mut entry: Approved) {
        self.generation = self.generation.max(entry.generation);
        let generation = entry.generation;
        let known = |old: &Approved| old.is_of(&entry.policy_hash, &entry.values);
        if let Some(position) = self.entries.iter().position(known) {
            let old = self.entries.remove(position);
            entry.keyslot = entry.keyslot.or(old.keyslot);
            entry.entry = entry.entry.or(old.entry);
            if old.standing == Standing::Confirmed {
                entry.standing = Standing::Confirmed;
            }
        }
        let is_older = |old: &&mut Approved| old.generation < generation;
        for old in self.entries.iter_mut().filter(is_older) {
            if old.standing == Standing::New {
                old.standing = Standing::Old;
            }
        }
        while self.entries.len() >= State::MAX_ENTRIES {
            // What was never made goes first.
            let unmade = self.entries.iter().position(|entry| entry.keyslot.is_none());
            self.entries.remove(unmade.unwrap_or(0));
        }
        self.entries.push(entry);
    }

    /// The entry of a boot.
    pub fn entry_mut(
        &mut self,
        policy: &PolicyDigest,
        values: &PcrValues,
    ) -> Option<&mut Approved> {
        self.entries.iter_mut().find(|entry| entry.is_of(policy, values))
    }

    /// An approved boot with these values, which has a keyslot.
    pub fn entry_of(&self, values: &PcrValues) -> Option<&Approved> {
        self.entries.iter().find(|entry| entry.keyslot.is_some() && entry.values == *values)
    }

    /// Whether a boot with these values is approved.
    pub fn approves(&self, values: &PcrValues) -> bool {
        self.entry_of(values).is_some()
    }

    /// Takes the approval from a boot.
    pub fn withdraw(&mut self, entry: &Approved) {
        self.entries.retain(|other| !other.is_of(&entry.policy_hash, &entry.values));
    }

    /// What was approved under `policy` is opened by this keyslot from now on.
    pub fn move_to(&mut self, policy: &PolicyDigest, keyslot: u32) {
        let made = |entry: &&mut Approved| entry.policy_hash == *policy && entry.keyslot.is_some();
        self.entries.iter_mut().filter(made).for_each(|entry| entry.keyslot = Some(keyslot));
    }

    /// Removes the entries of keyslots that are gone.
    pub fn retain_keyslots(&mut self, is_there: impl Fn(u32) -> bool) {
        self.entries.retain(|entry| entry.keyslot.is_none_or(&is_there));
    }

    /// Removes the entry of a boot that no keyslot was made for.
    pub fn withdraw_unmade(&mut self, policy: &PolicyDigest, values: &PcrValues) {
        self.entries.retain(|entry| entry.keyslot.is_some() || !entry.is_of(policy, values));
    }
}

impl Approved {
    /// An approval of a boot that nobody has seen yet.
    pub fn new(policy_hash: PolicyDigest, values: PcrValues, generation: u64) -> Self {
        Self {
            policy_hash,
            keyslot: None,
            values,
            generation,
            standing: Standing::New,
            artifacts: BTreeMap::new(),
            entry: None,
            other: Map::new(),
        }
    }

    /// Its name, for people.
    pub fn name(&self) -> String {
        const MAX: usize = 200;
        match &self.entry {
            Some(entry) => printable(entry, MAX),
            None => format!("boot {}", self.id()),
        }
    }

    /// [`boot_id`] of it.
    pub fn id(&self) -> String {
        boot_id(&self.policy_hash, &self.values)
    }

    /// Whether it was approved for when a payload is in a variable of Secure Boot, which is still to be
    /// written for all that is known: no boot entry measures it until then. `good` is an approved boot
    /// that has opened: with the payload, or approved later, it ends the wait.
    pub fn awaits_payload(&self, good: Option<&Self>) -> bool {
        let is_past = good.is_some_and(|good| {
            let since = if good.has_payload() {
                self.generation
            } else {
                self.generation.saturating_add(1)
            };
            good.generation >= since
        });
        self.has_payload() && self.standing != Standing::Confirmed && !is_past
    }

    fn has_payload(&self) -> bool {
        self.artifacts.keys().any(|name| Target::of_artifact(name).is_some())
    }

    fn is_of(&self, policy: &PolicyDigest, values: &PcrValues) -> bool {
        self.policy_hash == *policy && self.values == *values
    }
}

/// [`State`] as it is written.
#[derive(Serialize, Deserialize)]
struct Text {
    version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    journal_head: Option<String>,
    volumes: BTreeMap<String, VolumeState>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// [`Approved`] as it is written.
#[derive(Serialize, Deserialize)]
struct ApprovedText {
    policy_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyslot: Option<u32>,
    bank: PcrBank,
    pcrs: BTreeMap<String, String>,
    generation: u64,
    state: Standing,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    artifacts: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl TryFrom<Text> for State {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        if text.version != Self::VERSION {
            return Err(format!("version {}, expected {}", text.version, Self::VERSION));
        }
        at_most("volumes", text.volumes.len(), Self::MAX_VOLUMES)?;
        for (uuid, volume) in &text.volumes {
            at_most("bytes of a UUID", uuid.len(), 64)?;
            at_most("entries", volume.entries.len(), Self::MAX_ENTRIES)?;
            for (index, entry) in volume.entries.iter().enumerate() {
                let mut before = volume.entries.iter().take(index);
                if before.any(|other| other.is_of(&entry.policy_hash, &entry.values)) {
                    return Err(format!("an entry of volume {uuid} is there twice"));
                }
            }
            if let Some(device) = &volume.device {
                at_most("bytes of a path", device.len(), MAX_TEXT)?;
            }
            if let Some(key) = &volume.authority {
                Digest::from_hex(PcrBank::Sha256, key).map_err(|e| format!("authority: {e}"))?;
            }
        }
        let head = text.journal_head.map(|head| head.parse());
        Ok(Self {
            journal_head: head.transpose().map_err(|error| format!("journal_head: {error}"))?,
            volumes: text.volumes,
            other: text.other,
        })
    }
}

impl From<State> for Text {
    fn from(state: State) -> Self {
        Self {
            version: State::VERSION,
            journal_head: state.journal_head.map(|head| head.to_string()),
            volumes: state.volumes,
            other: state.other,
        }
    }
}

impl TryFrom<ApprovedText> for Approved {
    type Error = String;

    fn try_from(text: ApprovedText) -> Result<Self, String> {
        const MAX_ARTIFACTS: usize = 256;
        at_most("artifacts", text.artifacts.len(), MAX_ARTIFACTS)?;
        let digest = |bank, hex: &str| Digest::from_hex(bank, hex).map_err(|e| e.to_string());
        let mut values = PcrValues::new(text.bank);
        for (pcr, hex) in &text.pcrs {
            let pcr: PcrIndex = pcr.parse().map_err(|e| format!("pcrs: {e}"))?;
            values.set(pcr, digest(text.bank, hex).map_err(|e| format!("pcrs: {e}"))?);
        }
        let hash = hex::decode(&text.policy_hash).map_err(|e| format!("policy_hash: {e}"))?;
        let mut artifacts = BTreeMap::new();
        for (path, hex) in text.artifacts {
            at_most("bytes of a path", path.len(), MAX_TEXT)?;
            let digest = digest(PcrBank::Sha256, &hex).map_err(|e| format!("artifacts: {e}"))?;
            artifacts.insert(path, digest);
        }
        at_most("bytes of a name", text.entry.as_deref().unwrap_or_default().len(), MAX_TEXT)?;
        Ok(Self {
            policy_hash: PolicyDigest::from_bytes(&hash)
                .map_err(|error| format!("policy_hash: {error}"))?,
            keyslot: text.keyslot,
            values,
            generation: text.generation,
            standing: text.state,
            artifacts,
            entry: text.entry,
            other: text.other,
        })
    }
}

impl From<Approved> for ApprovedText {
    fn from(entry: Approved) -> Self {
        let text = |digest: &Digest| digest.to_string();
        Self {
            policy_hash: entry.policy_hash.to_string(),
            keyslot: entry.keyslot,
            bank: entry.values.bank(),
            pcrs: entry.values.iter().map(|(pcr, value)| (pcr.to_string(), text(value))).collect(),
            generation: entry.generation,
            state: entry.standing,
            artifacts: entry.artifacts.iter().map(|(path, d)| (path.clone(), text(d))).collect(),
            entry: entry.entry,
            other: entry.other,
        }
    }
}

fn at_most(what: &str, found: usize, most: usize) -> Result<(), String> {
    if found > most {
        return Err(format!("{found} {what}, expected at most {most}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
