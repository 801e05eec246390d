//! The order of versions, as systemd-boot sorts entries.

use std::cmp::Ordering;

/// `strverscmp_improved` of systemd: the order of versions.
pub(super) fn compare_versions(a: Option<&str>, b: Option<&str>) -> Ordering {
    let (mut a, mut b) = (a.unwrap_or_default(), b.unwrap_or_default());
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '~' | '-' | '^' | '.');
    loop {
        a = a.trim_start_matches(|c| !is_valid(c));
        b = b.trim_start_matches(|c| !is_valid(c));
        // A tilde sorts before the end, everything else after it.
        if a.starts_with('~') || b.starts_with('~') {
            let order = b.starts_with('~').cmp(&a.starts_with('~'));
            if order.is_ne() {
                return order;
            }
            (a, b) = (skip(a), skip(b));
        }
        if a.is_empty() || b.is_empty() {
            return (!a.is_empty()).cmp(&!b.is_empty());
        }
        for mark in ['-', '^', '.'] {
            if a.starts_with(mark) || b.starts_with(mark) {
                let order = b.starts_with(mark).cmp(&a.starts_with(mark));
                if order.is_ne() {
                    return order;
                }
                (a, b) = (skip(a), skip(b));
            }
        }
        let digits = |c: char| c.is_ascii_digit();
        let letters = |c: char| c.is_ascii_alphabetic();
        if a.starts_with(digits) || b.starts_with(digits) {
            let ((of_a, rest_a), (of_b, rest_b)) = (run(a, digits), run(b, digits));
            // A number sorts after a letter.
            let order = (!of_a.is_empty()).cmp(&!of_b.is_empty());
            let (of_a, of_b) = (of_a.trim_start_matches('0'), of_b.trim_start_matches('0'));
            let order = order.then(of_a.len().cmp(&of_b.len())).then_with(|| of_a.cmp(of_b));
            if order.is_ne() {
                return order;
            }
            (a, b) = (rest_a, rest_b);
        } else {
            let ((of_a, rest_a), (of_b, rest_b)) = (run(a, letters), run(b, letters));
            let order = of_a.cmp(of_b);
            if order.is_ne() {
                return order;
            }
            if of_a.is_empty() && of_b.is_empty() {
                return Ordering::Equal;
            }
            (a, b) = (rest_a, rest_b);
        }
    }
}

fn skip(text: &str) -> &str {
    text.get(1..).unwrap_or_default()
}

fn run(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !wanted(c)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_in_systemd() {
        let ascending = [
            "122.1",
            "123~rc1-1",
            "123",
            "123-a",
            "123-a.1",
            "123-1",
            "123-1.1",
            "123^post1",
            "123.a-1",
            "123.1-1",
            "123a-1",
            "124-1",
        ];
        for pair in ascending.windows(2) {
            let [a, b] = pair else { continue };
            assert_eq!(compare_versions(Some(a), Some(b)), Ordering::Less, "{a} < {b}");
            assert_eq!(compare_versions(Some(b), Some(a)), Ordering::Greater, "{b} > {a}");
        }
        assert_eq!(compare_versions(Some("01"), Some("1")), Ordering::Equal);
        assert_eq!(compare_versions(None, Some("~1")), Ordering::Greater);
    }
}
