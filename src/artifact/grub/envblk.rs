//! The environment block, `grubenv` (`grub-core/lib/envblk.c`).

/// What an environment block starts with.
const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";

/// The bytes of a block, as GRUB edits them in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentBlock(Vec<u8>);

impl EnvironmentBlock {
    /// Longest block that is read.
    pub const MAX_LEN: u64 = 64 << 10;

    /// A block, if the signature says that it is one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        (bytes.len() > SIGNATURE.len() && bytes.starts_with(SIGNATURE))
            .then(|| Self(bytes.to_vec()))
    }

    /// The bytes as they lie in the file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// All variables in order, up to the first line that is none (`grub_envblk_iterate`).
    pub fn variables(&self) -> Vec<(String, String)> {
        self.lines().map(|line| (line.name, unescaped(line.value))).collect()
    }

    /// Sets a variable where it stands, or behind the last one; false where there is no room, and
    /// then nothing changes (`grub_envblk_set`).
    #[must_use]
    pub fn set(&mut self, name: &str, value: &str) -> bool {
        let mut escaped = Vec::with_capacity(value.len());
        for byte in value.bytes() {
            if matches!(byte, b'\\' | b'\n') {
                escaped.push(b'\\');
            }
            escaped.push(byte);
        }
        let size = self.0.len();
        let used = self.0.iter().rposition(|byte| *byte != b'#').map_or(0, |last| last + 1);
        if used.checked_sub(1).and_then(|last| self.0.get(last)) != Some(&b'\n') {
            return false;
        }
        let found = self.lines().find(|line| line.name == name).map(|l| (l.value_at, l.end));
        let Some(mut content) = self.0.get(..used).map(<[u8]>::to_vec) else { return false };
        match found {
            Some((start, end)) if end < used => drop(content.splice(start..end, escaped)),
            Some(_) => return false,
            None => {
                content.extend(name.bytes());
                content.push(b'=');
                content.extend(escaped);
                content.push(b'\n');
            }
        }
        if content.len() > size {
            return false;
        }
        content.resize(size, b'#');
        self.0 = content;
        true
    }

    /// Takes a variable's line out (`grub_envblk_delete`).
    pub fn delete(&mut self, name: &str) {
        let found = self.lines().find(|line| line.name == name).map(|line| (line.start, line.end));
        if let Some((start, end)) = found {
            let size = self.0.len();
            self.0.drain(start..(end + 1).min(size));
            self.0.resize(size, b'#');
        }
    }

    fn lines(&self) -> Lines<'_> {
        Lines { bytes: &self.0, at: SIGNATURE.len() }
    }
}

struct Line<'a> {
    name: String,
    value: &'a [u8],
    start: usize,
    value_at: usize,
    /// Where the line's end mark stands.
    end: usize,
}

struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        loop {
            let start = self.at;
            let first = *self.bytes.get(start)?;
            let mut equals = None;
            let mut end = start;
            loop {
                match self.bytes.get(end)? {
                    b'\n' => break,
                    b'\\' => end += 2,
                    b'=' if equals.is_none() => {
                        equals = Some(end);
                        end += 1;
                    }
                    _ => end += 1,
                }
            }
            self.at = end + 1;
            if first == b'#' {
                continue;
            }
            let equals = equals?;
            return Some(Line {
                name: String::from_utf8_lossy(self.bytes.get(start..equals)?).into_owned(),
                value: self.bytes.get(equals + 1..end)?,
                start,
                value_at: equals + 1,
                end,
            });
        }
    }
}

fn unescaped(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => bytes.extend(rest.next()),
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(lines: &str) -> EnvironmentBlock {
        let mut bytes = [SIGNATURE, b"# WARNING: text\n", lines.as_bytes()].concat();
        bytes.resize(1024, b'#');
        EnvironmentBlock::parse(&bytes).unwrap()
    }

    #[test]
    fn variables_come_in_order_without_comments_and_escapes() {
        let found = block("a=1\n#b=2\nc=x\\\\y\\\nz\nd=\n").variables();
        let expected = [("a", "1"), ("c", "x\\y\nz"), ("d", "")];
        assert_eq!(found, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    #[test]
    fn a_variable_is_set_in_place_and_deleted_with_its_line() {
        let mut edited = block("a=1\nnext_entry=long>name\nc=3\n");
        assert!(edited.set("next_entry", ""));
        assert_eq!(edited, block("a=1\nnext_entry=\nc=3\n"));
        assert!(edited.set("new", "a\\b"));
        edited.delete("a");
        assert_eq!(edited, block("next_entry=\nc=3\nnew=a\\\\b\n"));
        assert_eq!(edited.as_bytes().len(), 1024);
    }

    #[test]
    fn a_full_or_broken_block_stays_as_it_is() {
        let mut full = block("a=1\n");
        let before = full.clone();
        assert!(!full.set("b", &"x".repeat(1000)));
        assert_eq!(full, before);
        let mut broken = block("a=1");
        assert!(!broken.set("a", "2"));
        assert_eq!(EnvironmentBlock::parse(b"# GRUB Environment"), None);
    }
}
