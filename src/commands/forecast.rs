//! `vmseal forecast`: the process that reads a template's disk. It is asked on standard input by
//! `vmseal reseal --template`, which has the key, and answers on standard output.

use std::io::{Read, Write, stdin, stdout};

use anyhow::{Context, anyhow};
use rustix::process::{Signal, set_parent_process_death_signal};
use vmseal::artifact::hashing::Memory;
use vmseal::policy::AuthorityKey;
use vmseal::sandbox::{self, Limits};
use vmseal::template::Template;
use vmseal::template::wire::{self, Question};

use super::Done;
use super::reseal::{forecasts, paths};

/// A boot file is held in memory whole, and so is an initrd that it is joined to.
const LIMITS: Limits = Limits { memory: 3 << 30, seconds: 110 };

/// Hears what is asked, gives up all other rights, and answers.
pub fn run() -> Done {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut bytes = vec![];
    stdin().take(wire::MAX_QUESTION as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > wire::MAX_QUESTION {
        return Err(anyhow!("more than {} bytes are asked", wire::MAX_QUESTION));
    }
    let question = Question::parse(&bytes).map_err(|error| anyhow!(error));
    let question = question.context("vmseal reseal --template asks this")?;
    let template =
        Template::parse(&question.name, &question.template).map_err(|error| anyhow!(error))?;
    let key = AuthorityKey::from_pem(question.public.as_bytes())?;
    let answer = sandbox::confine_to(paths(&template), LIMITS)
        .map_err(vmseal::Error::from)
        .and_then(|()| forecasts(&template, &key, &question.approved, &Memory::default()))
        .map_err(|error| error.to_string());
    writeln!(stdout(), "{}", wire::to_text(&template, &answer))?;
    Ok(())
}
