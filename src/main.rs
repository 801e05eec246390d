//! The `vmseal` command: parse, run, exit.

mod cli;
mod commands;

use std::process::ExitCode;

use vmseal::exit::Exit;

fn main() -> ExitCode {
    vmseal::ffi::quiet_tss2();
    if let Err(error) = vmseal::secret::forbid_core_dumps() {
        commands::complain(format_args!("cannot forbid core dumps: {error}"), None);
        return Exit::Internal.code().into();
    }
    let cli = match cli::Cli::from_arguments() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors: clap prints them to standard output.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.code().into();
        }
    };
    commands::run(&cli).code().into()
}
