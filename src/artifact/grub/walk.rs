//! Walks a boot that is to come.

use super::facts::Facts;
use super::files::BootFiles;
use super::machine::{Machine, Picked, Stop};
use super::menu::Entry;
use super::outcome::{EntryName, Unpredictable, Walk, Written};

/// Which entry is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The default, with nobody at the keyboard.
    Default,
    /// The entry at these positions, chosen by hand in the menu ([`EntryName::positions`]).
    Entry(Vec<usize>),
}

/// Most entries that are listed.
const MAX_ENTRIES: usize = 512;

/// Walks one boot.
pub fn walk(files: &BootFiles, facts: &Facts, choice: &Choice) -> Walk {
    let picked = match choice {
        Choice::Default => Picked::Default,
        Choice::Entry(positions) => Picked::ByHand(positions.clone()),
    };
    let mut machine = Machine::new(*files, facts, picked);
    let stop = match machine.start() {
        Ok(()) => Stop::Why("GRUB starts nothing".into()),
        Err(stop) => stop,
    };
    finish(machine, stop)
}

/// All entries of the menu, those of submenus included, in the menu's order. Not all of them start
/// a kernel: [`walk`] tells.
///
/// # Errors
/// [`Unpredictable`] where the menu cannot be told.
pub fn entries(files: &BootFiles, facts: &Facts) -> Result<Vec<EntryName>, Unpredictable> {
    let mut found = Vec::new();
    list(files, facts, &[], &mut found)?;
    Ok(found)
}

/// Lists the menu that is entered through `positions`.
fn list(
    files: &BootFiles,
    facts: &Facts,
    positions: &[usize],
    found: &mut Vec<EntryName>,
) -> Result<(), Unpredictable> {
    let mut machine = Machine::new(*files, facts, Picked::Listing(positions.to_vec()));
    match machine.start() {
        Err(Stop::Menu) => {}
        Err(Stop::Why(why)) if positions.is_empty() => return Err(machine.nothing_told(why)),
        _ => return Ok(()),
    }
    let menu: Vec<Entry> = machine.menus.last().cloned().unwrap_or_default();
    for (position, entry) in menu.iter().enumerate() {
        if found.len() >= MAX_ENTRIES {
            return Err(machine.nothing_told("the menu has more than 512 entries".into()));
        }
        if entry.submenu {
            let mut inner = positions.to_vec();
            inner.push(position);
            list(files, facts, &inner, found)?;
        } else {
            found.push(machine.entry_name(Some((position, entry))));
        }
    }
    Ok(())
}

/// What a walk gave.
pub(super) fn finish(machine: Machine, stop: Stop) -> Walk {
    let boot = match stop {
        Stop::Booted(boot) => Ok(*boot),
        Stop::Why(why) | Stop::Differs(why) => Err(machine.nothing_told(why)),
        Stop::Menu => Err(machine.nothing_told("the menu is shown".into())),
    };
    let written = machine.written.into_iter().map(|(file, bytes)| Written { file, bytes });
    Walk { events: machine.events, gaps: machine.gaps, boot, written: written.collect() }
}
