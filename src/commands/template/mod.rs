//! `vmseal template`: on a host, makes templates, and looks whether they are sound.

mod add;
mod check;

use super::Done;
use super::terminal::Talk;
use crate::cli::{Global, Template, TemplateCommand};

/// Looks at templates.
pub fn run(global: &Global, args: &Template, talk: Talk) -> Done {
    match &args.command {
        TemplateCommand::Add(args) => add::run(global, args, talk),
        TemplateCommand::Check(args) => check::run(global, args, talk),
    }
}
