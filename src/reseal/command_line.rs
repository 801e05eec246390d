//! Command lines of boots, told apart by what the boots measure.

use super::change::is_same_command_line;
use crate::measurement::diff::{Note, Role};

/// The command line of a boot, as far as it is measured in a way of its own.
pub enum CommandLine<'a> {
    /// Its text, and how it was measured.
    Text(Role, &'a str),
    /// That of a unified kernel image: the first bytes of the digest.
    Section(&'a [u8]),
    /// Nothing is known of it.
    Unknown,
}

impl<'a> CommandLine<'a> {
    /// That of a boot with these events.
    pub fn of(notes: &'a [Note]) -> Self {
        let text = |role| notes.iter().find(|note| note.role == role && !note.text.is_empty());
        let section = |note: &&Note| note.role == Role::Section && note.text == ".cmdline";
        if let Some(note) = text(Role::CommandLine).or_else(|| text(Role::LoadOptions)) {
            return Self::Text(note.role, &note.text);
        }
        // The name is measured before the content.
        match notes.iter().rfind(section) {
            Some(note) => Self::Section(&note.digest),
            None => Self::Unknown,
        }
    }

    /// Whether both give the kernel the same words, whichever kernel and initrd they name.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(role, text), Self::Text(other, known)) => {
                role == other && is_same_command_line(text, known, 0)
            }
            // An expectation keeps less of each digest.
            (Self::Section(a), Self::Section(b)) => a.starts_with(b) || b.starts_with(a),
            (Self::Unknown, Self::Unknown) => true,
            _ => false,
        }
    }
}
