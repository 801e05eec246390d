//! A kernel that QEMU's `-kernel` hands to OVMF: what PCR 4 and PCR 9 see of it.

use std::fmt;
use std::io;

use super::Source;
use super::efi_stub;
use super::measured::{Content, Pending};
use super::pe::{Pe, PeError};
use super::ucs2;

/// Bytes at the start of a kernel that QEMU may write to.
const HEADER: usize = 0x240;
/// What QEMU keeps free below the end of low memory for ACPI tables (`acpi_data_size` of its PC
/// machines).
const ACPI_DATA: u64 = 0x28000;
/// Where QEMU puts the command line, and the setup code, of a kernel with boot protocol 2.02.
const CMDLINE_ADDRESS: u32 = 0x20000;
const SETUP_ADDRESS: u32 = 0x10000;

/// A machine type of QEMU, as far as it decides how much memory lies below 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineType {
    /// `q35`.
    Q35,
    /// `pc`, i440FX.
    Pc,
}

/// The machine that QEMU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QemuMachine {
    /// Its type.
    pub kind: MachineType,
    /// Memory, in bytes (`-m`).
    pub memory: u64,
}

/// Which bytes of the kernel OVMF starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelBlob {
    /// Those of the file: QEMU 10.0 or later offers them (`etc/boot/kernel`), OVMF 2025.02 or later
    /// takes them.
    Plain,
    /// Those of the file after QEMU has filled in the header for a BIOS: any older QEMU or OVMF.
    Patched,
}

/// A kernel that QEMU would not start, or not in a way that can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QemuKernelError {
    /// The kernel is no PE image: OVMF would not start it.
    Pe(PeError),
    /// Not a Linux kernel, or one whose boot protocol is older than 2.03.
    Protocol {
        /// The protocol, major version in the high byte; 0 without the signature `HdrS`.
        found: u16,
    },
    /// The initrd does not fit into low memory.
    InitrdTooLarge {
        /// Bytes that fit.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// QEMU would refuse this value of `vga=`.
    VideoMode {
        /// The value.
        found: String,
    },
}

impl fmt::Display for QemuKernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pe(error) => error.fmt(f),
            Self::Protocol { found } => {
                write!(f, "boot protocol {found:#06x}: expected a Linux kernel of 0x0203 or later")
            }
            Self::InitrdTooLarge { expected, found } => {
                write!(f, "the initrd has {found} bytes, low memory takes fewer than {expected}")
            }
            Self::VideoMode { found } => {
                let found = crate::measurement::text::printable(found, 32);
                write!(f, "QEMU does not take vga={found}")
            }
        }
    }
}

impl std::error::Error for QemuKernelError {}

impl From<PeError> for QemuKernelError {
    fn from(error: PeError) -> Self {
        Self::Pe(error)
    }
}

impl QemuMachine {
    /// Memory below 4 GiB, in bytes (`pc_q35_init`, `pc_init1`).
    pub fn low_memory(&self) -> u64 {
        let (split, most) = match self.kind {
            MachineType::Q35 => (0xb000_0000, 0x8000_0000),
            MachineType::Pc => (0xe000_0000, 0xc000_0000),
        };
        if self.memory >= split { most } else { self.memory }
    }
}

/// A kernel as OVMF gets it from QEMU: the file with some bytes of its header replaced.
pub struct QemuKernel<'a> {
    file: &'a dyn Source,
    header: Vec<u8>,
}

impl Source for QemuKernel<'_> {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(offset, buffer)?;
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        let patched = self.header.get(skipped..).unwrap_or_default();
        buffer.iter_mut().zip(patched).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

impl<'a> QemuKernel<'a> {
    /// The kernel as QEMU hands it on (`x86_load_linux`). `cmdline` is `-append`'s, `initrd` the
    /// number of bytes of the initrd, where there is one.
    ///
    /// # Errors
    /// [`QemuKernelError`].
    pub fn new(
        file: &'a dyn Source,
        blob: KernelBlob,
        machine: QemuMachine,
        cmdline: &[u8],
        initrd: Option<u64>,
    ) -> Result<Self, QemuKernelError> {
        if blob == KernelBlob::Plain {
            return Ok(Self { file, header: vec![] });
        }
        let mut header = Header::read(file)?;
        let protocol = match header.bytes.get(0x202..0x206) {
            Some(b"HdrS") => header.u32(0x206) as u16,
            _ => 0,
        };
        if protocol < 0x0203 {
            return Err(QemuKernelError::Protocol { found: protocol });
        }
        let above_4g = protocol >= 0x020c && header.u32(0x236) & 2 != 0;
        let highest = if above_4g { u32::MAX } else { header.u32(0x22c) };
        let low = machine.low_memory().saturating_sub(ACPI_DATA);
        let highest = u64::from(highest).min(low.saturating_sub(1));

        if let Some(mode) = video_mode(cmdline)? {
            header.put(0x1fa, &mode.to_le_bytes());
        }
        header.put(0x228, &CMDLINE_ADDRESS.to_le_bytes());
        header.put(0x210, &[0xb0]);
        let flags = header.u32(0x211) as u8 | 0x80;
        header.put(0x211, &[flags]);
        let heap_end = (CMDLINE_ADDRESS - SETUP_ADDRESS - 0x200) as u16;
        header.put(0x224, &heap_end.to_le_bytes());
        if let Some(size) = initrd {
            let too_large = QemuKernelError::InitrdTooLarge { expected: highest, found: size };
            let room = highest.checked_sub(size).filter(|room| *room > 0).ok_or(too_large)?;
            header.put(0x218, &((room & !0xfff) as u32).to_le_bytes());
            header.put(0x21c, &(size as u32).to_le_bytes());
        }
        Ok(Self { file, header: header.bytes })
    }

    /// OVMF's measurement of the kernel, in PCR 4.
    ///
    /// # Errors
    /// [`QemuKernelError::Pe`].
    pub fn image(&self) -> Result<Pending<'_>, QemuKernelError> {
        let content = Content::Recipe(Pe::parse(self)?.authenticode(self));
        Ok(Pending::image(self.len(), content))
    }
}

struct Header {
    bytes: Vec<u8>,
}

impl Header {
    fn read(file: &dyn Source) -> Result<Self, QemuKernelError> {
        if file.len() < HEADER as u64 {
            return Err(QemuKernelError::Protocol { found: 0 });
        }
        let mut bytes = vec![0; HEADER];
        let failed = |error: io::Error| PeError::Read { cause: error.to_string() };
        file.read_exact_at(0, &mut bytes).map_err(failed)?;
        Ok(Self { bytes })
    }

    fn u32(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..at + 4).unwrap_or_default();
        bytes.iter().rev().fold(0, |sum, byte| (sum << 8) | u32::from(*byte))
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        let to = self.bytes.get_mut(at..).unwrap_or_default();
        to.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
    }
}

/// The value of the first `vga=` anywhere in a command line, a number as C writes it.
fn video_mode(cmdline: &[u8]) -> Result<Option<u16>, QemuKernelError> {
    let Some(at) = cmdline.windows(4).position(|word| word == b"vga=") else { return Ok(None) };
    let value = cmdline.get(at + 4..).unwrap_or_default();
    let named = [("normal", 0xffff), ("ext", 0xfffe), ("ask", 0xfffd)];
    if let Some((_, mode)) = named.iter().find(|(name, _)| value.starts_with(name.as_bytes())) {
        return Ok(Some(*mode));
    }
    let word = value.split(|byte| *byte == b' ').next().unwrap_or_default();
    let word = String::from_utf8_lossy(word);
    let number = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None if word.starts_with('0') => u32::from_str_radix(&word, 8),
        None => word.parse(),
    };
    let wrong = |_| QemuKernelError::VideoMode { found: word.to_string() };
    Ok(Some(number.map_err(wrong)? as u16))
}

/// The load options that OVMF gives the kernel (`QemuLoadKernelImage`): the command line, and
/// ` initrd=initrd` where there is an initrd, with a NUL. Empty when there is neither.
pub fn load_options(cmdline: &[u8], initrd: bool) -> Vec<u8> {
    let mut options = ucs2::widen_bytes(cmdline);
    if initrd {
        options.extend(ucs2::widen_bytes(b" initrd=initrd"));
    }
    if options.is_empty() { vec![] } else { ucs2::with_nul(&options) }
}

/// What the kernel's own stub measures: command line and initrd. `initrd` is `None` without one.
pub fn kernel_events<'a>(cmdline: &[u8], initrd: Option<Content<'a>>) -> Vec<Pending<'a>> {
    let options = load_options(cmdline, initrd.is_some());
    let events = efi_stub::load_options(&options).into_iter();
    events.chain(initrd.and_then(efi_stub::initrd)).collect()
}

#[cfg(test)]
mod tests;
