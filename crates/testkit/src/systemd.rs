//! systemd as a peer: what its tools enrol and open, on the same image and TPM.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::image::{Image, PASSPHRASE};
use crate::machine::project;
use crate::run::{Ran, run};
use crate::swtpm::Swtpm;
use crate::virtual_boot::Recording;

/// An installed systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Systemd {
    /// The host's own: 252 on Debian 12.
    Host,
    /// 254 of Debian 12's backports, in the tree that `tests/env/tree` makes.
    Backports,
    /// 257 of Debian 13, in such a tree.
    Trixie,
    /// 262 or later, of Debian testing, in such a tree.
    Forky,
}

/// The PIN that [`Systemd::enroll`] gives where one is wanted.
pub const PIN: &str = "correct pin";

impl Systemd {
    /// A command of this systemd.
    pub fn command(self, program: &str) -> Command {
        let tree = match self {
            Self::Host => return Command::new(program),
            Self::Backports => "backports",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        };
        let mut command = Command::new(project().join("tests/env/in-tree"));
        command.args([tree, program]);
        command
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
        let device = format!("--tpm2-device={}", tpm.tcti());
        let ran = self.enroll_by(&device, image, options);
        tpm.flush();
        ran
    }

    /// The same without a TPM: seals to the storage root key whose `TPM2B_PUBLIC` is in `srk`
    /// (255 or later).
    pub fn enroll_offline(self, srk: &Path, image: &Image, options: &[&str]) -> Ran {
        self.enroll_by(&format!("--tpm2-device-key={}", srk.display()), image, options)
    }

    fn enroll_by(self, device: &str, image: &Image, options: &[&str]) -> Ran {
        let mut command = self.command("systemd-cryptenroll");
        command.env("PASSWORD", PASSPHRASE).env("NEWPIN", PIN);
        run(command.arg(device).args(options).arg(image.path()))
    }

    /// Has systemd-pcrlock (255 or later) make a policy for PCR 4 and 5 as in `log`, and for PCR 4
    /// extended once more with `0x01…` ([`Swtpm::extend`]), in an NV index and in the file `policy`.
    pub fn make_pcrlock(self, tpm: &Swtpm, log: &Path, policy: &Path) -> Ran {
        let boot = Recording::from_event_log(log);
        let folder = TempDir::with_prefix("pcrlock-").unwrap();
        let [first, second] = [4, 5].map(|pcr| boot.digests("sha256", pcr));
        let more = [first.clone(), vec!["01".repeat(32)]].concat();
        let component = |name: &str, pcr: u32, digests: &[String]| {
            let record = |digest: &String| json!({ "pcr": pcr, "digests": [{ "hashAlg": "sha256", "digest": digest }] });
            let records: Vec<_> = digests.iter().map(record).collect();
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, json!({ "records": records }).to_string()).unwrap();
        };
        component("510-first.pcrlock.d/once.pcrlock", 4, &first);
        component("510-first.pcrlock.d/more.pcrlock", 4, &more);
        component("520-second.pcrlock", 5, &second);
        let mut command = self.command("/usr/lib/systemd/systemd-pcrlock");
        command.env("SYSTEMD_TPM2_DEVICE", tpm.tcti());
        command.env("SYSTEMD_MEASURE_LOG_FIRMWARE", log);
        command.env("SYSTEMD_MEASURE_LOG_USERSPACE", "/dev/null");
        command.args(["make-policy", "--pcr=4", "--pcr=5", "--recovery-pin=hide", "--force"]);
        command.arg(format!("--components={}", folder.path().display()));
        let ran = run(command.arg(format!("--policy={}", policy.display())));
        tpm.flush();
        ran
    }

    /// Whether this systemd (256 or later) opens `image` by its TPM token: it enrols a recovery key
    /// into a copy, for which it must open a keyslot, and no other way is given to it.
    pub fn opens(self, tpm: &Swtpm, image: &Image) -> Ran {
        let ran = run(&mut self.unlock_command(&tpm.tcti(), &image.copy()));
        tpm.flush();
        ran
    }

    /// The same for any systemd since 254, with a signature file: `systemd-cryptsetup attach` gets as
    /// far as the activation, for which this kernel lacks device-mapper.
    pub fn attaches(self, tpm: &Swtpm, image: &Image, signature: &Path) -> bool {
        // A comma would end the option: the host is the TCTI's default.
        let options = format!(
            "tpm2-device=swtpm:port={},tpm2-signature={},headless=true",
            tpm.port(),
            signature.display()
        );
        let mut command = self.command("env");
        command.arg(format!("PIN={PIN}")).arg("/lib/systemd/systemd-cryptsetup");
        command.args(["attach", "vmseal-test"]).arg(image.path()).args(["-", &options]);
        let ran = run(&mut command);
        tpm.flush();
        ran.stderr.contains("Failed to activate with TPM2 acquired key: Operation not supported")
    }

    /// The command of [`Systemd::opens`], on the image itself.
    pub fn unlock_command(self, tcti: &str, image: &Image) -> Command {
        let mut command = self.command("systemd-cryptenroll");
        command.env("PASSWORD", "").env("PIN", PIN);
        command.arg(format!("--unlock-tpm2-device={tcti}")).arg("--recovery-key");
        command.arg(image.path());
        command
    }
}
