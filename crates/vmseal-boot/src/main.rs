//! The boot step: opens the sealed volumes of this boot, then latches. No command line library, no
//! configuration, no network.
//!
//! ```text
//! unlock: volumes → pin check → TPM, else passphrase → open → latch      unlock/, ask.rs
//! latch, gate, close, check: nothing may be released, read or opened after this     bars.rs
//! ```

mod args;
mod ask;
mod bars;
mod say;
mod unlock;
mod volumes;

use std::fs::{self, File};
use std::io::Write;
use std::process::ExitCode;

use args::{Args, Command};
use rustix::fs::FlockOperation;
use say::say;
use vmseal::boot::{BOOT_REPORT, Machine};
use vmseal::exit::Exit;

fn main() -> ExitCode {
    vmseal::ffi::quiet_tss2();
    // Without it a crash could leave a key on the disk: better to open nothing.
    if let Err(error) = vmseal::secret::forbid_core_dumps() {
        say(format_args!("cannot forbid core dumps: {error}"));
        return Exit::Internal.code().into();
    }
    let mut args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(problem) => {
            say(problem);
            say(args::USAGE);
            return Exit::Usage.code().into();
        }
    };
    let machine = Machine::below(&args.root);
    args.heed(&machine.kernel_line());
    match &args.command {
        Command::Help => {
            let _ = writeln!(std::io::stdout(), "{}", args::USAGE);
            Exit::Done
        }
        Command::Latch => bars::latch(&args, &machine),
        Command::Gate => bars::gate(&args, &machine),
        Command::Close => bars::close(&args, &machine),
        Command::Check(name) => bars::check(&args, &machine, name),
        Command::Unlock(_) => {
            let _lock = lock(&machine);
            let (exit, volumes) = unlock::Pass::new(&args, &machine).run();
            for (name, exit) in volumes {
                let _ = writeln!(std::io::stdout(), "{} {name}", exit.code());
            }
            exit
        }
    }
    .code()
    .into()
}

/// Waits for another pass to end. Without the folder there is none to wait for.
fn lock(machine: &Machine) -> Option<File> {
    let path = machine.root().join(BOOT_REPORT).with_file_name("lock");
    fs::create_dir_all(path.parent()?).ok()?;
    let file = File::options().create(true).append(true).open(path).ok()?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).ok()?;
    Some(file)
}
