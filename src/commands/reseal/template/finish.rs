//! The end of a rotation: what machines are given is signed by the new key alone, and the key before is
//! removed.

use serde_json::json;
use vmseal::Error;
use vmseal::authority::{AuthorityError, Store as Keys};
use vmseal::reseal::Kind;
use vmseal::template::{Delivered, TemplateError};

use super::signing::{fingerprint, is_signed_by_present, outdated};
use super::{Approval, NAMED, Work};
use crate::cli::Global;
use crate::commands::keeper::note_template;
use crate::commands::terminal::{self, Talk};

impl Work {
    /// Has it said that every machine is enrolled with the new key, writes the files without the
    /// signatures of the key before, and removes that key; gives its fingerprint, and how many files. Where
    /// it is cut short, the key before is still there, and it can be done again.
    ///
    /// # Errors
    /// [`AuthorityError::NotRotated`], [`TemplateError::NotSignedAnew`], [`AuthorityError::Unconfirmed`]:
    /// nothing is changed then. Those of signing and writing.
    pub fn finish(
        self,
        global: &Global,
        store: &Keys,
        yes: bool,
        talk: Talk,
    ) -> Result<(String, usize), Error> {
        let Self { template, keys, account, plan, .. } = self;
        let name = &template.name;
        let not_rotated = || AuthorityError::NotRotated { old: store.old_path() };
        let old = keys.old().map(fingerprint).ok_or_else(not_rotated)?;
        let pkfp = fingerprint(keys.present());
        if account.pkfp != pkfp || !is_signed_by_present(&template, &plan, &account, &keys)? {
            return Err(TemplateError::NotSignedAnew { template: name.clone() }.into());
        }
        let machines: Vec<&str> = plan.vms.iter().map(|vm| vm.name.as_str()).collect();
        let how = confirm(name, &machines, &pkfp, yes, talk)?.name();
        let body = json!({ "how": how, "pkfp": pkfp, "finished": old, "machines": machines.len() });
        let head = note_template(global, Kind::Rotate, name, body, talk)?;
        let keys = keys.without_old();
        let finished = || {
            let (files, _) = outdated(&template, &plan, &account, &keys)?;
            Delivered::write_all(&files)?;
            store.forget_old()?;
            Ok(files.len())
        };
        let finished: Result<usize, Error> = finished();
        let (kind, body) = match &finished {
            Ok(files) => (Kind::Apply, json!({ "of": head.seq, "files": files })),
            Err(error) => (Kind::Refusal, json!({ "of": head.seq, "cause": error.to_string() })),
        };
        if let Err(error) = note_template(global, kind, name, body, talk) {
            talk.remark(format_args!("WARNING: how it ended is not in the journal: {error}"));
        }
        Ok((old, finished?))
    }
}

/// No guest is trusted to say which key it is enrolled with, so that somebody must; gives how it was said.
fn confirm(
    name: &str,
    machines: &[&str],
    pkfp: &str,
    yes: bool,
    talk: Talk,
) -> Result<Approval, AuthorityError> {
    let unconfirmed = || AuthorityError::Unconfirmed { template: name.to_owned() };
    if !yes && !terminal::can_ask() {
        return Err(unconfirmed());
    }
    let more = machines.len().saturating_sub(NAMED);
    let mut named = machines.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if more > 0 {
        named += &format!(" and {more} more");
    }
    talk.remark(format_args!(
        "template {name}: {named}. This host cannot see which of them were enrolled again with the key \
         {pkfp}: one that was not asks for its passphrase from its next start on"
    ));
    if yes {
        return Ok(Approval::Yes);
    }
    match terminal::ask("Is every one of them enrolled with it? [y/N] ") {
        Ok(true) => Ok(Approval::Terminal),
        _ => Err(unconfirmed()),
    }
}
