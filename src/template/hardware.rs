//! What a template's machines are made of, as far as a reference boot needs to know: `[machine]`.

use std::path::PathBuf;

use serde::Deserialize;

/// Most options of QEMU that a template adds, and the longest of them.
const MAX_OPTIONS: usize = 64;
const MAX_OPTION: usize = 4096;

/// What a machine is made of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// QEMU.
    #[serde(default = "default_qemu")]
    pub qemu: PathBuf,
    /// QEMU's name for the kind of machine.
    #[serde(default = "default_kind", rename = "type")]
    pub kind: String,
    /// The firmware's code.
    pub firmware: Option<PathBuf>,
    /// Whether the firmware guards its variables by SMM, as Secure Boot needs.
    #[serde(default)]
    pub secure_boot: bool,
    /// How the machine sees its TPM.
    #[serde(default)]
    pub tpm: TpmInterface,
    /// QEMU's name for the processor, where that matters.
    pub cpu: Option<String>,
    /// Further options of QEMU, word by word.
    #[serde(default)]
    pub options: Vec<String>,
}

/// How a machine sees its TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TpmInterface {
    /// Command response buffer.
    #[default]
    Crb,
    /// FIFO, also called TIS.
    Tis,
}

fn default_qemu() -> PathBuf {
    "qemu-system-x86_64".into()
}

fn default_kind() -> String {
    "q35".to_owned()
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            qemu: default_qemu(),
            kind: default_kind(),
            firmware: None,
            secure_boot: false,
            tpm: TpmInterface::default(),
            cpu: None,
            options: vec![],
        }
    }
}

impl Hardware {
    /// What is wrong with it, in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        let is_name = |text: &str| {
            let is_character = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            !text.is_empty() && text.chars().all(is_character)
        };
        if !is_name(&self.kind) {
            return Err("[machine] type is no name of a machine".to_owned());
        }
        let is_text = |text: &str| {
            (1..=MAX_OPTION).contains(&text.len())
                && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        };
        if self.cpu.as_deref().is_some_and(|cpu| !is_text(cpu)) {
            return Err("[machine] cpu is no name of a processor".to_owned());
        }
        if self.options.len() > MAX_OPTIONS || !self.options.iter().all(|it| is_text(it)) {
            return Err("[machine] options are too many, too long or not printable".to_owned());
        }
        // A program that is not a path is looked for in PATH.
        let is_path = |path: &PathBuf| path.is_absolute() || path.components().count() == 1;
        match is_path(&self.qemu) && self.firmware.iter().all(|path| path.is_absolute()) {
            true => Ok(()),
            false => Err("[machine] has a path that does not begin with a slash".to_owned()),
        }
    }

    /// What a recorded boot was of: where it differs, the machine is another one. The firmware is
    /// told apart by its bytes.
    pub fn summary(&self) -> String {
        let Self { kind, secure_boot, tpm, cpu, options, .. } = self;
        format!("{kind} {secure_boot} {tpm:?} {cpu:?} {options:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(), String> {
        let hardware: Hardware = toml::from_str(text).map_err(|error| error.to_string())?;
        hardware.check()
    }

    #[test]
    fn what_is_no_machine_is_refused() {
        for good in [
            "",
            "type = \"pc-q35-10.0\"\ntpm = \"tis\"\ncpu = \"max,la57=off\"\nsecure_boot = true",
            "qemu = \"/usr/bin/qemu-system-x86_64\"\nfirmware = \"/f.fd\"\noptions = [\"-rtc\", \"x\"]",
        ] {
            assert_eq!(read(good), Ok(()), "{good}");
        }
        for bad in [
            "type = \"q35,accel=kvm\"",
            "type = \"\"",
            "cpu = \"\"",
            "tpm = \"none\"",
            "options = [\"\"]",
            "options = [\"\\n\"]",
            "firmware = \"f.fd\"",
            "qemu = \"bin/qemu\"",
            "nic = \"user\"",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many = format!("options = [{}]", "\"-a\",".repeat(MAX_OPTIONS + 1));
        assert!(read(&many).is_err());
    }
}
