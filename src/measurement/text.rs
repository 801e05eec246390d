//! Text out of event logs: hostile, so it is printed as bounded printable ASCII.

use std::fmt;

use serde::{Serialize, Serializer};

/// A string that a log holds. [`LogText::as_str`] is what was measured; `Display` and JSON show
/// printable ASCII only, everything else as `\u{…}`, and at most [`LogText::SHOWN`] characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogText(String);

impl LogText {
    /// Characters of the text that `Display` and JSON show.
    pub const SHOWN: usize = 4096;

    /// UTF-8 up to the trailing NULs; what is not UTF-8 becomes U+FFFD.
    pub fn from_utf8(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        Self(text.trim_end_matches('\0').to_owned())
    }

    /// UTF-16LE up to the trailing NULs; lone surrogates become U+FFFD, an odd last byte is left.
    pub fn from_utf16le(bytes: &[u8]) -> Self {
        let (units, _) = bytes.as_chunks::<2>();
        let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
        let text: String =
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        Self(text.trim_end_matches('\0').to_owned())
    }

    /// UTF-16LE where the bytes can only be that (ASCII in every other byte), else UTF-8.
    pub fn guess(bytes: &[u8]) -> Self {
        let (units, odd) = bytes.as_chunks::<2>();
        let utf16 = odd.is_empty()
            && !units.is_empty()
            && units.iter().all(|[low, high]| *high == 0 && low.is_ascii())
            && units.iter().any(|[low, _]| *low != 0);
        if utf16 { Self::from_utf16le(bytes) } else { Self::from_utf8(bytes) }
    }

    /// The text itself, unescaped.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether every character is printable ASCII or white space.
    pub fn is_plain(&self) -> bool {
        self.0.chars().all(|c| c == ' ' || c.is_ascii_graphic() || matches!(c, '\n' | '\t' | '\r'))
    }

    /// At most `max` characters of the text, printable ASCII, `...` where something is left out.
    pub fn shown(&self, max: usize) -> String {
        printable(&self.0, max)
    }
}

/// At most `max` characters of `text`, escaped to printable ASCII, `...` where cut.
pub fn printable(text: &str, max: usize) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == max {
            shown.push_str("...");
            break;
        }
        if c == ' ' || c.is_ascii_graphic() {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown
}

impl fmt::Display for LogText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown(Self::SHOWN))
    }
}

impl Serialize for LogText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<&str> for LogText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_printable_ascii_only() {
        let text = LogText::from_utf8(b"a\x1b[2J\xff\xc3\xa9\n\0\0");
        assert_eq!(text.to_string(), "a\\u{1b}[2J\\u{fffd}\\u{e9}\\n");
        assert!(!text.is_plain());
        assert_eq!(LogText::from("abcdef").shown(3), "abc...");
    }

    #[test]
    fn guesses_the_encoding() {
        assert_eq!(LogText::guess(b".\0l\0\0\0").as_str(), ".l");
        assert_eq!(LogText::guess(b"grub_cmd: a\0").as_str(), "grub_cmd: a");
        assert_eq!(LogText::guess(b"").as_str(), "");
        assert_eq!(LogText::guess(&[0, 0]).as_str(), "");
        assert_eq!(LogText::from_utf16le(&[0x00, 0xd8, b'x', 0]).as_str(), "\u{fffd}x");
    }
}
