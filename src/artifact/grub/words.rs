//! Words with their variables put in (`grub_script_arglist_to_argv`).

use super::environment::Value;
use super::machine::{Machine, Status, Stop};
use super::script::{Block, Part, Word};

/// Longest argument that is made.
const MAX_ARGUMENT: usize = 4 << 20;
/// Most arguments of one command.
const MAX_ARGUMENTS: usize = 4096;

/// Arguments as GRUB collects them, wildcards and backslashes still escaped.
#[derive(Default)]
struct Arguments(Vec<Option<String>>);

impl Arguments {
    /// `grub_script_argv_next`: an argument that got no text is used again.
    fn next(&mut self) {
        if !matches!(self.0.last(), Some(None)) {
            self.0.push(None);
        }
    }

    fn append(&mut self, text: &str) -> Result<(), Stop> {
        if self.0.len() > MAX_ARGUMENTS {
            return Err(Stop::Why("a command has more than 4096 arguments".into()));
        }
        if let Some(last) = self.0.last_mut() {
            let argument = last.get_or_insert_default();
            argument.push_str(text);
            if argument.len() > MAX_ARGUMENT {
                return Err(Stop::Why("an argument is longer than 4 MiB".into()));
            }
        }
        Ok(())
    }

    /// A value outside quotes: split at blanks, its wildcards alive (`argv_split_append`).
    fn append_split(&mut self, value: &str) -> Result<(), Stop> {
        for (index, piece) in value.split_ascii_whitespace().enumerate() {
            if index > 0 {
                self.next();
            }
            self.append(&half_escaped(piece))?;
        }
        Ok(())
    }
}

impl Machine<'_> {
    /// The arguments of a command, its name first.
    pub(super) fn expand(
        &mut self,
        words: &[Word],
        block: Option<&Block>,
    ) -> Result<Vec<String>, Stop> {
        let mut arguments = Arguments::default();
        for word in words {
            arguments.next();
            for part in &word.0 {
                match part {
                    Part::Text(text) => arguments.append(text)?,
                    Part::Quoted(text) => arguments.append(&escaped(text))?,
                    Part::Translated(text) => {
                        if self.translated || text.contains(['$', '\\']) {
                            return Err(Stop::Why("translated text is not modelled".into()));
                        }
                        arguments.append(&escaped(text))?;
                    }
                    Part::Variable(name) => self.append_variable(&mut arguments, name, false)?,
                    Part::QuotedVariable(name) => {
                        self.append_variable(&mut arguments, name, true)?;
                    }
                }
            }
        }
        if let Some(block) = block {
            arguments.next();
            arguments.append(&format!("{{{}}}", escaped(&block.text)))?;
        }
        arguments.0.into_iter().flatten().map(|argument| self.finished(&argument)).collect()
    }

    fn append_variable(
        &mut self,
        arguments: &mut Arguments,
        name: &str,
        quoted: bool,
    ) -> Result<(), Stop> {
        let parameters = self.scope.clone();
        let count = parameters.as_ref().map_or(0, Vec::len);
        let values = match name {
            "@" | "*" => parameters.unwrap_or_default(),
            "#" if parameters.is_some() => vec![count.to_string()],
            "#" => Vec::new(),
            _ if name.starts_with(|c: char| c.is_ascii_digit()) => {
                let number: usize = name.parse().unwrap_or(usize::MAX);
                let parameters = parameters.unwrap_or_default();
                number.checked_sub(1).and_then(|i| parameters.get(i)).cloned().into_iter().collect()
            }
            _ => self.value(name)?.into_iter().collect(),
        };
        for (index, value) in values.iter().enumerate() {
            match (index > 0, quoted) {
                (true, true) if name == "*" => arguments.append(" ")?,
                (true, _) => arguments.next(),
                _ => {}
            }
            // An empty variable gives nothing; an empty parameter gives an empty argument.
            let special =
                name.starts_with(|c: char| c.is_ascii_digit()) || matches!(name, "@" | "*");
            match quoted {
                true if special || !value.is_empty() => arguments.append(&escaped(value))?,
                true => {}
                false => arguments.append_split(value)?,
            }
        }
        Ok(())
    }

    /// A variable's value, `$?` included; `None` where it is not set.
    fn value(&mut self, name: &str) -> Result<Option<String>, Stop> {
        if name == "?" {
            let status = self.status.clone();
            return match (&status, self.succeeded(&status)?) {
                (Status::Error, _) => Err(Stop::Why("the number of an error in $?".into())),
                (_, true) => Ok(Some("0".into())),
                (_, false) => Ok(Some("1".into())),
            };
        }
        match self.environment.get(name) {
            None => Ok(None),
            Some(Value::Known(text)) => Ok(Some(text.clone())),
            Some(Value::Unknown(why)) => Err(Stop::Why(format!("${name}: {why}"))),
        }
    }

    fn finished(&mut self, argument: &str) -> Result<String, Stop> {
        if argument.starts_with(['(', '/']) && has_wildcard(argument) {
            return Err(Stop::Why(format!("the wildcard {argument}")));
        }
        // Red Hat's GRUB lets \xHH through.
        let hex = has_hex(argument) && self.keeps_hex()?;
        Ok(unescaped(argument, hex))
    }

    /// Whether this GRUB keeps `\xHH` as it is.
    pub(super) fn keeps_hex(&mut self) -> Result<bool, Stop> {
        self.ask_whether("GRUB keeps \\xHH", false)
            .ok_or_else(|| Stop::Why("nothing tells how this GRUB treats \\xHH".into()))
    }
}

/// `wildcard_escape`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '\\' | '?') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// What a variable outside quotes goes through: wildcards stay alive, backslashes do not escape.
fn half_escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '\\' {
            out.push('\\');
            if matches!(rest.peek(), Some('?' | '*')) {
                out.push('\\');
            }
        }
        out.push(c);
    }
    out
}

/// Whether an argument has `\xHH` whose backslash is not escaped.
fn has_hex(argument: &str) -> bool {
    let mut rest = argument.char_indices();
    while let Some((at, c)) = rest.next() {
        if c == '\\' {
            if is_hex(argument, at) {
                return true;
            }
            rest.next();
        }
    }
    false
}

/// Whether `\xHH` stands at `at`.
pub(super) fn is_hex(text: &str, at: usize) -> bool {
    let digits = text.as_bytes().get(at + 2..at + 4);
    text.as_bytes().get(at..at + 2) == Some(b"\\x")
        && digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

fn has_wildcard(argument: &str) -> bool {
    let mut rest = argument.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => drop(rest.next()),
            '*' | '?' => return true,
            _ => {}
        }
    }
    false
}

/// `wildcard_unescape`.
fn unescaped(argument: &str, keeps_hex: bool) -> String {
    let mut out = String::with_capacity(argument.len());
    let mut rest = argument.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' if keeps_hex && is_hex(argument, at) => out.push('\\'),
            '\\' => out.extend(rest.next().map(|(_, c)| c)),
            _ => out.push(c),
        }
    }
    out
}
