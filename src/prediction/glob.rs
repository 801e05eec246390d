//! Patterns of boot entries, as systemd-boot matches them.

/// `efi_fnmatch`: `*`, `?` and `[a-z]`.
pub(super) fn matches_glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // reach[j]: whether the pattern so far matches the first j characters.
    let mut reach = vec![false; text.len() + 1];
    if let Some(first) = reach.first_mut() {
        *first = true;
    }
    let mut rest = pattern.as_slice();
    while let Some((first, after)) = rest.split_first() {
        let mut next = vec![false; text.len() + 1];
        if *first == '*' {
            let mut any = false;
            for (to, from) in next.iter_mut().zip(&reach) {
                any |= *from;
                *to = any;
            }
            rest = after;
        } else {
            let (accepts, after) = one_character(*first, after);
            for ((to, from), c) in next.iter_mut().skip(1).zip(&reach).zip(&text) {
                *to = *from && accepts(*c);
            }
            rest = after;
        }
        reach = next;
    }
    reach.last().copied().unwrap_or(false)
}

/// What one character of a glob accepts, and what follows it.
fn one_character(first: char, after: &[char]) -> (Box<dyn Fn(char) -> bool>, &[char]) {
    match first {
        '?' => (Box::new(|_| true), after),
        '\\' => match after.split_first() {
            Some((literal, after)) => {
                let literal = *literal;
                (Box::new(move |c| c == literal), after)
            }
            None => (Box::new(|_| false), after),
        },
        '[' => match after.iter().skip(1).position(|c| *c == ']') {
            Some(end) => {
                let (set, after) = after.split_at(end + 1);
                let set = set.to_vec();
                let after = after.get(1..).unwrap_or_default();
                (Box::new(move |c| in_set(&set, c)), after)
            }
            None => (Box::new(|_| false), after),
        },
        literal => (Box::new(move |c| c == literal), after),
    }
}

fn in_set(set: &[char], c: char) -> bool {
    let mut rest = set;
    loop {
        match rest {
            [from, '-', to, after @ ..] => {
                if (*from..=*to).contains(&c) {
                    return true;
                }
                rest = after;
            }
            [one, after @ ..] => {
                if *one == c {
                    return true;
                }
                rest = after;
            }
            [] => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_in_efi_fnmatch() {
        for (pattern, text, expected) in [
            ("deb.conf", "deb.conf", true),
            ("deb", "deb.conf", false),
            ("deb*", "deb.conf", true),
            ("*6.12*", "debian-6.12.48.conf", true),
            ("?eb.co[m-o]f", "deb.conf", true),
            ("?eb.co[!x]f", "deb.conf", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[", "[", false),
            ("*", "", true),
            ("**a**b**", "xxaxxbxx", true),
        ] {
            assert_eq!(matches_glob(pattern, text), expected, "{pattern} {text}");
        }
        // No pattern takes exponential time.
        assert!(!matches_glob(&"*a".repeat(500), &"a".repeat(400)));
    }
}
