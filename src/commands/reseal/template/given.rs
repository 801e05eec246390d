//! What the machines of a template were given: signatures of how many of their boots, by which key.

use vmseal::Error;
use vmseal::authority::TemplateKeys;
use vmseal::policy::{PolicyDigest, SigningKey};
use vmseal::template::{Plan, Template};

use super::signing::{fingerprint, in_parallel, path_of, read};

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

/// What a machine was given, by each key that signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// By the present key.
    pub present: Delivery,
    /// By the key before it, while a rotation is not finished.
    pub old: Option<Delivery>,
}

impl Given {
    /// What a machine of so many boots lacks. Until the rotation is finished, it is taken to be enrolled
    /// with the key before: nobody has said otherwise.
    pub fn lack(self, boots: usize) -> Option<String> {
        let by_present = self.present.lack(boots);
        let Some(old) = self.old else { return by_present };
        let by_old = old.lack(boots)?;
        Some(match by_present {
            None => "it is signed for by the new key only".to_owned(),
            Some(_) => by_old,
        })
    }

    /// Whether it opens where it is enrolled with the key before, and not where with the present one.
    pub fn is_by_old_alone(self, boots: usize) -> bool {
        self.old.is_some_and(|old| old.lack(boots).is_none()) && self.present.lack(boots).is_some()
    }
}

/// What each machine of a plan was given, in the plan's order.
///
/// # Errors
/// None that a file on disk can bring about.
pub fn delivered(
    template: &Template,
    plan: &Plan,
    keys: &TemplateKeys,
) -> Result<Vec<Given>, Error> {
    in_parallel(&plan.vms, |vm| {
        let text = read(&path_of(template, &vm.name));
        let signatures = text.map(|text| keys.verified(&template.delivery.kind.unwrap(&text)));
        let by = |key: &SigningKey| {
            let Some(signatures) = &signatures else { return Delivery::Nothing };
            let pkfp = fingerprint(key);
            let is_signed = |(approved, index, _): &&(PolicyDigest, usize, bool)| {
                let of = plan.authorizations.get(*index);
                of.is_some_and(|of| signatures.has(&pkfp, &of.pcrs, approved))
            };
            Delivery::Signed(vm.boots.iter().filter(is_signed).count())
        };
        Ok(Given { present: by(keys.present()), old: keys.old().map(by) })
    })
}
