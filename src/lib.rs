//! vmseal seals a LUKS2 keyslot of a VM's disk to the VM's TPM, so that the disk opens by itself if
//! and only if the firmware and kernel that booted are the ones somebody approved.
//!
//! Data flows one way, and each stage is a value:
//!
//! ```text
//! enroll:  EventLog → Coverage → SealPoint or Prediction → PcrValues → Policy → SealedObject → Token
//!                   → Header
//! predict: EventLog + Artifacts → Prediction → PcrValues
//! boot:    Header → Pin check → Token → policy session → SealedSecret → KeyslotPassphrase
//!                 → VolumeKey → open volume → latch → gate
//! host:    Template → reference boot → Extends + EventLog
//!          Template + reference EventLog + Artifacts → Prediction → Forecasts → Plan → signatures
//! ```
//!
//! # Rooms
//!
//! | room | holds | pure |
//! |---|---|---|
//! | [`measurement`] | what was measured: banks, PCRs, event logs, replay, differences | yes |
//! | [`artifact`] | what will be measured: files, variables, partition tables | yes |
//! | [`prediction`] | the boot to come, from the boot that ran and what changed | yes |
//! | `files` | boot files in folders and images: what `artifact` reads; not in `vmseal-boot` | |
//! | [`coverage`] | which PCRs bind firmware, loader, kernel, initrd and command line | yes |
//! | [`policy`] | what must hold for a release, and its digest | yes |
//! | [`token`] | LUKS2 tokens as JSON, and the types they stand for | yes |
//! | `authority` | this machine's own key that approves boots, on disk; not in `vmseal-boot` | |
//! | [`tpm`] | the TPM: the only room that names tss_esapi | |
//! | [`luks`] | LUKS2 header, pin, keyslots: the only room that names libcryptsetup | |
//! | [`enroll`] | plan an enrolment, apply it, take it back; attach data volumes | |
//! | [`reseal`] | what was approved on this machine: the state, the journal and whether it is whole; what may be | |
//! | `reference` | on a host: throw-away boots of a template's machines, and what these measured; not in `vmseal-boot` | but `boot`, `boot_disk`, `inherited`, `memory`, `relay`, `scratch`, `store`, `users` |
//! | `template` | on a host: templates of machines, what these will measure, what was approved of it; not in `vmseal-boot` | but `store`, `survey` |
//! | `vouch` | who vouches for a boot file: a package, or this machine's hook; not in `vmseal-boot` | |
//! | [`boot`] | which volumes; pin, choose, unseal, open, latch; the seal point; what was seen | |
//! | `sandbox` | what a process gives up before it parses what others wrote; not in `vmseal-boot` | |
//! | [`prompt`], `public_file` | asking for a secret on a terminal; files replaced whole | |
//! | [`recovery`], [`secret`] | recovery keys; bytes that are zeroed on drop | yes |
//! | [`error`], [`exit`] | every way to fail, and its exit code | yes |
//! | [`ffi`] | the one place with unsafe code | |
//!
//! The `vmseal` binary adds `cli.rs`, which holds clap types only, and `commands/`, one file a verb.
//! `vmseal-boot` is the boot step alone. A pure room knows no device, clock or environment;
//! `tests/layering.rs` keeps the walls up.
//!
//! # Words
//!
//! A *Measurement* is a digest extended into a PCR, an *Event* its entry in the *EventLog*. A
//! *PcrSelection* says which PCRs of which *PcrBank*, *PcrValues* what they hold, a *PolicyDigest*
//! what a session reaches over them. The *SealedObject* holds the *SealedSecret*, whose text is the
//! *KeyslotPassphrase* of a *Keyslot*; a *Token* ties the two together. An *Artifact* is a file or
//! variable that a boot to come measures, a *Prediction* what its PCRs will then hold. The *Pin* is the volume's
//! identity, the *Latch* the end of all releases for this boot, the *SealPoint* the moment before.
//! The *Journal* is the account of what was approved, its *JournalHead* where it ended when somebody noted it.
//! A *BootEntry* is one approved boot, its *Generation* the approval's number.

pub mod artifact;
#[cfg(feature = "cli")]
pub mod authority;
pub mod boot;
pub mod coverage;
pub mod enroll;
pub mod error;
pub mod exit;
pub mod ffi;
#[cfg(feature = "cli")]
pub mod files;
pub mod luks;
pub mod measurement;
pub mod policy;
pub mod prediction;
pub mod prompt;
mod public_file;
pub mod recovery;
#[cfg(feature = "cli")]
pub mod reference;
pub mod reseal;
#[cfg(feature = "cli")]
pub mod sandbox;
pub mod secret;
#[cfg(feature = "cli")]
pub mod template;
pub mod token;
pub mod tpm;
#[cfg(feature = "cli")]
pub mod vouch;

pub use error::Error;
