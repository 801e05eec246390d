//! Words and signs (`grub-core/script/yylex.l`).

use super::{Part, Script, SyntaxError, Word};

/// What the lexer gives to the parser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::artifact::grub) enum Token {
    NewLine,
    Semicolon,
    OpenBrace,
    CloseBrace,
    /// A word, and its text where it is a name or reserved word.
    Word(Word, Option<String>),
    End,
}

/// A token, where it stands, and in which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::artifact::grub) struct Placed {
    pub(in crate::artifact::grub) token: Token,
    pub(in crate::artifact::grub) start: usize,
    pub(in crate::artifact::grub) end: usize,
    pub(in crate::artifact::grub) line: usize,
}

/// Cuts a script into tokens.
pub(in crate::artifact::grub) struct Lexer<'a> {
    script: &'a Script,
    at: usize,
    line: usize,
}

impl<'a> Lexer<'a> {
    pub(in crate::artifact::grub) fn new(script: &'a Script) -> Self {
        Self { script, at: 0, line: 0 }
    }

    fn peek(&self) -> Option<char> {
        self.script.text.get(self.at..)?.chars().next()
    }

    fn next_char(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        self.line += usize::from(next == '\n');
        Some(next)
    }

    fn error(&self, expected: &'static str, found: &str) -> SyntaxError {
        SyntaxError { line: self.script.number(self.line), expected, found: found.to_owned() }
    }

    /// The next token.
    ///
    /// # Errors
    /// [`SyntaxError`] at a sign that the grammar has no use for, or an unclosed quote.
    pub(in crate::artifact::grub) fn token(&mut self) -> Result<Placed, SyntaxError> {
        while let Some(next) = self.peek() {
            match next {
                ' ' | '\t' => drop(self.next_char()),
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.next_char();
                    }
                }
                _ => break,
            }
        }
        let (start, line) = (self.at, self.script.number(self.line));
        let token = match self.peek() {
            None => Token::End,
            Some('\n') => self.sign(Token::NewLine),
            Some(';') => {
                let token = self.sign(Token::Semicolon);
                if self.peek() == Some(';') {
                    return Err(self.error("a command", ";;"));
                }
                token
            }
            Some('{') => self.sign(Token::OpenBrace),
            Some('}') => self.sign(Token::CloseBrace),
            Some(c @ ('|' | '&' | '<' | '>')) => {
                return Err(self.error("a command", c.encode_utf8(&mut [0; 4])));
            }
            Some(_) => {
                let word = self.word()?;
                let raw = self.script.text.get(start..self.at).unwrap_or_default();
                Token::Word(word, is_name(raw).then(|| raw.to_owned()))
            }
        };
        Ok(Placed { token, start, end: self.at, line })
    }

    fn sign(&mut self, token: Token) -> Token {
        self.next_char();
        token
    }

    fn word(&mut self) -> Result<Word, SyntaxError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        while let Some(next) = self.peek() {
            if let '{' | '}' | '|' | '&' | ';' | '<' | '>' | ' ' | '\t' | '\n' = next {
                break;
            }
            self.next_char();
            match next {
                '\\' => match self.next_char() {
                    Some('\n') => {}
                    Some(c) => text.extend(['\\', c]),
                    None => return Err(self.error("a character after \\", "the end")),
                },
                '"' | '\'' | '$' => {
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    match next {
                        '"' => self.double_quoted(&mut parts)?,
                        '\'' => parts.push(Part::Quoted(self.single_quoted()?)),
                        _ if self.peek() == Some('"') => {
                            self.next_char();
                            parts.push(Part::Translated(self.translated()?));
                        }
                        _ => parts.push(Part::Variable(self.variable()?)),
                    }
                }
                _ => text.push(next),
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Word(parts))
    }

    fn single_quoted(&mut self) -> Result<String, SyntaxError> {
        let mut text = String::new();
        loop {
            match self.next_char() {
                Some('\'') => return Ok(text),
                Some(c) => text.push(c),
                None => return Err(self.error("a closing '", "the end")),
            }
        }
    }

    fn double_quoted(&mut self, parts: &mut Vec<Part>) -> Result<(), SyntaxError> {
        let mut text = String::new();
        loop {
            match self.next_char() {
                Some('"') => {
                    parts.push(Part::Quoted(text));
                    return Ok(());
                }
                Some('\\') => match self.peek() {
                    Some(c @ ('$' | '\\' | '"')) => {
                        self.next_char();
                        text.push(c);
                    }
                    Some('\n') => drop(self.next_char()),
                    _ => text.push('\\'),
                },
                Some('$') => {
                    parts.push(Part::Quoted(std::mem::take(&mut text)));
                    parts.push(Part::QuotedVariable(self.variable()?));
                }
                Some(c) => text.push(c),
                None => return Err(self.error("a closing \"", "the end")),
            }
        }
    }

    fn translated(&mut self) -> Result<String, SyntaxError> {
        let mut text = String::new();
        loop {
            match self.next_char() {
                Some('"') => return Ok(text),
                Some('\\') => match self.next_char() {
                    Some('"') => text.push('"'),
                    Some('\n') => {}
                    Some(c) => text.extend(['\\', c]),
                    None => return Err(self.error("a closing \"", "the end")),
                },
                Some(c) => text.push(c),
                None => return Err(self.error("a closing \"", "the end")),
            }
        }
    }

    /// What follows `$`: a name, digits, one of `?#*@`, or one of these in braces.
    fn variable(&mut self) -> Result<String, SyntaxError> {
        let braced = self.peek() == Some('{');
        if braced {
            self.next_char();
        }
        let mut name = String::new();
        match self.peek() {
            Some(c @ ('?' | '#' | '*' | '@')) => {
                self.next_char();
                name.push(c);
            }
            Some(first) if first.is_ascii_alphanumeric() || first == '_' => {
                let digits = first.is_ascii_digit();
                while let Some(c) = self.peek() {
                    let more =
                        c.is_ascii_digit() || !digits && (c.is_ascii_alphabetic() || c == '_');
                    if !more {
                        break;
                    }
                    self.next_char();
                    name.push(c);
                }
            }
            _ => return Err(self.error("a variable", "a lone $")),
        }
        if braced && self.next_char() != Some('}') {
            return Err(self.error("a closing }", "another character"));
        }
        Ok(name)
    }
}

fn is_name(text: &str) -> bool {
    let reserved_signs = matches!(text, "[[" | "]]");
    let mut characters = text.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    reserved_signs || first && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}
