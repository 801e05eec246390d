//! `vmseal generate`: completion scripts.

use std::io::stdout;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Done;
use crate::cli::{Cli, Generate, Generated};

/// Prints what was asked for.
pub fn run(args: &Generate) -> Done {
    let shell = match args.what {
        Generated::Bash => Shell::Bash,
        Generated::Fish => Shell::Fish,
        Generated::Zsh => Shell::Zsh,
    };
    clap_complete::generate(shell, &mut Cli::command(), "vmseal", &mut stdout());
    Ok(())
}
