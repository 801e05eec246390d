//! One line about an event, for people.

use std::fmt;

use super::data::{EventData, Tag, TaggedEvent};
use super::text::LogText;
use super::variable::{Variable, VariableValue};

/// Characters of one text that a description shows.
const SHOWN: usize = 160;

impl EventData {
    /// Most characters of [`EventData::in_full`]: no command line of Linux is longer.
    pub const MAX_WORDS: usize = 4096;

    /// The description, with the whole of what GRUB runs and passes on.
    pub fn in_full(&self) -> String {
        match self {
            Self::GrubCommand { command } => format!("GRUB ran {}", command.shown(Self::MAX_WORDS)),
            Self::KernelCommandLine { cmdline } => {
                format!("command line {}", cmdline.shown(Self::MAX_WORDS))
            }
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for EventData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |text: &LogText| text.shown(SHOWN);
        match self {
            Self::SpecId { signature, version: (major, minor) } => {
                write!(f, "log header {}, specification {major}.{minor}", show(signature))
            }
            Self::StartupLocality { locality } => write!(f, "TPM started at locality {locality}"),
            Self::NoAction { signature } => write!(f, "record {}", show(signature)),
            Self::CrtmVersion { version } if version.as_str().is_empty() => {
                f.write_str("firmware version (empty)")
            }
            Self::CrtmVersion { version } => write!(f, "firmware version {}", show(version)),
            Self::FirmwareBlob { description, base, length } => {
                let name = description.as_ref().map(|text| show(text) + " ").unwrap_or_default();
                write!(f, "firmware code {name}at {base:#x}, {length} bytes")
            }
            Self::Image { device_path, length, .. } => {
                let path = device_path.as_ref().map(ToString::to_string).unwrap_or_default();
                match path.as_str() {
                    "" => write!(f, "image, {length} bytes"),
                    path => write!(f, "image {path}, {length} bytes"),
                }
            }
            Self::Variable(variable) => variable.fmt(f),
            Self::Gpt(gpt) => {
                write!(f, "partition table {}, {} partitions", gpt.disk_guid, gpt.partitions.len())
            }
            Self::Separator { value: 0 } => f.write_str("separator"),
            Self::Separator { value } => write!(f, "separator {value:#x}"),
            Self::HandoffTables { description, tables } => {
                let name = description.as_ref().map(|text| show(text) + ": ").unwrap_or_default();
                write!(f, "{name}{} configuration tables", tables.len())
            }
            Self::GrubCommand { command } => write!(f, "GRUB ran {}", show(command)),
            Self::KernelCommandLine { cmdline } => write!(f, "command line {}", show(cmdline)),
            Self::GrubFile { path } => write!(f, "GRUB read {}", show(path)),
            Self::UkiSection { name } => write!(f, "section {}", show(name)),
            Self::MokState { name } => write!(f, "shim's {}", show(name)),
            Self::Text { text } | Self::Loader { text } => f.write_str(&show(text)),
            Self::Tagged { tags } => {
                for (index, tagged) in tags.iter().take(4).enumerate() {
                    write!(f, "{}{tagged}", if index > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Self::Undecoded { length: 0, .. } => f.write_str("no data"),
            Self::Undecoded { length, .. } => write!(f, "{length} bytes that are not understood"),
        }
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.shown(SHOWN);
        match &self.value {
            VariableValue::Flag(on) => write!(f, "{name} {}", if *on { "on" } else { "off" }),
            VariableValue::Signatures { certificates, hashes, others } => {
                write!(f, "{name}: {certificates} certificates, {hashes} hashes")?;
                if *others > 0 { write!(f, ", {others} others") } else { Ok(()) }
            }
            VariableValue::Authority { owner, .. } => {
                write!(f, "vouched for by {name}, owner {owner}")
            }
            VariableValue::Order(order) => {
                let shown: Vec<&str> = order.iter().take(16).map(String::as_str).collect();
                write!(f, "{name} {}", shown.join(","))
            }
            VariableValue::LoadOption(option) => {
                write!(f, "{name} {}: {}", option.description.shown(SHOWN), option.device_path)
            }
            VariableValue::Text(text) => write!(f, "{name} {}", text.shown(SHOWN)),
            VariableValue::Bytes { length } => write!(f, "{name}, {length} bytes"),
        }
    }
}

impl fmt::Display for TaggedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.tag {
            Tag::LoadOptions => "command line that the kernel was started with",
            Tag::LinuxInitrd => "initrd that the kernel loaded",
            Tag::LoaderConf => "loader.conf",
            Tag::DevicetreeAddon => "device tree addon",
            Tag::InitrdAddon => "initrd addon",
            Tag::UcodeAddon => "microcode addon",
            Tag::UkiProfile => "profile of the unified kernel image",
            Tag::Smbios => "SMBIOS table",
            Tag::Unknown(id) => return write!(f, "tag {id:#010x} {}", self.text.shown(SHOWN)),
        };
        f.write_str(what)
    }
}
