//! GRUB: walks grub.cfg as GRUB does and gives, in order, what GRUB measures and what it starts.
//!
//! GRUB with the tpm module (shim's signed GRUB has it) measures every command that it runs into
//! PCR 8 and every file that it reads into PCR 9 (`commands/tpm.c`). Files alone do not tell all of
//! it: which modules lie in GRUB's image, what it calls its disks, whether a font could be loaded.
//! So [`learn`] first derives the last boot again from its own files, compares with its log event by
//! event, and keeps as [`Facts`] what it had to assume; [`walk()`] then derives the boot to come.
//! Where the last boot's script is gone, [`follow()`] learns what its log and the new script have in
//! common. What neither tells is an [`Unpredictable`], never a guess.
//!
//! Modelled are GRUB 2.06 and 2.12 on x86-64 with UEFI, as Debian, Ubuntu and Fedora ship it.

mod asked;
mod bls;
mod commands;
mod condition;
mod disk;
mod envblk;
mod environment;
mod execute;
mod facts;
mod files;
mod flow;
mod follow;
mod image;
mod loading;
mod machine;
mod menu;
mod modules;
mod options;
mod outcome;
mod script;
mod teach;
mod version;
mod walk;
mod words;

pub use envblk::EnvironmentBlock;
pub use facts::Facts;
pub use files::{BootFiles, FileDigests, FileRef, Hashed};
pub use follow::follow;
pub use outcome::{Boot, EntryName, Unpredictable, Walk, Written};
pub use teach::{Lesson, NotReproduced, learn};
pub use walk::{Choice, entries, walk};
