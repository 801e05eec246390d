//! systemd as a peer: what its tools enrol and open, on the same image and TPM.

use std::process::Command;

use crate::image::{Image, PASSPHRASE};
use crate::machine::project;
use crate::run::{Ran, run};
use crate::swtpm::Swtpm;

/// An installed systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Systemd {
    /// The host's own: 252 on Debian 12.
    Host,
    /// 257, in the Debian 13 folder that `tests/env/trixie` makes.
    Trixie,
}

impl Systemd {
    /// A command of this systemd.
    pub fn command(self, program: &str) -> Command {
        match self {
            Self::Host => Command::new(program),
            Self::Trixie => {
                let mut command = Command::new(project().join("tests/env/in-trixie"));
                command.arg(program);
                command
            }
        }
    }

    /// The major version.
    pub fn version(self) -> u32 {
        let ran = run(self.command("systemd-cryptenroll").arg("--version")).ok();
        ran.stdout.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a version")
    }

    /// `systemd-cryptenroll --tpm2-device=… OPTIONS IMAGE`: adds a keyslot and a token.
    ///
    /// Clears what 252 leaves loaded in the TPM, as a resource manager would.
    pub fn enroll(self, tpm: &Swtpm, image: &Image, options: &[&str]) -> Ran {
        let mut command = self.command("systemd-cryptenroll");
        command.env("PASSWORD", PASSPHRASE);
        command.arg(format!("--tpm2-device={}", tpm.tcti())).args(options).arg(image.path());
        let ran = run(&mut command);
        tpm.flush();
        ran
    }

    /// Whether this systemd (254 or later) opens `image` by its TPM token: it enrols a recovery key
    /// into a copy, for which it must open a keyslot, and no other way is given to it.
    pub fn opens(self, tpm: &Swtpm, image: &Image) -> Ran {
        let ran = run(&mut self.unlock_command(&tpm.tcti(), &image.copy()));
        tpm.flush();
        ran
    }

    /// The command of [`Systemd::opens`], on the image itself.
    pub fn unlock_command(self, tcti: &str, image: &Image) -> Command {
        let mut command = self.command("systemd-cryptenroll");
        command.env("PASSWORD", "");
        command.arg(format!("--unlock-tpm2-device={tcti}")).arg("--recovery-key");
        command.arg(image.path());
        command
    }
}
