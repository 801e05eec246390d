//! Command lines, compared word by word.

use std::collections::HashMap;

use super::super::text::printable;

/// Most words of a command line that are compared.
const MAX_WORDS: usize = 1024;
/// Characters of a word that are shown.
const SHOWN_LEN: usize = 80;

/// What a command line gained and lost, in the order of its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WordDiff<'a> {
    /// Words of the new one that the old one lacks.
    pub gained: Vec<&'a str>,
    /// Words of the old one that the new one lacks.
    pub lost: Vec<&'a str>,
}

impl<'a> WordDiff<'a> {
    /// Compares two command lines.
    pub(super) fn of(old: &'a str, new: &'a str) -> Self {
        let words = |text: &'a str| text.split_whitespace().take(MAX_WORDS).collect::<Vec<_>>();
        let (old, new) = (words(old), words(new));
        let beyond = |words: &[&'a str], others: &[&'a str]| -> Vec<&'a str> {
            let mut counts = HashMap::<&str, usize>::new();
            others.iter().for_each(|word| *counts.entry(word).or_default() += 1);
            let left = words.iter().filter(|word| match counts.get_mut(**word) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    false
                }
                _ => true,
            });
            left.copied().collect()
        };
        Self { gained: beyond(&new, &old), lost: beyond(&old, &new) }
    }

    /// Whether both have the same words.
    pub(super) fn is_empty(&self) -> bool {
        self.gained.is_empty() && self.lost.is_empty()
    }

    /// `gained a b and lost c`, with at most `max` words on each side.
    pub(super) fn sentence(&self, max: usize) -> String {
        let said = |verb: &str, words: &[&str]| match words {
            [] => None,
            words => Some(format!("{verb} {}", shown(words, max))),
        };
        let parts: Vec<String> =
            said("gained", &self.gained).into_iter().chain(said("lost", &self.lost)).collect();
        match parts.is_empty() {
            true => "has the same words in another order or spacing".to_owned(),
            false => parts.join(" and "),
        }
    }
}

/// What one command line gained and lost against another, at most `max` words of each: `gained a b
/// and lost c`.
pub fn changed_words(old: &str, new: &str, max: usize) -> String {
    WordDiff::of(old, new).sentence(max)
}

/// Some words of a log, bounded and printable.
fn shown(words: &[&str], max: usize) -> String {
    let mut text: Vec<String> =
        words.iter().take(max).map(|word| printable(word, SHOWN_LEN)).collect();
    if words.len() > max {
        text.push(format!("and {} more words", words.len() - max));
    }
    text.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_and_keep_their_order() {
        let said = |old, new| WordDiff::of(old, new).sentence(6);
        assert_eq!(said("ro quiet", "ro quiet init=/bin/sh"), "gained init=/bin/sh");
        assert_eq!(said("ro a ro", "b ro a"), "gained b and lost ro");
        assert_eq!(said("a b", "b  a"), "has the same words in another order or spacing");
        assert_eq!(said("", "1 2 3 4 5 6 7 8"), "gained 1 2 3 4 5 6 and 2 more words");
        assert_eq!(said("x\u{1b}[2J", ""), "lost x\\u{1b}[2J");
        assert!(said("", &"y".repeat(5000)).len() < 100);
    }
}
