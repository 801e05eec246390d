//! Arguments, parsed by hand: a command line library would double the binary.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vmseal::boot::{KernelLine, Machine};
use vmseal::tpm::{Connecting, Tcti, Tpm, TpmError};

use crate::ask::Asker;

/// Where pins lie, in the initramfs as in the root.
const PINS: &str = "/etc/vmseal/pins.json";
/// The volumes of the boot, as the initramfs hooks write them.
const CRYPTTAB: &str = "/etc/vmseal/crypttab";
/// One line for whoever asks, or errs.
pub const USAGE: &str = "usage: vmseal-boot unlock|latch|gate|close|check [--pins FILE] \
    [--crypttab FILE] [--ask PROGRAM] [--wait SECONDS] [--tcti TCTI] [--header FILE] \
    [--signature FILE]... [--timeout SECONDS] [DEVICE NAME]... [NAME]";
/// How often a TPM that the firmware shows is looked for.
const LOOK: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Open volumes: device and name of each, or all of the boot where there is none.
    Unlock(Vec<(PathBuf, String)>),
    /// Tell whether a stock unlocker may go on with the volume of this name.
    Check(String),
    /// Extend PCR 15 if it is still zero.
    Latch,
    /// The same, or nothing may follow.
    Gate,
    /// Close what nobody typed a passphrase for.
    Close,
    /// Print the usage.
    Help,
}

/// The arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub command: Command,
    /// The file of pins.
    pub pins: PathBuf,
    /// The volumes of the boot.
    pub crypttab: PathBuf,
    /// How passphrases are asked for; `None`: not at all.
    pub ask: Option<Asker>,
    /// How long missing devices are waited for.
    pub wait: Duration,
    /// What shows the machine: another root than `/` in tests.
    pub root: PathBuf,
    /// The TPM.
    pub tcti: Tcti,
    /// A detached header, for one volume.
    pub header: Option<PathBuf>,
    /// Files of signed PCR values, besides those of the system.
    pub signatures: Vec<PathBuf>,
    /// How long to wait for the TPM.
    pub timeout: Duration,
    /// Whether that was said: the kernel command line does not count then.
    timeout_given: bool,
}

impl Args {
    /// Parses what follows the program's name.
    ///
    /// # Errors
    /// A sentence about the first argument that is wrong.
    pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut words = words.map(|word| {
            word.into_string().map_err(|word| format!("{} is not UTF-8", word.display()))
        });
        let mut args = Self {
            command: match words.next().transpose()?.as_deref() {
                Some("unlock") => Command::Unlock(vec![]),
                Some("check") => Command::Check(String::new()),
                Some("latch") => Command::Latch,
                Some("gate") => Command::Gate,
                Some("close") => Command::Close,
                Some("--help" | "-h") => Command::Help,
                Some(other) => return Err(format!("{other:?} is no command")),
                None => return Err("no command".into()),
            },
            pins: PINS.into(),
            crypttab: CRYPTTAB.into(),
            ask: None,
            wait: Duration::ZERO,
            root: "/".into(),
            tcti: Tcti::default(),
            header: None,
            signatures: vec![],
            timeout: TIMEOUT,
            timeout_given: false,
        };
        let mut operands = Vec::new();
        while let Some(word) = words.next().transpose()? {
            let mut value = || {
                let value = words.next().transpose()?;
                value.ok_or_else(|| format!("{word} needs a value"))
            };
            match word.as_str() {
                "--pins" => args.pins = value()?.into(),
                "--crypttab" => args.crypttab = value()?.into(),
                "--root" => args.root = value()?.into(),
                "--ask" => args.ask = Some(value()?.as_str().into()),
                "--wait" => {
                    args.wait = value()?
                        .parse()
                        .ok()
                        .filter(|seconds| *seconds <= 3600)
                        .map(Duration::from_secs)
                        .ok_or("--wait takes 0 to 3600 seconds")?;
                }
                "--tcti" => {
                    args.tcti = value()?.parse().map_err(|error| format!("--tcti: {error}"))?;
                }
                "--signature" => args.signatures.push(value()?.into()),
                "--header" => args.header = Some(value()?.into()),
                "--timeout" => {
                    args.timeout = value()?
                        .parse()
                        .ok()
                        .filter(|seconds| (1..=3600).contains(seconds))
                        .map(Duration::from_secs)
                        .ok_or("--timeout takes 1 to 3600 seconds")?;
                    args.timeout_given = true;
                }
                option if option.starts_with('-') => {
                    return Err(format!("{option} is no option"));
                }
                _ => operands.push(word),
            }
        }
        args.take_operands(operands)?;
        Ok(args)
    }

    fn take_operands(&mut self, operands: Vec<String>) -> Result<(), String> {
        let volumes = match (&mut self.command, operands.as_slice()) {
            (Command::Unlock(volumes), _) => volumes,
            (Command::Check(name), [only]) => {
                name.clone_from(only);
                return Ok(());
            }
            (Command::Check(_), _) => return Err("check takes the NAME of one volume".into()),
            (_, []) => return Ok(()),
            _ => return Err("only unlock takes volumes".into()),
        };
        let (pairs, rest) = operands.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a DEVICE and a NAME are needed for each volume".into());
        }
        volumes.extend(pairs.iter().map(|[device, name]| (device.into(), name.clone())));
        if self.header.is_some() && volumes.len() != 1 {
            return Err("--header goes with one volume".into());
        }
        Ok(())
    }

    /// Takes what the kernel command line says, where the arguments do not.
    pub fn heed(&mut self, line: &KernelLine) {
        if let (Some(timeout), false) = (line.timeout, self.timeout_given) {
            self.timeout = timeout;
        }
    }

    /// Begins to connect to the TPM. One that the firmware shows and the kernel does not drive yet is
    /// waited for; `None` where there is none.
    ///
    /// # Errors
    /// [`TpmError::Absent`] and the like.
    pub fn connect(&self, machine: &Machine) -> Result<Option<Connecting>, TpmError> {
        let is_named = self.tcti != Tcti::default();
        if !is_named && !machine.shows_tpm() {
            return Ok(None);
        }
        let until = Instant::now() + self.timeout;
        loop {
            match Tpm::begin(&self.tcti, self.timeout) {
                Err(TpmError::Absent { .. }) if !is_named && Instant::now() < until => {
                    std::thread::sleep(LOOK);
                }
                outcome => return outcome.map(Some),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn volumes_come_in_pairs() {
        let args = parse("unlock /dev/vda3 root --timeout 5 /dev/vdb data --signature a").unwrap();
        let volumes = [("/dev/vda3", "root"), ("/dev/vdb", "data")];
        let volumes = volumes.map(|(device, name)| (device.into(), name.into())).to_vec();
        assert_eq!(args.command, Command::Unlock(volumes));
        assert_eq!(args.timeout, Duration::from_secs(5));
        assert_eq!(args.signatures, [PathBuf::from("a")]);
        assert_eq!(parse("latch").unwrap().command, Command::Latch);
        assert_eq!(parse("gate").unwrap().command, Command::Gate);
        assert_eq!(parse("close").unwrap().command, Command::Close);
        assert_eq!(parse("check root").unwrap().command, Command::Check("root".into()));
    }

    #[test]
    fn the_kernel_command_line_counts_where_the_arguments_say_nothing() {
        let line = KernelLine::parse("vmseal.timeout=7");
        let timeout = |arguments| {
            let mut args = parse(arguments).unwrap();
            args.heed(&line);
            args.timeout.as_secs()
        };
        assert_eq!(timeout("gate"), 7);
        assert_eq!(timeout("gate --timeout 5"), 5);
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (line, problem) in [
            ("", "no command"),
            ("open", "\"open\" is no command"),
            ("check", "check takes the NAME of one volume"),
            ("check a b", "check takes the NAME of one volume"),
            ("unlock --wait never", "--wait takes 0 to 3600 seconds"),
            ("unlock /dev/vda3", "a DEVICE and a NAME are needed for each volume"),
            ("unlock /dev/vda3 root --pins", "--pins needs a value"),
            ("unlock /dev/vda3 root --force", "--force is no option"),
            ("unlock --timeout 0 a b", "--timeout takes 1 to 3600 seconds"),
            ("unlock --header h a b c d", "--header goes with one volume"),
            ("latch root", "only unlock takes volumes"),
        ] {
            assert_eq!(parse(line).unwrap_err(), problem, "{line}");
        }
    }
}
