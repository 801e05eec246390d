//! The order of boot loader entries (`blscfg.c`: `vercmp`, `split_cmp`), as RPM orders versions.

use std::cmp::Ordering;

/// Compares two entries' file names without `.conf`: newer is greater.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let (left, right) = (split(left), split(right));
    versions(left.0, right.0)
        .then_with(|| versions(left.1, right.1))
        .then_with(|| versions(left.2, right.2))
}

/// Name, version and release (`split_package_string`).
fn split(package: &str) -> (&str, &str, &str) {
    match package.rsplit_once('-') {
        None => (package, "", ""),
        Some((rest, release)) => match rest.rsplit_once('-') {
            Some((name, version)) => (name, version, release),
            None => (rest, release, ""),
        },
    }
}

/// Compares two versions, segment by segment.
fn versions(left: &str, right: &str) -> Ordering {
    if left == right {
        return Ordering::Equal;
    }
    let (mut one, mut two) = (left, right);
    while !one.is_empty() || !two.is_empty() {
        let separator = |c: char| !c.is_ascii_alphanumeric() && c != '~' && c != '+';
        one = one.trim_start_matches(separator);
        two = two.trim_start_matches(separator);
        if one.starts_with('~') || two.starts_with('~') {
            match (one.strip_prefix('~'), two.strip_prefix('~')) {
                (Some(a), Some(b)) => (one, two) = (a, b),
                (None, _) => return Ordering::Greater,
                (_, None) => return Ordering::Less,
            }
            continue;
        }
        if one.starts_with('+') || two.starts_with('+') {
            match (one.strip_prefix('+'), two.strip_prefix('+')) {
                (Some(a), Some(b)) => (one, two) = (a, b),
                _ if one.is_empty() => return Ordering::Less,
                _ if two.is_empty() => return Ordering::Greater,
                (None, _) => return Ordering::Greater,
                (_, None) => return Ordering::Less,
            }
            continue;
        }
        if one.is_empty() || two.is_empty() {
            break;
        }
        let numeric = one.starts_with(|c: char| c.is_ascii_digit());
        let kind: fn(char) -> bool =
            if numeric { |c| c.is_ascii_digit() } else { |c| c.is_ascii_alphabetic() };
        let (segment, rest) = cut(one, kind);
        let (other, other_rest) = cut(two, kind);
        if other.is_empty() {
            return if numeric { Ordering::Greater } else { Ordering::Less };
        }
        let ordering = if numeric {
            let (a, b) = (segment.trim_start_matches('0'), other.trim_start_matches('0'));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        } else {
            segment.cmp(other)
        };
        if ordering.is_ne() {
            return ordering;
        }
        (one, two) = (rest, other_rest);
    }
    match (one.is_empty(), two.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        _ => Ordering::Greater,
    }
}

fn cut(text: &str, kind: fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !kind(c)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernels_are_greater() {
        for (older, newer) in [
            ("id-6.9.7-200.fc40.x86_64", "id-6.10.3-200.fc40.x86_64"),
            ("id-6.10.3-200.fc40.x86_64", "id-6.10.3-201.fc40.x86_64"),
            ("id-0-rescue", "id-6.1-2"),
            ("a-1.0~rc1-1", "a-1.0-1"),
            ("a-1.0-1", "a-1.0+5-1"),
            ("a-1.0a-1", "a-1.0.1-1"),
        ] {
            assert_eq!(compare(newer, older), Ordering::Greater, "{newer} {older}");
            assert_eq!(compare(older, newer), Ordering::Less, "{newer} {older}");
        }
        assert_eq!(compare("a-01.0-1", "a-1.0-1"), Ordering::Equal);
    }
}
