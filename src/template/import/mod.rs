//! Templates from what a host has of its machines already: libvirt's domains, command lines of QEMU,
//! kernels of Qubes.
//!
//! ```text
//! libvirt XML, QEMU command line, vm-kernels ──▶ Described… ──▶ Draft (TOML) ──▶ Template::parse
//! ```
//!
//! What cannot be told is left open by name, never guessed.

mod compare;
mod draft;
mod error;
pub mod libvirt;
pub mod qemu;
pub mod qubes;
mod words;

pub use compare::differences;
pub use draft::Draft;
pub use error::ImportError;

/// A machine, as its host describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Described {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The kernel that it is given; empty where it starts from its own disk.
    pub kernel: String,
    /// The initrd that it is given.
    pub initrd: String,
    /// Its whole command line.
    pub cmdline: String,
    /// Where the words stand that it has of its own, in a template of one machine: at the first of
    /// the words that machines have of their own, unless this says that they come first.
    pub own_first: bool,
    /// Memory in MiB.
    pub memory: Option<u64>,
    /// Number of processors at the start.
    pub cpus: Option<u32>,
    /// The firmware's code, where that is told.
    pub firmware: Option<String>,
    /// Whether the firmware keeps its variables from the guest, as Secure Boot needs it.
    pub secure_boot: bool,
    /// The machine's type, such as `pc-q35-9.2`.
    pub machine_type: Option<String>,
    /// The kind of TPM: `crb` or `tis`.
    pub tpm: Option<String>,
    /// What its description leaves open, or tells and a template cannot.
    pub open: Vec<String>,
}
