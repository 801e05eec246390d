//! What command lines have in common, and the words that each has of its own.

use crate::template::Template;

/// The command line of all, with [`Template::OWN`] where own words stand unless that is the end, and
/// the own words of each line, in their order; around [`Template::ALL`] where they stand at both ends.
pub fn split(lines: &[&str], own_first: bool) -> (String, Vec<String>) {
    let words: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    if let Some(found) = within_own(&words) {
        return found;
    }
    let (prefix, suffix) = match words.as_slice() {
        [only] => around_own(only, own_first),
        _ => in_common(&words),
    };
    let own = words.iter().map(|words| {
        let own = words.get(prefix..words.len().saturating_sub(suffix)).unwrap_or_default();
        own.join(" ")
    });
    let own: Vec<String> = own.collect();
    let first = words.first().map(Vec::as_slice).unwrap_or_default();
    let before = first.get(..prefix).unwrap_or_default();
    let after = first.get(first.len().saturating_sub(suffix)..).unwrap_or_default();
    let at_end = after.is_empty() && !before.is_empty();
    let place = (!at_end).then_some(Template::OWN);
    let all: Vec<&str> = before.iter().copied().chain(place).chain(after.iter().copied()).collect();
    (all.join(" "), own)
}

/// How many words all begin with, and end with.
fn in_common(lines: &[Vec<&str>]) -> (usize, usize) {
    let (Some(first), shortest) = (lines.first(), lines.iter().map(Vec::len).min()) else {
        return (0, 0);
    };
    let shortest = shortest.unwrap_or_default();
    let same = |index: &usize, from_end: bool| {
        let word = |line: &Vec<&str>| {
            let index = if from_end { line.len().checked_sub(index + 1) } else { Some(*index) };
            index.and_then(|index| line.get(index)).map(|word| (*word).to_owned())
        };
        lines.iter().all(|line| word(line) == word(first))
    };
    let prefix = (0..shortest).take_while(|index| same(index, false)).count();
    let suffix = (0..shortest - prefix).take_while(|index| same(index, true)).count();
    (prefix, suffix)
}

/// What all lines are between the words of their own, where any has these at both ends.
fn within_own(lines: &[Vec<&str>]) -> Option<(String, Vec<String>)> {
    let mut all: Option<String> = None;
    let (mut own, mut is_around) = (vec![], false);
    for line in lines {
        let before = line.iter().take_while(|word| is_own(word)).count();
        let (first, rest) = line.split_at(before);
        let after = rest.iter().rev().take_while(|word| is_own(word)).count();
        let (middle, last) = rest.split_at(rest.len() - after);
        let middle = middle.join(" ");
        if middle.is_empty() || *all.get_or_insert_with(|| middle.clone()) != middle {
            return None;
        }
        is_around |= !first.is_empty() && !last.is_empty();
        own.push([first, &[Template::ALL], last].concat().join(" "));
    }
    all.filter(|_| is_around).map(|all| (all, own))
}

/// Whether a word is one in which machines of one template differ.
fn is_own(word: &&str) -> bool {
    Template::default_own_words().iter().any(|start| word.starts_with(start.as_str()))
}

/// How many words come before and after the first run of words that machines have of their own.
fn around_own(line: &[&str], own_first: bool) -> (usize, usize) {
    let before = match line.iter().position(is_own) {
        Some(index) => index,
        None if own_first => return (0, line.len()),
        None => return (line.len(), 0),
    };
    let run = line.iter().skip(before).take_while(|word| is_own(word)).count();
    (before, line.len() - before - run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_words_are_where_lines_differ() {
        for (lines, all, own) in [
            (&["a b x=1", "a b x=2 y"][..], "a b", &["x=1", "x=2 y"][..]),
            (&["x=1 a b", "x=2 a b", "a b"], "@own a b", &["x=1", "x=2", ""]),
            (&["a x=1 b", "a x=2 b"], "a @own b", &["x=1", "x=2"]),
            (&["a b", "a b"], "a b", &["", ""]),
            (&["a", "b"], "@own", &["a", "b"]),
            (&["a a", "a a a"], "a a", &["", "a"]),
            (
                &["root=x systemd.machine_id=1 quiet"],
                "root=x @own quiet",
                &["systemd.machine_id=1"],
            ),
            (&["root=x quiet"], "root=x quiet", &[""]),
            (
                &["systemd.machine_id=1 a b vmseal.pin=x", "a b vmseal.pin=y"],
                "a b",
                &["systemd.machine_id=1 @all vmseal.pin=x", "@all vmseal.pin=y"],
            ),
            (
                &["systemd.machine_id=1 a b vmseal.pin=x", "a c vmseal.pin=y"],
                "@own",
                &["systemd.machine_id=1 a b vmseal.pin=x", "a c vmseal.pin=y"],
            ),
        ] {
            let (found, found_own) = split(lines, false);
            assert_eq!(
                (found.as_str(), found_own.as_slice()),
                (all, &own.iter().map(|own| (*own).to_owned()).collect::<Vec<_>>()[..]),
                "{lines:?}"
            );
        }
        assert_eq!(split(&["root=x"], true), ("@own root=x".to_owned(), vec![String::new()]));
    }
}
