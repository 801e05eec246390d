//! Arguments, parsed by hand: a command line library would double the binary.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use vmseal::tpm::Tcti;

/// Where pins lie, in the initramfs as in the root.
const PINS: &str = "/etc/vmseal/pins.json";
/// One line for whoever asks, or errs.
pub const USAGE: &str = "usage: vmseal-boot unlock|latch [--pins FILE] [--tcti TCTI] \
    [--header FILE] [--signature FILE]... [--timeout SECONDS] [DEVICE NAME]...";
const TIMEOUT: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Open volumes: device and name of each.
    Unlock(Vec<(PathBuf, String)>),
    /// Extend PCR 15 if it is still zero.
    Latch,
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
    /// The TPM.
    pub tcti: Tcti,
    /// A detached header, for one volume.
    pub header: Option<PathBuf>,
    /// Files of signed PCR values, besides those of the system.
    pub signatures: Vec<PathBuf>,
    /// How long to wait for the TPM.
    pub timeout: Duration,
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
                Some("latch") => Command::Latch,
                Some("--help" | "-h") => Command::Help,
                Some(other) => return Err(format!("{other:?} is no command")),
                None => return Err("no command".into()),
            },
            pins: PINS.into(),
            tcti: Tcti::default(),
            header: None,
            signatures: vec![],
            timeout: TIMEOUT,
        };
        let mut operands = Vec::new();
        while let Some(word) = words.next().transpose()? {
            let mut value = || {
                let value = words.next().transpose()?;
                value.ok_or_else(|| format!("{word} needs a value"))
            };
            match word.as_str() {
                "--pins" => args.pins = value()?.into(),
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
        let Command::Unlock(volumes) = &mut self.command else {
            return match operands.as_slice() {
                [] => Ok(()),
                _ => Err("only unlock takes volumes".into()),
            };
        };
        let (pairs, rest) = operands.as_chunks::<2>();
        if pairs.is_empty() || !rest.is_empty() {
            return Err("a DEVICE and a NAME are needed for each volume".into());
        }
        volumes.extend(pairs.iter().map(|[device, name]| (device.into(), name.clone())));
        if self.header.is_some() && volumes.len() > 1 {
            return Err("--header goes with one volume".into());
        }
        Ok(())
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
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (line, problem) in [
            ("", "no command"),
            ("open", "\"open\" is no command"),
            ("unlock", "a DEVICE and a NAME are needed for each volume"),
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
