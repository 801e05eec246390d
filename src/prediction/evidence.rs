//! What a log proves of the files that its boot read: their digests, by path.

use std::collections::BTreeMap;

use super::anatomy::{image, image_file, is_direct_kernel};
use super::direct::{INITRD, KERNEL};
use super::layers::DigestTable;
use super::spelled::Spelled;
use crate::artifact::KnownDigests;
use crate::measurement::{Digest, Event, EventData, EventLog, Tag};

/// Reads the evidence out of a log.
pub struct Evidence;

impl Evidence {
    /// The files that the boot of `log` read, with the digests that it measured.
    ///
    /// A file that was read twice with different contents is left out: which it has now, the log
    /// does not say.
    pub fn of(log: &EventLog) -> DigestTable {
        let mut plain: BTreeMap<String, Option<Vec<Digest>>> = BTreeMap::new();
        let mut images: BTreeMap<String, Option<Vec<Digest>>> = BTreeMap::new();
        let note = |table: &mut BTreeMap<String, Option<Vec<Digest>>>, path: &str, event: &Event| {
            let digests: Vec<Digest> = event.known_digests().collect();
            let known = table.entry(Spelled::parse(path).path()).or_insert(Some(digests.clone()));
            if known.as_ref() != Some(&digests) {
                *known = None;
            }
        };
        let mut grub_kernel: Option<String> = None;
        let mut initrds: Vec<String> = Vec::new();
        let mut is_direct = false;
        for event in log.events().iter().filter(|event| event.extends()) {
            if is_direct_kernel(event) {
                is_direct = true;
                note(&mut images, KERNEL, event);
            } else if let Some(path) = image_file(event) {
                note(&mut images, &path, event);
            } else if let (Some(path), Some(kernel)) = (image(event), &grub_kernel) {
                if path.is_memory() {
                    note(&mut images, kernel, event);
                }
            }
            match event.data() {
                EventData::GrubFile { path } => note(&mut plain, path.as_str(), event),
                EventData::GrubCommand { command } => {
                    let mut words = command.as_str().split_ascii_whitespace();
                    if matches!(words.next(), Some("linux" | "linuxefi")) {
                        grub_kernel = words.next().map(str::to_owned);
                    }
                }
                EventData::KernelCommandLine { cmdline } if event.pcr == 12 => {
                    let words = cmdline.as_str().split_ascii_whitespace();
                    let files = words.filter_map(|word| word.strip_prefix("initrd="));
                    initrds = files.map(str::to_owned).collect();
                }
                data if event.pcr == 9 && data.has_tag(Tag::LinuxInitrd) => {
                    if is_direct {
                        note(&mut plain, INITRD, event);
                    }
                    // Of several files the log has only the digest of all.
                    if let [initrd] = initrds.as_slice() {
                        note(&mut plain, initrd, event);
                    }
                }
                _ => {}
            }
        }
        let mut files: BTreeMap<String, KnownDigests> = BTreeMap::new();
        for (path, digests) in plain {
            files.entry(path).or_default().plain = digests.unwrap_or_default();
        }
        for (path, digests) in images {
            files.entry(path).or_default().authenticode = digests.unwrap_or_default();
        }
        files.retain(|_, known| !known.plain.is_empty() || !known.authenticode.is_empty());
        DigestTable::unlisted(files.into_iter().map(|(path, known)| (Spelled::parse(&path), known)))
    }
}
