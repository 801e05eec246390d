//! Command lines as EFI programs hold them: UCS-2, little endian.

/// UTF-8 as systemd-stub widens it (`xstrn8_to_16`): up to the first NUL, without what is invalid or
/// lies beyond U+FFFF.
pub fn widen(bytes: &[u8]) -> Vec<u16> {
    let mut wide = vec![];
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first()
        && first != 0
    {
        let (len, bits) = match first {
            0x00..=0x7f => (1, 0x7f),
            0xc0..=0xdf => (2, 0x1f),
            0xe0..=0xef => (3, 0x0f),
            0xf0..=0xf7 => (4, 0x07),
            0xf8..=0xfb => (5, 0x03),
            0xfc..=0xfd => (6, 0x01),
            _ => (1, 0),
        };
        let following = tail.get(..len - 1);
        let valid = bits != 0
            && following.is_some_and(|bytes| bytes.iter().all(|byte| byte & 0xc0 == 0x80));
        if valid {
            let start = u32::from(first & bits);
            let tail = following.unwrap_or_default().iter();
            let point = tail.fold(start, |sum, byte| (sum << 6) | u32::from(byte & 0x3f));
            wide.extend(u16::try_from(point).ok().filter(|unit| !(0xd800..0xe000).contains(unit)));
        }
        rest = rest.get(len..).unwrap_or_default();
    }
    wide
}

/// A text of bytes, each one character, as OVMF widens QEMU's command line.
pub fn widen_bytes(bytes: &[u8]) -> Vec<u16> {
    bytes.iter().map(|byte| u16::from(*byte)).collect()
}

/// The units as bytes, followed by a NUL unit.
pub fn with_nul(units: &[u16]) -> Vec<u8> {
    units.iter().chain(&[0]).flat_map(|unit| unit.to_le_bytes()).collect()
}

/// The units as text for people.
pub fn shown(units: &[u16]) -> String {
    String::from_utf16_lossy(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widens_as_the_stub_does() {
        assert_eq!(shown(&widen("quiet ä € end".as_bytes())), "quiet ä € end");
        assert_eq!(shown(&widen(b"up to\0here")), "up to");
        assert_eq!(shown(&widen("no 🦀 nor \u{fffd}".as_bytes())), "no  nor \u{fffd}");
        // A broken sequence is skipped with as many bytes as its first one announces.
        assert_eq!(shown(&widen(b"a\xe2bcd\xffe\xc3")), "ade");
        // Surrogates, and more bytes than Unicode has.
        assert_eq!(shown(&widen(b"\xed\xa0\x80x\xf8\x81\x81\x81\x81y")), "xy");
        assert_eq!(with_nul(&widen(b"ab")), b"a\0b\0\0\0");
        assert_eq!(widen_bytes(b"\xe9"), [0xe9]);
    }
}
