//! Why no template can be made of a machine.

use std::fmt;

use crate::measurement::text::printable;

/// Why no template can be made of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportError {
    /// The text is longer than any description of a machine.
    TooLong {
        /// Bytes that are read.
        limit: usize,
    },
    /// The text is no XML, or more of it than any domain has.
    NotXml {
        /// What is wrong with it.
        cause: String,
    },
    /// The text is no domain that QEMU runs.
    NotDomain {
        /// What it is.
        found: String,
    },
    /// The text has no command line of QEMU.
    NotQemu,
    /// A word that only a shell can tell.
    Shell {
        /// The option.
        option: String,
    },
    /// The machine is given no kernel by its host.
    OwnDisk,
    /// The machine starts with a BIOS, which measures no kernel.
    Bios,
    /// The machine is given no initrd.
    NoInitrd,
    /// A number or size that is none.
    Number {
        /// What it is of.
        what: &'static str,
        /// The text.
        found: String,
    },
    /// The name of a machine is none that a file could have.
    Name {
        /// The name.
        found: String,
    },
    /// Machines that boot otherwise are of different templates.
    Differs {
        /// In what.
        what: &'static str,
        /// One machine.
        first: String,
        /// The other.
        other: String,
    },
    /// Several machines, and one of them has no name.
    NoName,
    /// No machine at all.
    Nothing,
    /// A template cannot tell it.
    Untellable {
        /// Why not.
        cause: String,
    },
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { limit } => write!(f, "it has more than {limit} bytes"),
            Self::NotXml { cause } => {
                write!(f, "it is no XML of a domain: {}", printable(cause, 160))
            }
            Self::NotDomain { found } => {
                write!(f, "it is no domain that QEMU runs, but {}", printable(found, 80))
            }
            Self::NotQemu => f.write_str("there is no command line of qemu-system-x86_64 in it"),
            Self::Shell { option } => {
                write!(f, "what follows {} only a shell can tell", printable(option, 40))
            }
            Self::OwnDisk => f.write_str("it boots from its own disk: its host gives it no kernel"),
            Self::Bios => {
                f.write_str("it starts with a BIOS, which does not measure the kernel it is given")
            }
            Self::NoInitrd => f.write_str("it is given a kernel, and no initrd"),
            Self::Number { what, found } => {
                write!(f, "its {what} is no number that is understood: {}", printable(found, 40))
            }
            Self::Name { found } => {
                write!(f, "no file can have the name of the machine {}", printable(found, 80))
            }
            Self::Differs { what, first, other } => {
                let (first, other) = (printable(first, 64), printable(other, 64));
                write!(f, "{first} and {other} boot with another {what}: they are of two templates")
            }
            Self::NoName => f.write_str("there are several machines, and one has no name"),
            Self::Nothing => f.write_str("no machine is named"),
            Self::Untellable { cause } => {
                write!(f, "a template cannot tell it: {}", printable(cause, 240))
            }
        }
    }
}

impl std::error::Error for ImportError {}
