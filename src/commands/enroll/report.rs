//! What a plan and an enrolment look like, to people and scripts.

use std::io::{self, IsTerminal};

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::{Value, json};
use vmseal::enroll::{Enrolled, Plan};
use vmseal::measurement::pcr::join_pcrs;
use vmseal::recovery::RecoveryKey;

use crate::commands::next_boot::{self, Prepared};
use crate::commands::signer::Own;
use crate::commands::terminal::{self, Talk};

/// A plan in one line.
pub fn describe(plan: &Plan) -> String {
    let literal = join_pcrs(&plan.literal().pcrs);
    let pcrs = match plan.authorization() {
        Some(signed) => {
            format!("signed PCRs {} and PCR {literal}", join_pcrs(&signed.pcrs.pcrs))
        }
        None => format!("PCRs {literal}"),
    };
    let pin = if plan.pin { ", with a PIN" } else { "" };
    let path =
        plan.coverage.as_ref().map(|coverage| format!(", boot path: {}", coverage.boot_path()));
    format!("{pcrs} of the {} bank{pin}{}", plan.values.bank(), path.unwrap_or_default())
}

/// A plan as `--json` has it.
pub fn plan_json(plan: &Plan) -> Value {
    json!({
        "bank": plan.values.bank(),
        "pcrs": plan.values,
        "policy_hash": plan.policy_digest().to_string(),
        "pin": plan.pin,
        "to_be_signed": plan.authorization().map(|authorization| json!({
            "bank": authorization.pcrs.bank,
            "pcrs": authorization.pcrs.pcrs.iter().map(|pcr| pcr.get()).collect::<Vec<_>>(),
            "pkfp": authorization.key.fingerprint().to_string(),
            "pol": plan.to_be_signed().map(|digest| digest.to_string()),
        })),
        "boot_path": plan.coverage.as_ref().map(|coverage| coverage.boot_path().to_string()),
        "uncovered": plan.uncovered.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// What was done.
pub struct Report<'a> {
    pub plan: &'a Plan,
    pub enrolled: &'a Enrolled,
    pub prepared: Option<&'a Prepared>,
    /// Whether the boot that was sealed to is another one than this.
    pub is_next: bool,
    /// This machine's own key, where it has signed.
    pub own: Option<&'a Own>,
}

impl Report<'_> {
    /// Says it. Fails where a recovery key did not get through.
    pub fn say(&self, talk: Talk, recovery: Option<(&RecoveryKey, u32)>) -> io::Result<()> {
        let Self { plan, enrolled, prepared, is_next, own } = *self;
        if talk.json {
            let mut object = json!({
                "keyslot": enrolled.keyslot,
                "token": enrolled.token,
                "superseded": enrolled.superseded,
                "kept": enrolled.kept,
                "proven": enrolled.proven,
                "plan": plan_json(plan),
                "authority": own.map(Own::to_json),
            });
            if let (Some(object), Value::Object(boot)) =
                (object.as_object_mut(), next_boot::to_json(prepared))
            {
                object.extend(boot);
            }
            if let (Some((key, keyslot)), Some(object)) = (recovery, object.as_object_mut()) {
                object.insert("recovery_key".into(), key.expose().into());
                object.insert("recovery_keyslot".into(), keyslot.into());
            }
            return terminal::deliver(format_args!("{object:#}"));
        }
        talk.prose(format_args!(
            "sealed keyslot {} to {} (token {})",
            enrolled.keyslot,
            describe(plan),
            enrolled.token
        ));
        for keyslot in &enrolled.superseded {
            talk.prose(format_args!("removed keyslot {keyslot}, which this one replaces"));
        }
        for keyslot in &enrolled.kept {
            talk.prose(format_args!("kept keyslot {keyslot}, sealed before"));
            if plan.pin {
                talk.remark(format_args!(
                "keyslot {keyslot} may open without this PIN: vmseal status tells, vmseal revoke removes it"
            ));
            }
        }
        let lacking = plan.to_be_signed().filter(|_| !enrolled.proven && own.is_none());
        if let Some(digest) = lacking {
            talk.remark(format_args!(
            "not proven to open: that takes a signature of {digest}, and a boot that is not latched"
        ));
        } else if is_next {
            talk.remark("sealed to the next boot, not to this one: whether it opens shows then");
        } else if !enrolled.proven {
            talk.remark("this boot is latched: whether it opens shows at the next boot");
        }
        if let Some((key, keyslot)) = recovery {
            // The key is data that was asked for: --quiet does not hide it.
            terminal::deliver(key.expose())?;
            show_qr(key);
            talk.remark(format_args!(
                "recovery key of keyslot {keyslot}: write it down now, it is not shown again"
            ));
        }
        Ok(())
    }
}

/// A QR code, for whoever sits at the terminal.
fn show_qr(key: &RecoveryKey) {
    if !io::stdout().is_terminal() || !terminal::is_watched() {
        return;
    }
    let Ok(code) = QrCode::new(key.expose()) else { return };
    // White on black, whatever the terminal's colours: scanners want the dark modules dark.
    let picture =
        code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    for line in picture.lines() {
        terminal::show(format_args!("\x1b[40;37;1m{line}\x1b[0m"));
    }
}
