//! What walking a boot gives.

use std::fmt;

use super::files::FileRef;
use crate::artifact::Measured;
use crate::measurement::PcrIndex;
use crate::measurement::text::printable;

/// Something that neither files nor log tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpredictable {
    /// The PCRs of GRUB, 8 and 9, whose value is not told because of it.
    pub pcrs: Vec<PcrIndex>,
    /// The script, as GRUB names it.
    pub file: String,
    /// Number of its line, from 1; 0 where no line is to blame.
    pub line: usize,
    /// What is not known.
    pub why: String,
}

impl fmt::Display for Unpredictable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, why) = (printable(&self.file, 120), printable(&self.why, 240));
        match self.line {
            0 => write!(f, "{file}: {why}"),
            line => write!(f, "{file}, line {line}: {why}"),
        }
    }
}

impl std::error::Error for Unpredictable {}

/// A menu entry, by what names it in `default`, `next_entry` and on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName {
    /// Positions from 0, the outermost menu first.
    pub positions: Vec<usize>,
    /// Titles, the outermost submenu first.
    pub titles: Vec<String>,
    /// Identifiers likewise; the title where there is no `--id`.
    pub ids: Vec<String>,
}

impl EntryName {
    /// `submenu>entry` by identifiers, `>` inside one doubled: a value for `default`.
    pub fn id_path(&self) -> String {
        joined(&self.ids)
    }

    /// `submenu>entry` by titles.
    pub fn title_path(&self) -> String {
        joined(&self.titles)
    }
}

fn joined(names: &[String]) -> String {
    names.iter().map(|name| name.replace('>', ">>")).collect::<Vec<_>>().join(">")
}

/// A kernel that GRUB starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The entry; `None` where a script boots without a menu.
    pub entry: Option<EntryName>,
    /// The kernel.
    pub kernel: FileRef,
    /// Its command line as GRUB measures it: the file's name first.
    pub command_line: String,
    /// The initrds in order.
    pub initrds: Vec<FileRef>,
}

impl Boot {
    /// What the kernel sees as its command line.
    pub fn kernel_sees(&self) -> String {
        format!("BOOT_IMAGE={}", self.command_line)
    }

    /// The `LoadOptions` that GRUB 2.12 starts the kernel's EFI stub with, and that the stub
    /// measures: UTF-16LE without a terminator.
    pub fn load_options(&self) -> Vec<u8> {
        self.kernel_sees().encode_utf16().flat_map(u16::to_le_bytes).collect()
    }
}

/// A file that the boot itself rewrites: an environment block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub file: FileRef,
    /// What it holds afterwards. Where the file system cannot be written by GRUB (LVM, RAID, Btrfs),
    /// the file stays as it was.
    pub bytes: Vec<u8>,
}

/// One boot through GRUB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// All that GRUB measures into PCR 8 and 9, in order; nothing where it has no tpm module. Up to
    /// the point where the walk ends.
    pub events: Vec<Measured>,
    /// What is missing in `events`: the PCRs named here are not told by it.
    pub gaps: Vec<Unpredictable>,
    /// What is started in the end.
    ///
    /// An error means that neither `events` nor anything that follows is told.
    pub boot: Result<Boot, Unpredictable>,
    /// Files that this boot rewrites.
    pub written: Vec<Written>,
}
