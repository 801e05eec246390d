//! Commands out of tokens (`grub-core/script/parser.y`).

use super::lexer::{Lexer, Placed, Token};
use super::{Block, Command, Script, Statement, SyntaxError, Word};

const RESERVED: [&str; 15] = [
    "case", "do", "done", "elif", "else", "esac", "fi", "for", "if", "in", "select", "then",
    "until", "while", "function",
];

/// Deepest nesting of blocks, conditions and loops.
const MAX_DEPTH: usize = 32;

/// Parses a whole script. GRUB parses and runs it statement by statement; the difference shows
/// only where a script has an error.
///
/// # Errors
/// [`SyntaxError`]. What stands before it, GRUB would have run.
pub(in crate::artifact::grub) fn parse(script: &Script) -> Result<Vec<Statement>, SyntaxError> {
    if script.text.len() > Script::MAX_LEN {
        return Err(SyntaxError {
            line: 1,
            expected: "4 MiB at most",
            found: format!("{} bytes", script.text.len()),
        });
    }
    let mut lexer = Lexer::new(script);
    let ahead = lexer.token()?;
    let mut parser = Parser { script, lexer, ahead, depth: 0 };
    let mut statements = Vec::new();
    loop {
        parser.skip_newlines()?;
        if parser.ahead.token == Token::End {
            return Ok(statements);
        }
        statements.push(if parser.at_word("function") {
            parser.function()?
        } else {
            Statement::Run(parser.command()?)
        });
        match parser.ahead.token {
            Token::NewLine | Token::Semicolon => drop(parser.take()?),
            Token::End => return Ok(statements),
            _ => return Err(parser.unexpected("the end of the command")),
        }
    }
}

struct Parser<'a> {
    script: &'a Script,
    lexer: Lexer<'a>,
    ahead: Placed,
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self) -> Result<Placed, SyntaxError> {
        let next = self.lexer.token()?;
        Ok(std::mem::replace(&mut self.ahead, next))
    }

    fn at_word(&self, wanted: &str) -> bool {
        matches!(&self.ahead.token, Token::Word(_, Some(name)) if name == wanted)
    }

    fn unexpected(&self, expected: &'static str) -> SyntaxError {
        let found = match &self.ahead.token {
            Token::End => "the end".to_owned(),
            Token::NewLine => "the end of the line".to_owned(),
            _ => {
                let text = self.script.text.get(self.ahead.start..self.ahead.end);
                text.unwrap_or_default().chars().take(40).collect()
            }
        };
        SyntaxError { line: self.ahead.line, expected, found }
    }

    fn expect(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        if !self.at_word(word) {
            return Err(self.unexpected(word));
        }
        self.take().map(drop)
    }

    fn skip_newlines(&mut self) -> Result<(), SyntaxError> {
        while self.ahead.token == Token::NewLine {
            self.take()?;
        }
        Ok(())
    }

    /// `;` or a new line, then any number of new lines; whether there was one.
    fn delimiters(&mut self) -> Result<bool, SyntaxError> {
        let found = matches!(self.ahead.token, Token::NewLine | Token::Semicolon);
        if found {
            self.take()?;
            self.skip_newlines()?;
        }
        Ok(found)
    }

    /// At least one command, and the delimiters after the last; whether there were any.
    fn commands(&mut self, ends: &[&str]) -> Result<(Vec<Command>, bool), SyntaxError> {
        self.skip_newlines()?;
        let mut commands = vec![self.command()?];
        loop {
            let delimited = self.delimiters()?;
            let ended =
                self.ahead.token == Token::CloseBrace || ends.iter().any(|w| self.at_word(w));
            if ended || !delimited {
                return Ok((commands, delimited));
            }
            commands.push(self.command()?);
        }
    }

    /// Commands that must be followed by a delimiter.
    fn list(&mut self, ends: &[&str]) -> Result<Vec<Command>, SyntaxError> {
        let (commands, delimited) = self.commands(ends)?;
        if delimited { Ok(commands) } else { Err(self.unexpected("; or a new line")) }
    }

    fn command(&mut self) -> Result<Command, SyntaxError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(SyntaxError {
                line: self.ahead.line,
                expected: "nesting of 32 at most",
                found: "more".to_owned(),
            });
        }
        let command = self.command_at_depth();
        self.depth -= 1;
        command
    }

    fn command_at_depth(&mut self) -> Result<Command, SyntaxError> {
        let line = self.ahead.line;
        let name = match &self.ahead.token {
            Token::Word(_, name) => name.clone().unwrap_or_default(),
            _ => return Err(self.unexpected("a command")),
        };
        match name.as_str() {
            "if" => {
                self.take()?;
                self.condition(line)
            }
            "for" => self.for_loop(line),
            "while" | "until" => {
                self.take()?;
                let condition = self.list(&["do"])?;
                self.expect("do")?;
                let body = self.list(&["done"])?;
                self.expect("done")?;
                Ok(Command::While { condition, body, until: name == "until", line })
            }
            "[[" | "]]" => Err(self.unexpected("a command")),
            word if RESERVED.contains(&word) => Err(self.unexpected("a command")),
            _ => self.simple(line),
        }
    }

    /// After `if`, up to `fi`.
    fn condition(&mut self, line: usize) -> Result<Command, SyntaxError> {
        let mut branches = Vec::new();
        loop {
            let condition = self.list(&["then"])?;
            self.expect("then")?;
            branches.push((condition, self.list(&["else", "elif", "fi"])?));
            if !self.at_word("elif") {
                break;
            }
            self.take()?;
        }
        let mut otherwise = Vec::new();
        if self.at_word("else") {
            self.take()?;
            otherwise = self.list(&["fi"])?;
        }
        self.expect("fi")?;
        Ok(Command::If { branches, otherwise, line })
    }

    fn for_loop(&mut self, line: usize) -> Result<Command, SyntaxError> {
        self.take()?;
        let name = self.name()?;
        self.expect("in")?;
        let words = self.words()?;
        if !self.delimiters()? {
            return Err(self.unexpected("; or a new line"));
        }
        self.expect("do")?;
        let body = self.list(&["done"])?;
        self.expect("done")?;
        Ok(Command::For { name, words, body, line })
    }

    fn name(&mut self) -> Result<String, SyntaxError> {
        match &self.ahead.token {
            Token::Word(_, Some(name)) if !RESERVED.contains(&name.as_str()) => {
                let name = name.clone();
                self.take()?;
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    /// Arguments: reserved words are words here.
    fn words(&mut self) -> Result<Vec<Word>, SyntaxError> {
        let mut words = Vec::new();
        while let Token::Word(word, name) = &self.ahead.token {
            if matches!(name.as_deref(), Some("[[" | "]]")) {
                return Err(self.unexpected("a word"));
            }
            words.push(word.clone());
            self.take()?;
        }
        Ok(words)
    }

    fn simple(&mut self, line: usize) -> Result<Command, SyntaxError> {
        let words = self.words()?;
        let block = if self.ahead.token == Token::OpenBrace { Some(self.block()?) } else { None };
        Ok(Command::Simple { words, block, line })
    }

    fn block(&mut self) -> Result<Block, SyntaxError> {
        let open = self.take()?;
        self.commands(&[])?;
        if self.ahead.token != Token::CloseBrace {
            return Err(self.unexpected("}"));
        }
        let close = self.take()?;
        let text = self.script.text.get(open.end..close.start).unwrap_or_default().to_owned();
        Ok(Block { text, line: open.line })
    }

    fn function(&mut self) -> Result<Statement, SyntaxError> {
        self.take()?;
        let name = self.name()?;
        self.skip_newlines()?;
        if self.ahead.token != Token::OpenBrace {
            return Err(self.unexpected("{"));
        }
        self.take()?;
        let body = self.list(&[])?;
        if self.ahead.token != Token::CloseBrace {
            return Err(self.unexpected("}"));
        }
        self.take()?;
        Ok(Statement::Function { name, body })
    }
}
