//! What systemd measures in an initrd before `cryptsetup-pre.target`, and so before the seal point.

use super::digest::Digest;
use super::pcr::PcrIndex;
use super::userspace::UserspaceEvent;

/// A word that systemd measures before volumes are opened, as its UTF-8 bytes without a NUL.
///
/// Source: systemd's `pcrextend.c`, and the digests of its `pcrlock.d/750-*` and `770-*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitrdWord {
    word: &'static str,
    event_type: &'static str,
    pcrs: &'static [u8],
}

impl InitrdWord {
    /// Since systemd 252, 259 and 261. `nvpcr-init` is none of them: it holds a secret of the machine's.
    const ALL: [Self; 3] = [
        Self { word: "enter-initrd", event_type: "phase", pcrs: &[11] },
        Self { word: "nvpcr-separator", event_type: "nvpcr-separator", pcrs: &[9] },
        Self {
            word: "os-separator",
            event_type: "os-separator",
            pcrs: &[0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14],
        },
    ];

    /// Is an event of systemd's log one of them?
    pub fn is(event: &UserspaceEvent) -> bool {
        // Logs of systemd 252 tell no type; that of a separator is its word.
        [&event.word, &event.event_type]
            .into_iter()
            .flatten()
            .any(|text| Self::ALL.iter().any(|it| it.word == text.as_str()))
    }

    /// The event of systemd's log that this extend of a PCR would have.
    pub fn event(pcr: PcrIndex, digest: Digest) -> Option<UserspaceEvent> {
        let bank = digest.bank();
        let found = Self::ALL
            .into_iter()
            .find(|it| it.pcrs.contains(&pcr.get()) && bank.hash(it.word.as_bytes()) == digest)?;
        Some(UserspaceEvent {
            pcr: Some(pcr),
            digests: [(bank, digest)].into(),
            event_type: Some(found.event_type.into()),
            word: Some(found.word.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::PcrBank;

    /// As systemd 261 ships them, in `750-enter-initrd`, `750-os-separator` and `770-nvpcr-separator`.
    const SHIPPED: [(&str, &[u8], &str); 3] = [
        (
            "phase enter-initrd",
            &[11],
            "51e6b92f405d1f98d96e3de343d61d420ad6923b25de21d766f9298192f14fed",
        ),
        (
            "os-separator os-separator",
            &[0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14],
            "ff5b9d73dad709633ae76adf444012b57e913a12ed7403c3931145862f35f841",
        ),
        (
            "nvpcr-separator nvpcr-separator",
            &[9],
            "97c5f96d4cd3fb14c7e272c47762af208f712c1a47733567e5c233e2b6f6c5cb",
        ),
    ];

    #[test]
    fn knows_what_systemd_measures_by_its_digest_and_pcr() {
        for (shown, pcrs, digest) in SHIPPED {
            let digest = Digest::from_hex(PcrBank::Sha256, digest).unwrap();
            for pcr in 0..24 {
                let event = InitrdWord::event(PcrIndex::new(pcr).unwrap(), digest);
                assert_eq!(event.is_some(), pcrs.iter().any(|it| u64::from(*it) == pcr), "{shown}");
                if let Some(event) = event {
                    assert_eq!(event.to_string(), shown);
                    assert!(InitrdWord::is(&event));
                }
            }
        }
        let leave = PcrBank::Sha256.hash(b"leave-initrd");
        assert_eq!(InitrdWord::event(PcrIndex::new(11).unwrap(), leave), None);
    }

    #[test]
    fn a_log_without_types_tells_the_words_too() {
        let of = |word: Option<&str>, event_type: Option<&str>| UserspaceEvent {
            pcr: None,
            digests: [].into(),
            event_type: event_type.map(Into::into),
            word: word.map(Into::into),
        };
        assert!(InitrdWord::is(&of(Some("enter-initrd"), None)));
        assert!(InitrdWord::is(&of(None, Some("os-separator"))));
        for (word, event_type) in [(Some("leave-initrd"), Some("phase")), (None, None)] {
            assert!(!InitrdWord::is(&of(word, event_type)));
        }
        let init = "nvpcr-init:hardware:0x1d10200:sha256:de38";
        assert!(!InitrdWord::is(&of(Some(init), Some("nvpcr-init"))));
    }
}
