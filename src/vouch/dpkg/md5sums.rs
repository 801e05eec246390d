//! Lists of a package's files, `info/PACKAGE.md5sums` of dpkg's database.

use crate::vouch::bounded::lines;

/// Most bytes of a path.
const MAX_PATH: usize = 4096;

/// MD5 and path, without the leading slash, of each line; what is no such line is passed over.
pub(super) fn md5sums(text: &[u8]) -> impl Iterator<Item = ([u8; 16], &[u8])> {
    lines(text).filter_map(entry)
}

fn entry(line: &[u8]) -> Option<([u8; 16], &[u8])> {
    let (hex, rest) = line.split_at_checked(32)?;
    // As md5sum(1) writes it: of text, or with an asterisk of binary.
    let path = rest.strip_prefix(b"  ").or_else(|| rest.strip_prefix(b" *"))?;
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let mut digest = [0; 16];
    hex::decode_to_slice(hex, &mut digest).ok()?;
    (!path.is_empty() && path.len() <= MAX_PATH).then_some((digest, path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";

    fn of(text: &str) -> Vec<String> {
        let digest: [u8; 16] = hex::decode(MD5).unwrap().try_into().unwrap();
        let paths = md5sums(text.as_bytes()).map(|(found, path)| {
            assert_eq!(found, digest);
            String::from_utf8(path.to_vec()).unwrap()
        });
        paths.collect()
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        let text = format!(
            "{MD5}  boot/vmlinuz-6.12\n{MD5} *usr/a  b\n{MD5}  ./x\n{}  y",
            MD5.to_uppercase()
        );
        assert_eq!(of(&text), ["boot/vmlinuz-6.12", "usr/a  b", "x", "y"]);
    }

    #[test]
    fn malformed_lines_hide_no_others() {
        let (short, other, wide) = (&MD5[1..], MD5.replace('9', "g"), MD5.replace('9', "é"));
        let long = "a".repeat(MAX_PATH + 1);
        let text = format!(
            "\n{short}  a\n{other}  b\n{wide}  c\n{MD5}\n{MD5}  \n{MD5} d\n{MD5}\te\n{MD5}  {long}\n{MD5}  f\n"
        );
        assert_eq!(of(&text), ["f"]);
        assert_eq!(of(""), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(text in prop::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(md5sums(&text).all(|(_, path)| !path.is_empty()));
        }

        #[test]
        fn lines_are_found_among_any_others(
            before in "\\PC{0,80}", after in "\\PC{0,80}", path in "[a-z/]{1,60}",
        ) {
            let text = format!("{before}\n{MD5}  {path}\n{after}");
            let found: Vec<_> = md5sums(text.as_bytes()).map(|(_, path)| path).collect();
            prop_assert!(found.contains(&path.as_bytes()));
        }
    }
}
