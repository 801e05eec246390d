//! One file a verb: gather, call the library, print.

mod account;
mod adopt;
mod attach;
mod authority;
mod boots;
mod built;
mod carriers;
mod confirm;
mod enroll;
mod eventlog;
mod explain;
mod forecast;
mod generate;
mod hint;
mod inputs;
mod journal;
mod keeper;
mod motd;
mod next_boot;
mod offline;
mod predict;
mod rebuild;
mod reference_boot;
mod reseal;
mod revoke;
mod seal_point;
mod signer;
mod status;
mod template;
mod terminal;
mod unlock;

pub use terminal::complain;

use anyhow::Result;
use vmseal::Error;
use vmseal::exit::Exit;

use crate::cli::{Cli, Command};
use terminal::Talk;

/// Runs the command and tells how it ended, with the remedy where one is known.
pub fn run(cli: &Cli) -> Exit {
    let talk = Talk::from(&cli.global);
    let done = match &cli.command {
        Command::Enroll(args) if args.attach_to_root => attach::run(&cli.global, args, talk),
        Command::Enroll(args) if args.srk_public.is_some() => offline::run(&cli.global, args, talk),
        Command::Enroll(args) => enroll::run(&cli.global, args, talk),
        Command::Adopt(args) => adopt::run(&cli.global, args, talk),
        Command::Unlock(args) => unlock::run(&cli.global, args, talk),
        Command::Status(args) => status::run(&cli.global, args, talk),
        Command::Revoke(args) => revoke::run(&cli.global, args, talk),
        Command::Authority(args) => authority::run(&cli.global, args, talk),
        Command::Eventlog(args) => eventlog::run(&cli.global, args, talk),
        Command::Explain(args) => explain::run(&cli.global, args, talk),
        Command::Predict(args) => predict::run(&cli.global, args, talk),
        Command::Built(args) => built::run(&cli.global, args, talk),
        Command::Confirm(args) => confirm::run(&cli.global, args, talk),
        Command::ReferenceBoot(args) => reference_boot::run(&cli.global, args, talk),
        Command::Reseal(args) => reseal::run(&cli.global, args, talk),
        Command::Template(args) => template::run(&cli.global, args, talk),
        Command::Forecast => forecast::run(),
        Command::Journal(args) => journal::run(&cli.global, args, talk),
        Command::Generate(args) => generate::run(args),
    };
    match done {
        Ok(()) => Exit::Done,
        Err(error) => report(&error),
    }
}

fn report(error: &anyhow::Error) -> Exit {
    match error.downcast_ref::<Error>() {
        Some(known) => {
            complain(format_args!("{error:#}"), hint::hint(known));
            known.exit()
        }
        None => {
            complain(format_args!("{error:#}"), None);
            Exit::Internal
        }
    }
}

/// What every command returns: [`Error`] where the exit code has a meaning, anything else is 1.
type Done = Result<()>;
