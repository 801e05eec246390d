//! `vmseal template`: on a host, makes and lists templates, and looks whether they are sound.

mod add;
mod check;
mod list;

use std::fs::File;
use std::io::{Read, stdin};
use std::path::Path;

use vmseal::Error;
use vmseal::template::TemplateError;
use vmseal::template::import::ImportError;

use super::Done;
use super::terminal::Talk;
use crate::cli::{Global, Template, TemplateCommand};

/// Looks at templates.
pub fn run(global: &Global, args: &Template, talk: Talk) -> Done {
    match &args.command {
        TemplateCommand::Add(args) => add::run(global, args, talk),
        TemplateCommand::Check(args) => check::run(global, args, talk),
        TemplateCommand::List => list::run(global, talk),
    }
}

/// The text of a file, or of standard input.
fn read(path: &Path, limit: usize) -> Result<String, Error> {
    let refused = |error: std::io::Error| unusable(path, error.to_string());
    let mut bytes = Vec::new();
    let most = limit as u64 + 1;
    match path == Path::new("-") {
        true => stdin().lock().take(most).read_to_end(&mut bytes),
        false => File::open(path).map_err(refused)?.take(most).read_to_end(&mut bytes),
    }
    .map_err(refused)?;
    if bytes.len() > limit {
        let (path, error) = (path.to_owned(), ImportError::TooLong { limit });
        return Err(TemplateError::Import { path, error }.into());
    }
    String::from_utf8(bytes).map_err(|_| unusable(path, "it is not text".to_owned()))
}

fn unusable(path: &Path, cause: String) -> Error {
    Error::Artifact { path: path.to_owned(), cause }
}
