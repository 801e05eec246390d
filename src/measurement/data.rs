//! What an event's data says: decoded on demand, never trusted.

use serde::Serialize;

use super::efi::{DevicePath, Gpt, Guid};
use super::event::{Event, EventType};
use super::reader::Reader;
use super::text::LogText;
use super::variable::{Variable, VariableUse};

/// Decoded event data. Serialized as an object whose `kind` names the variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventData {
    /// The header of a log (`TCG_EfiSpecIdEvent` and its SHA-1 forerunners).
    SpecId {
        /// `Spec ID Event03` and its like.
        signature: LogText,
        /// Major and minor version of the specification.
        version: (u8, u8),
    },
    /// The locality of `TPM2_Startup`, 4 after an H-CRTM sequence: the last byte of PCR 0's
    /// first value (PFP 10.4.5.3).
    StartupLocality {
        /// 0, 3 or 4.
        locality: u8,
    },
    /// Another record that extends nothing.
    NoAction {
        /// Its first 16 bytes.
        signature: LogText,
    },
    /// Version of the root of trust: a text or a GUID.
    CrtmVersion {
        /// The text, or the GUID as text.
        version: LogText,
    },
    /// A region of firmware code (`EFI_PLATFORM_FIRMWARE_BLOB`, `..._BLOB2`).
    FirmwareBlob {
        /// What the firmware calls it.
        description: Option<LogText>,
        /// Physical address.
        base: u64,
        /// Bytes.
        length: u64,
    },
    /// A PE image (`UEFI_IMAGE_LOAD_EVENT`); the digest is its Authenticode digest.
    Image {
        /// Address it was loaded at.
        location: u64,
        /// Bytes in memory.
        length: u64,
        /// Where it came from; `None` when that cannot be decoded.
        device_path: Option<DevicePath>,
    },
    /// A UEFI variable (`UEFI_VARIABLE_DATA`), or the signature that vouched for an image.
    Variable(Variable),
    /// Partition table of the boot disk.
    Gpt(Gpt),
    /// The border between firmware and what it starts.
    Separator {
        /// Zero, or 1 where the firmware reports an error.
        value: u32,
    },
    /// Something the firmware did, or the name of what it measured.
    Text {
        /// Its text.
        text: LogText,
    },
    /// Configuration tables (`UEFI_HANDOFF_TABLE_POINTERS`, `..._POINTERS2`).
    HandoffTables {
        /// What the firmware calls them.
        description: Option<LogText>,
        /// Which tables.
        tables: Vec<Guid>,
    },
    /// A command that GRUB ran; the digest is that of the text.
    GrubCommand {
        /// The command, expanded.
        command: LogText,
    },
    /// The command line that a loader gave to the kernel; the digest is that of the text.
    KernelCommandLine {
        /// The command line.
        cmdline: LogText,
    },
    /// A file that GRUB read; the digest is that of its bytes.
    GrubFile {
        /// The path as GRUB names it.
        path: LogText,
    },
    /// A section of a unified kernel image: once its name, once its content.
    UkiSection {
        /// The name, such as `.linux`.
        name: LogText,
    },
    /// State of shim's machine owner keys.
    MokState {
        /// `MokList` and its like.
        name: LogText,
    },
    /// Any other text of a boot loader.
    Loader {
        /// Its text.
        text: LogText,
    },
    /// Tagged events of the kernel's EFI stub, systemd-boot and systemd-stub.
    Tagged {
        /// Usually one.
        tags: Vec<TaggedEvent>,
    },
    /// What could not be decoded.
    Undecoded {
        /// Bytes of data.
        length: usize,
        /// The first of them, in hexadecimal.
        hex: String,
    },
}

/// `TCG_PCClientTaggedEvent` (PFP 10.4.2.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaggedEvent {
    /// What was measured.
    pub tag: Tag,
    /// Its description.
    pub text: LogText,
}

/// The identifier of a tagged event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tag {
    /// Linux EFI stub: the command line in UTF-16LE (`LOAD_OPTIONS_EVENT_TAG_ID`).
    LoadOptions,
    /// Linux EFI stub: the initrd (`INITRD_EVENT_TAG_ID`).
    LinuxInitrd,
    /// systemd-boot: `loader.conf`.
    LoaderConf,
    /// systemd-stub: a device tree addon.
    DevicetreeAddon,
    /// systemd-stub: an initrd addon.
    InitrdAddon,
    /// systemd-stub: a microcode addon.
    UcodeAddon,
    /// systemd-stub: the chosen profile of the unified kernel image.
    UkiProfile,
    /// systemd-boot and systemd-stub: SMBIOS tables 1, 2 and 11.
    Smbios,
    /// Another tag.
    Unknown(u32),
}

impl Tag {
    fn from_id(id: u32) -> Self {
        match id {
            0x8f3b_22ed => Self::LoadOptions,
            0x8f3b_22ec => Self::LinuxInitrd,
            0xf5bc_582a => Self::LoaderConf,
            0x6c46_f751 => Self::DevicetreeAddon,
            0x49df_fe0f => Self::InitrdAddon,
            0xdac0_8e1a => Self::UcodeAddon,
            0x13ae_d6db => Self::UkiProfile,
            0xd5cb_7cbc | 0xe0d4_7bc8 | 0xc0b3_bd23 => Self::Smbios,
            _ => Self::Unknown(id),
        }
    }
}

impl EventData {
    /// Bytes of undecoded data that are shown.
    const SHOWN: usize = 256;

    /// Decodes by event type and PCR.
    pub(super) fn decode(event: &Event) -> Self {
        let raw = event.raw.as_slice();
        let decoded = match event.event_type {
            EventType::NoAction => no_action(raw),
            EventType::SCrtmVersion => Some(crtm_version(raw)),
            EventType::Separator => separator(raw),
            EventType::EfiPlatformFirmwareBlob => firmware_blob(raw),
            EventType::EfiPlatformFirmwareBlob2 => firmware_blob2(raw),
            EventType::SCrtmContents | EventType::PostCode | EventType::PostCode2 => {
                firmware_blob(raw).or_else(|| firmware_blob2(raw)).or_else(|| text(raw))
            }
            EventType::EfiBootServicesApplication
            | EventType::EfiBootServicesDriver
            | EventType::EfiRuntimeServicesDriver => image(raw),
            EventType::EfiVariableDriverConfig => variable(raw, VariableUse::Config),
            EventType::EfiVariableBoot | EventType::EfiVariableBoot2 => {
                variable(raw, VariableUse::Boot)
            }
            EventType::EfiVariableAuthority => variable(raw, VariableUse::Authority),
            EventType::EfiGptEvent | EventType::EfiGptEvent2 => Gpt::decode(raw).map(Self::Gpt),
            EventType::EfiHandoffTables => handoff_tables(raw, None),
            EventType::EfiHandoffTables2 => handoff_tables2(raw),
            EventType::Ipl => ipl(event),
            EventType::EventTag => tagged(raw),
            _ => text(raw),
        };
        decoded.unwrap_or_else(|| Self::Undecoded {
            length: raw.len(),
            hex: hex::encode(raw.get(..Self::SHOWN).unwrap_or(raw)),
        })
    }

    /// Whether a tagged event with this tag is among them.
    pub fn has_tag(&self, wanted: Tag) -> bool {
        matches!(self, Self::Tagged { tags } if tags.iter().any(|tagged| tagged.tag == wanted))
    }
}

/// Text, if the data is nothing but text.
fn text(raw: &[u8]) -> Option<EventData> {
    let text = LogText::guess(raw);
    let said = !text.as_str().is_empty() && text.is_plain();
    said.then_some(EventData::Text { text })
}

fn no_action(raw: &[u8]) -> Option<EventData> {
    let mut reader = Reader::new(raw);
    let signature = reader.take(16)?;
    if signature == b"StartupLocality\0" && reader.rest().len() == 1 {
        return Some(EventData::StartupLocality { locality: reader.u8()? });
    }
    let signature_text = LogText::from_utf8(signature);
    if signature.starts_with(b"Spec ID Event") {
        reader.u32()?;
        let (minor, major) = (reader.u8()?, reader.u8()?);
        return Some(EventData::SpecId { signature: signature_text, version: (major, minor) });
    }
    Some(EventData::NoAction { signature: signature_text })
}

fn crtm_version(raw: &[u8]) -> EventData {
    let text = LogText::guess(raw);
    let version = match <[u8; 16]>::try_from(raw) {
        Ok(guid) if !text.is_plain() => LogText::from(Guid::from_bytes(guid).to_string().as_str()),
        _ => text,
    };
    EventData::CrtmVersion { version }
}

fn separator(raw: &[u8]) -> Option<EventData> {
    let value = u32::from_le_bytes(raw.try_into().ok()?);
    Some(EventData::Separator { value })
}

fn firmware_blob(raw: &[u8]) -> Option<EventData> {
    let mut reader = Reader::new(raw);
    let (base, length) = (reader.u64()?, reader.u64()?);
    reader.is_empty().then_some(EventData::FirmwareBlob { description: None, base, length })
}

fn firmware_blob2(raw: &[u8]) -> Option<EventData> {
    let mut reader = Reader::new(raw);
    let len = reader.u8()?;
    let description = Some(LogText::from_utf8(reader.take(len.into())?));
    let (base, length) = (reader.u64()?, reader.u64()?);
    reader.is_empty().then_some(EventData::FirmwareBlob { description, base, length })
}

fn image(raw: &[u8]) -> Option<EventData> {
    let mut reader = Reader::new(raw);
    let (location, length) = (reader.u64()?, reader.u64()?);
    reader.u64()?;
    let path_len = reader.u64()?;
    let device_path = DevicePath::decode(reader.take_u64(path_len)?);
    Some(EventData::Image { location, length, device_path })
}

fn variable(raw: &[u8], used_as: VariableUse) -> Option<EventData> {
    Variable::decode(raw, used_as).map(EventData::Variable)
}

fn handoff_tables(raw: &[u8], description: Option<LogText>) -> Option<EventData> {
    let mut reader = Reader::new(raw);
    let count = reader.u64()?;
    let mut tables = Vec::new();
    for _ in 0..count {
        tables.push(Guid::from_bytes(reader.array()?));
        reader.u64()?;
    }
    reader.is_empty().then_some(EventData::HandoffTables { description, tables })
}

fn handoff_tables2(raw: &[u8]) -> Option<EventData> {
    let mut reader = Reader::new(raw);
    let len = reader.u8()?;
    let description = LogText::from_utf8(reader.take(len.into())?);
    handoff_tables(reader.rest(), Some(description))
}

/// The PCR tells which loader speaks: GRUB in 8 and 9, systemd-stub in 11 and 12, shim in 14.
fn ipl(event: &Event) -> Option<EventData> {
    let text = LogText::guess(&event.raw);
    if text.as_str().is_empty() {
        return None;
    }
    let after = |prefix| text.as_str().strip_prefix(prefix).map(LogText::from);
    let grub_command = after("grub_cmd: ").map(|command| EventData::GrubCommand { command });
    let grub_cmdline = || after("kernel_cmdline: ");
    let grub_cmdline = || Some(EventData::KernelCommandLine { cmdline: grub_cmdline()? });
    Some(match event.pcr {
        8 => grub_command.or_else(grub_cmdline).unwrap_or(EventData::Loader { text }),
        9 => EventData::GrubFile { path: text },
        11 if text.as_str().starts_with('.') => EventData::UkiSection { name: text },
        // systemd measures a command line as it logs it, and names anything else it measures.
        12 if event.data_is_measured() => EventData::KernelCommandLine { cmdline: text },
        14 => EventData::MokState { name: text },
        _ => EventData::Loader { text },
    })
}

/// Most tags that are decoded in one event; one is usual.
const MAX_TAGS: usize = 64;

fn tagged(raw: &[u8]) -> Option<EventData> {
    let mut reader = Reader::new(raw);
    let mut tags = Vec::new();
    while !reader.is_empty() {
        if tags.len() == MAX_TAGS {
            return None;
        }
        let tag = Tag::from_id(reader.u32()?);
        let len = usize::try_from(reader.u32()?).ok()?;
        tags.push(TaggedEvent { tag, text: LogText::guess(reader.take(len)?) });
    }
    (!tags.is_empty()).then_some(EventData::Tagged { tags })
}

#[cfg(test)]
mod tests;
