//! UEFI structures inside events: GUIDs, device paths, load options, partition tables.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::reader::Reader;
use super::text::LogText;

/// A GUID, shown the way UEFI tools write it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid([u8; 16]);

impl Guid {
    /// `EFI_GLOBAL_VARIABLE`: SecureBoot, PK, KEK, BootOrder, Boot####.
    pub const GLOBAL_VARIABLE: Self = Self::from_fields(
        0x8be4_df61,
        0x93ca,
        0x11d2,
        [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c],
    );
    /// `QEMU_KERNEL_LOADER_FS_MEDIA_GUID` of OVMF: what the host gave with `-kernel`.
    pub const QEMU_KERNEL_LOADER: Self = Self::from_fields(
        0x1428_f772,
        0xb64a,
        0x441e,
        [0xb8, 0xc3, 0x9e, 0xbd, 0xd7, 0xf8, 0x93, 0xc7],
    );
    /// `STUB_PAYLOAD_GUID` of systemd-stub: the kernel inside a unified kernel image.
    pub const STUB_PAYLOAD: Self = Self::from_fields(
        0x55c5_d1f8,
        0x04cd,
        0x46b5,
        [0x8a, 0x20, 0xe5, 0x6c, 0xbb, 0x30, 0x52, 0xd0],
    );
    /// The type of an EFI system partition.
    pub const ESP: Self = Self::from_fields(
        0xc12a_7328,
        0xf81f,
        0x11d2,
        [0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b],
    );

    /// The four fields as they are written.
    pub const fn from_fields(a: u32, b: u16, c: u16, d: [u8; 8]) -> Self {
        let ([a0, a1, a2, a3], [b0, b1], [c0, c1]) =
            (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        let [d0, d1, d2, d3, d4, d5, d6, d7] = d;
        Self([a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7])
    }

    /// From the bytes as UEFI lays them out.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes as UEFI lays them out.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, rest @ ..] = self.0;
        let a = u32::from_le_bytes([a0, a1, a2, a3]);
        let (b, c) = (u16::from_le_bytes([b0, b1]), u16::from_le_bytes([c0, c1]));
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d0:02x}{d1:02x}-{}", hex::encode(rest))
    }
}

impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Self, GuidError> {
        let bytes = text.as_bytes();
        let dashes = [8, 13, 18, 23].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        let digits =
            hex::decode(text.replace('-', "")).ok().filter(|_| dashes && bytes.len() == 36);
        let fields =
            digits.and_then(|digits| <[u8; 16]>::try_from(digits).ok()).ok_or(GuidError)?;
        let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = fields;
        let a = u32::from_be_bytes([a0, a1, a2, a3]);
        Ok(Self::from_fields(a, u16::from_be_bytes([b0, b1]), u16::from_be_bytes([c0, c1]), rest))
    }
}

/// A text that is no GUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuidError;

impl fmt::Display for GuidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a GUID")
    }
}

impl std::error::Error for GuidError {}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Guid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One node of a device path (UEFI 2.10, 10.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathNode {
    /// A PCI device.
    Pci {
        /// Device number.
        device: u8,
        /// Function number.
        function: u8,
    },
    /// The root of a PCI bus, by its ACPI identity.
    PciRoot(u32),
    /// Memory that a loader had filled: the image was not read from a file by the firmware.
    Memory {
        /// First address.
        start: u64,
        /// Last address.
        end: u64,
    },
    /// A partition.
    HardDrive {
        /// Number in the partition table.
        partition: u32,
        /// Its GUID, or the bytes of an MBR signature.
        signature: Guid,
    },
    /// A vendor's own node, which only its GUID tells apart.
    Vendor(Guid),
    /// A file on the device before it.
    File(LogText),
    /// A firmware volume.
    FirmwareVolume(Guid),
    /// A file in a firmware volume.
    FirmwareFile(Guid),
    /// A network boot from this URI.
    Uri(LogText),
    /// Any other node.
    Other {
        /// Type.
        kind: u8,
        /// Subtype.
        subtype: u8,
    },
}

impl fmt::Display for PathNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci { device, function } => write!(f, "Pci({device:#x},{function:#x})"),
            Self::PciRoot(bus) => write!(f, "PciRoot({bus:#x})"),
            Self::Memory { start, end } => write!(f, "MemoryMapped({start:#x},{end:#x})"),
            Self::HardDrive { partition, signature } => {
                write!(f, "HD({partition},GPT,{signature})")
            }
            Self::Vendor(Guid::QEMU_KERNEL_LOADER) => f.write_str("QemuKernelLoader"),
            Self::Vendor(Guid::STUB_PAYLOAD) => f.write_str("UnifiedKernelImage(.linux)"),
            Self::Vendor(guid) => write!(f, "Vendor({guid})"),
            Self::File(path) => f.write_str(&path.shown(256)),
            Self::FirmwareVolume(guid) => write!(f, "Fv({guid})"),
            Self::FirmwareFile(guid) => write!(f, "FvFile({guid})"),
            Self::Uri(uri) => write!(f, "Uri({})", uri.shown(256)),
            Self::Other { kind, subtype } => write!(f, "Path({kind},{subtype})"),
        }
    }
}

/// Where the firmware found an image. Shown as its nodes joined by `/`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DevicePath(Vec<PathNode>);

impl DevicePath {
    /// Most nodes that are decoded.
    pub const MAX_NODES: usize = 64;

    /// Decodes a device path; `None` when it is longer or a node's length is wrong. A missing end
    /// node is accepted, as shim logs paths without one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut nodes = Vec::new();
        while !reader.is_empty() {
            let (kind, subtype) = (reader.u8()?, reader.u8()?);
            let len = usize::from(reader.u16()?).checked_sub(4)?;
            let body = reader.take(len)?;
            if kind == 0x7f && subtype == 0xff {
                break;
            }
            if nodes.len() == Self::MAX_NODES {
                return None;
            }
            nodes.push(decode_node(kind, subtype, body)?);
        }
        Some(Self(nodes))
    }

    /// The nodes, outermost first.
    pub fn nodes(&self) -> &[PathNode] {
        &self.0
    }

    /// The path of the file, where the path ends in one.
    pub fn file(&self) -> Option<&LogText> {
        self.0.iter().rev().find_map(|node| match node {
            PathNode::File(path) => Some(path),
            _ => None,
        })
    }

    /// Whether a vendor node carries this GUID.
    pub fn has_vendor(&self, guid: Guid) -> bool {
        self.0.contains(&PathNode::Vendor(guid))
    }

    /// Whether the image was handed over in memory by a loader.
    pub fn is_memory(&self) -> bool {
        matches!(self.0.as_slice(), [PathNode::Memory { .. }])
    }
}

/// Compressed EISA identifiers of PCI and PCI Express root bridges.
const PNP0A03: u32 = 0x0a03_41d0;
const PNP0A08: u32 = 0x0a08_41d0;

fn decode_node(kind: u8, subtype: u8, body: &[u8]) -> Option<PathNode> {
    let mut reader = Reader::new(body);
    Some(match (kind, subtype) {
        (1, 1) => PathNode::Pci { function: reader.u8()?, device: reader.u8()? },
        (1, 3) => {
            reader.u32()?;
            PathNode::Memory { start: reader.u64()?, end: reader.u64()? }
        }
        (1, 4) | (4, 3) => PathNode::Vendor(Guid(reader.array()?)),
        (2, 1) => match (reader.u32()?, reader.u32()?) {
            (PNP0A03 | PNP0A08, bus) => PathNode::PciRoot(bus),
            _ => PathNode::Other { kind, subtype },
        },
        (3, 24) => PathNode::Uri(LogText::from_utf8(body)),
        (4, 1) => {
            let partition = reader.u32()?;
            reader.take(16)?;
            PathNode::HardDrive { partition, signature: Guid(reader.array()?) }
        }
        (4, 4) => PathNode::File(LogText::from_utf16le(body)),
        (4, 6) => PathNode::FirmwareFile(Guid(reader.array()?)),
        (4, 7) => PathNode::FirmwareVolume(Guid(reader.array()?)),
        _ => PathNode::Other { kind, subtype },
    })
}

impl fmt::Display for DevicePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, node) in self.0.iter().enumerate() {
            if index == 16 {
                return f.write_str("/...");
            }
            write!(f, "{}{node}", if index > 0 { "/" } else { "" })?;
        }
        Ok(())
    }
}

impl Serialize for DevicePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A `Boot####` variable: `EFI_LOAD_OPTION` (UEFI 2.10, 3.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadOption {
    /// `LOAD_OPTION_ACTIVE` and its like.
    pub attributes: u32,
    /// What a boot menu shows.
    pub description: LogText,
    /// What to load.
    pub device_path: DevicePath,
    /// Bytes of optional data, which the firmware hands to the image.
    pub optional_len: usize,
}

impl LoadOption {
    /// Decodes the value of the variable.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let attributes = reader.u32()?;
        let path_len = reader.u16()?;
        let (units, _) = reader.rest().as_chunks::<2>();
        let description_len = 2 * (units.iter().position(|unit| *unit == [0, 0])? + 1);
        let description = LogText::from_utf16le(reader.take(description_len)?);
        let device_path = DevicePath::decode(reader.take(path_len.into())?)?;
        Some(Self { attributes, description, device_path, optional_len: reader.rest().len() })
    }
}

/// One used entry of a partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// What the partition is for.
    pub type_guid: Guid,
    /// Which partition it is.
    pub guid: Guid,
    /// First block.
    pub first_lba: u64,
    /// Last block.
    pub last_lba: u64,
    /// Its name.
    pub name: LogText,
}

/// `UEFI_GPT_DATA`: the header of the boot disk's table and its used entries (PFP 10.2.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpt {
    /// Which disk it is.
    pub disk_guid: Guid,
    /// The used entries.
    pub partitions: Vec<Partition>,
}

impl Gpt {
    /// Decodes the data of an `EV_EFI_GPT_EVENT`.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut header = Reader::new(reader.take(92)?);
        if header.take(8)? != b"EFI PART" {
            return None;
        }
        header.take(48)?;
        let disk_guid = Guid(header.array()?);
        header.take(12)?;
        let entry_len = usize::try_from(header.u32()?).ok()?;
        let count = reader.u64()?;
        let mut partitions = Vec::new();
        // A UEFI entry has at least 128 bytes, so the input bounds the loop.
        if entry_len < 128 {
            return None;
        }
        for _ in 0..count {
            let mut entry = Reader::new(reader.take(entry_len)?);
            partitions.push(Partition {
                type_guid: Guid(entry.array()?),
                guid: Guid(entry.array()?),
                first_lba: entry.u64()?,
                last_lba: entry.u64()?,
                name: {
                    entry.u64()?;
                    LogText::from_utf16le(entry.take(72)?)
                },
            });
        }
        Some(Self { disk_guid, partitions })
    }
}
