//! GRUB's script language (`grub-core/script/`): text → words → commands.

pub(super) mod lexer;
mod parser;
#[cfg(test)]
mod tests;

use std::fmt;

pub(super) use parser::parse;

/// A piece of a word, and how GRUB treats it (`grub_script_arg_type_t`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Unquoted text, backslashes still in it.
    Text(String),
    /// Quoted text.
    Quoted(String),
    /// `$name` outside quotes: its value is split at blanks.
    Variable(String),
    /// `$name` inside double quotes.
    QuotedVariable(String),
    /// `$"…"`, which is translated.
    Translated(String),
}

/// One argument before expansion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Word(pub(super) Vec<Part>);

/// `{ … }` after a command: its text as it stands in the file, without the braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) text: String,
    /// Number of the first line in the file.
    pub(super) line: usize,
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Simple {
        words: Vec<Word>,
        block: Option<Block>,
        line: usize,
    },
    /// Each branch is a condition and what runs if it holds.
    If {
        branches: Vec<(Vec<Command>, Vec<Command>)>,
        otherwise: Vec<Command>,
        line: usize,
    },
    For {
        name: String,
        words: Vec<Word>,
        body: Vec<Command>,
        line: usize,
    },
    While {
        condition: Vec<Command>,
        body: Vec<Command>,
        until: bool,
        line: usize,
    },
}

/// What stands at the top of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    Run(Command),
    /// Defined while it is parsed; defining measures nothing.
    Function {
        name: String,
        body: Vec<Command>,
    },
}

/// Where a script stops being one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// Number of the line in the file.
    pub(super) line: usize,
    pub(super) expected: &'static str,
    pub(super) found: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} instead of {}", self.found, self.expected)
    }
}

/// The lines of a script as the parser sees them, with their numbers in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Script {
    pub(super) text: String,
    /// For each line of `text`, its number.
    pub(super) numbers: Vec<usize>,
}

impl Script {
    /// Most bytes of one script.
    pub(super) const MAX_LEN: usize = 4 << 20;

    /// A configuration file: carriage returns and lines that start with `#` are gone, even inside
    /// a block (`grub_file_getline`, `read_config_file_getline`).
    pub(super) fn of_file(text: &str) -> Self {
        let mut script = Self::default();
        let text = text.strip_suffix('\n').unwrap_or(text);
        for (index, line) in text.split('\n').enumerate() {
            if !line.trim_start_matches('\r').starts_with('#') {
                script.text.extend(line.chars().filter(|c| *c != '\r'));
                script.text.push('\n');
                script.numbers.push(index + 1);
            }
        }
        script
    }

    /// The body of a menu entry (`grub_script_execute_sourcecode`): every line counts.
    pub(super) fn of_body(text: &str, first_line: usize) -> Self {
        let numbers = text.split('\n').enumerate().map(|(index, _)| first_line + index).collect();
        Self { text: text.to_owned() + "\n", numbers }
    }

    /// The number in the file of line `index` of the text.
    pub(super) fn number(&self, index: usize) -> usize {
        self.numbers.get(index).or(self.numbers.last()).copied().unwrap_or(1)
    }
}
