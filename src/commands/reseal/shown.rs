//! What is shown of a plan before it is approved: boots, variables and files.

use serde_json::{Value, json};
use vmseal::reseal::Artifacts;

use super::Work;
use super::ask::Approval;
use crate::commands::predict::Foreseen;
use crate::commands::terminal::Talk;

/// The plans of all volumes, and what they come from.
pub struct Shown<'a> {
    /// The plans.
    pub works: &'a [Work],
    /// The files, and who vouches for them.
    pub artifacts: Artifacts,
    /// The boots to come.
    pub foreseen: &'a Foreseen,
}

impl Shown<'_> {
    /// Line by line, for people.
    pub fn tell(&self, say: impl Fn(&str)) {
        for work in self.works {
            say(&format!("{} ({})", work.target.device.display(), work.target.uuid));
            work.plan.to_string().lines().for_each(&say);
        }
        for change in &self.foreseen.variables {
            change.to_string().lines().for_each(&say);
        }
        for image in self.foreseen.forbidden() {
            say(&format!("WARNING: dbx forbids {image}: the firmware will not start it"));
        }
        self.artifacts.lines().iter().for_each(|line| say(line));
    }

    /// The plan, and how it was approved, where it was.
    pub fn to_json(&self, approval: Option<Approval>, talk: Talk) {
        if talk.json {
            let volumes: Vec<Value> = self.works.iter().map(Work::to_json).collect();
            talk.object(&json!({
                "volumes": volumes, "variables": self.variables(),
                "artifacts": self.artifacts.to_json(),
                "approved_by": approval.map(Approval::name),
            }));
        }
    }

    /// What becomes of the variables of Secure Boot.
    pub fn variables(&self) -> Value {
        let change = |change: &vmseal::artifact::variable_change::VariableChange| {
            let name = change.variable.name();
            json!({ "name": name, "added": change.added, "removed": change.removed })
        };
        self.foreseen.variables.iter().map(change).collect()
    }
}

impl Work {
    fn to_json(&self) -> Value {
        let mut object = self.plan.to_json();
        if let Some(object) = object.as_object_mut() {
            object.insert("uuid".into(), self.target.uuid.as_str().into());
            object.insert("device".into(), self.target.device.to_string_lossy().into());
            object.insert("policy".into(), self.policy().into());
        }
        object
    }
}
