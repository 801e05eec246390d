//! The boot that ran, derived again from its own files and compared with its log.

use super::account::{Account, Fate};
use super::tally::Unpredictable;

/// What deriving the base again showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rederived {
    /// Measurements that followed from files.
    pub(super) reproduced: usize,
    /// Those that did not: nothing is predicted for their PCRs.
    pub(super) failed: Vec<Unpredictable>,
}

impl Rederived {
    /// Judges the accounts of the base, each against its own log.
    pub(super) fn of(accounts: &[Account]) -> Self {
        let mut found = Self::default();
        for account in accounts {
            match (account.fate, &account.new) {
                (Fate::Remeasured, _) => found.reproduced += 1,
                // What cannot be told of the base is not contradicted either.
                (Fate::CarriedOver, _) | (_, Err(_)) => {}
                (Fate::Replaced | Fate::New | Fate::Gone, Ok(_)) => {
                    found.failed.push(Unpredictable {
                        pcr: account.pcr,
                        event: account.what.clone(),
                        why: why(account),
                    });
                }
            }
        }
        found
    }

    /// How badly it went.
    pub(super) fn failures(&self) -> usize {
        self.failed.len()
    }
}

fn why(account: &Account) -> String {
    let source = account.source.as_deref().unwrap_or("the files");
    match account.fate {
        Fate::Gone => "the files of the boot that ran do not give this measurement".to_owned(),
        Fate::New => format!("{source} gives a measurement that the boot that ran did not make"),
        _ => format!("{source} is not what the boot that ran measured"),
    }
}
