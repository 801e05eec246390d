//! What a host approved for the machines of a template: the events that were looked at, and which
//! policies were signed for which machine.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::measurement::diff::Expected;
use crate::policy::PolicyDigest;

const VERSION: u64 = 1;

/// What was approved for a template.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Account {
    /// Fingerprint of the key that signs; empty before the first approval.
    pub pkfp: String,
    /// Counts approvals.
    pub generation: u64,
    /// The events of the boots of the last approval, without the machines' own words.
    pub shapes: Vec<Expected>,
    /// The machines.
    pub vms: BTreeMap<String, Known>,
}

/// What was approved for one machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Its own words of the command line.
    #[serde(default)]
    pub own: String,
    /// What was signed for it, in hexadecimal, and by which approval that was wanted last.
    #[serde(default)]
    pub boots: BTreeMap<String, u64>,
}

impl Account {
    /// Longest text that is read.
    pub const MAX_LEN: usize = 64 << 20;
    /// Most shapes that are kept.
    const MAX_SHAPES: usize = 64;

    /// Reads the account of the template of this name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(template: &str, bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > Self::MAX_LEN {
            return Err(format!("more than {} bytes", Self::MAX_LEN));
        }
        let json: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let version = json.get("version").and_then(Value::as_u64);
        if version != Some(VERSION) {
            return Err("it is of another version".to_owned());
        }
        if json.get("template").and_then(Value::as_str) != Some(template) {
            return Err("it is of another template".to_owned());
        }
        let wrong = |field: &str| format!("{field} is missing or wrong");
        let shapes = json.get("shapes").and_then(Value::as_array);
        let shapes = shapes.ok_or_else(|| wrong("shapes"))?.iter().take(Self::MAX_SHAPES);
        let shapes = shapes
            .map(|shape| Expected::parse(shape.to_string().as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("shapes: {error}"))?;
        let vms = json.get("vms").cloned().ok_or_else(|| wrong("vms"))?;
        Ok(Self {
            pkfp: json.get("pkfp").and_then(Value::as_str).ok_or_else(|| wrong("pkfp"))?.to_owned(),
            generation: json
                .get("generation")
                .and_then(Value::as_u64)
                .ok_or_else(|| wrong("generation"))?,
            shapes,
            vms: serde_json::from_value(vms).map_err(|error| format!("vms: {error}"))?,
        })
    }

    /// The account's text.
    pub fn to_text(&self, template: &str) -> String {
        // One that is too long to be read again only costs the words of the next comparison.
        let shapes = self.shapes.iter().filter_map(Expected::to_json);
        let shapes = shapes.filter_map(|text| serde_json::from_str::<Value>(&text).ok());
        let json = json!({
            "version": VERSION, "template": template, "pkfp": self.pkfp,
            "generation": self.generation, "shapes": shapes.collect::<Vec<_>>(), "vms": self.vms,
        });
        format!("{json}\n")
    }

    /// What is approved, in hexadecimal, each once.
    pub fn boots(&self) -> BTreeSet<&str> {
        self.vms.values().flat_map(|known| known.boots.keys().map(String::as_str)).collect()
    }

    /// Whether this was approved for a machine.
    pub fn approves(&self, vm: &str, approved: &PolicyDigest) -> bool {
        let known = self.vms.get(vm);
        known.is_some_and(|known| known.boots.contains_key(&approved.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::PcrBank;

    #[test]
    fn an_account_is_read_as_it_was_written_and_of_its_template_only() {
        let known = Known { own: "a=b".into(), boots: [("ab".repeat(32), 3)].into() };
        let account = Account {
            pkfp: "cd".repeat(32),
            generation: 3,
            shapes: vec![Expected::new(PcrBank::Sha256, "ef".into(), vec![])],
            vms: [("web1".to_owned(), known)].into(),
        };
        let text = account.to_text("debian");
        assert_eq!(Account::parse("debian", text.as_bytes()), Ok(account.clone()));
        assert!(Account::parse("other", text.as_bytes()).is_err());
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("\"shapes\"", "\"shape\""),
            ("\"boots\"", "\"boot\""),
            ("\"generation\":3", "\"generation\":-3"),
            ("{", "["),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            assert!(Account::parse("debian", changed.as_bytes()).is_err(), "{from}");
        }
        let digest = PolicyDigest::from_bytes(&[0xab; 32]).unwrap();
        assert!(account.approves("web1", &digest) && !account.approves("web2", &digest));
    }
}
