//! What can be wrong with a journal, in words.

use std::fmt;

/// Most findings that are kept: a file of rubbish has one a line.
const MOST: usize = 64;

/// Something that shows that a journal is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A line of the file that is none of a journal's.
    Malformed {
        /// Which line of the file, from 1.
        line: usize,
    },
    /// A line is not the one that the next was written after.
    Edited {
        /// Its number.
        line: u32,
    },
    /// A line stands where its number does not belong, or a second time.
    Reordered {
        /// Which line of the file, from 1.
        line: usize,
        /// Its number.
        seq: u32,
    },
    /// Lines are not there.
    Missing {
        /// The first one's number.
        first: u32,
        /// The last one's number.
        last: u32,
    },
    /// A signature that the authority did not make.
    BadSignature {
        /// The line's number.
        seq: u32,
    },
    /// The journal itself tells that it was not whole.
    Noted {
        /// The line that tells it.
        seq: u32,
        /// What it tells.
        text: String,
    },
    /// There is no journal where there was one.
    Gone {
        /// Who knows.
        witness: String,
        /// The last line that was noted.
        seq: u32,
    },
    /// Another journal has taken its place.
    Replaced {
        /// Who knows.
        witness: String,
    },
    /// The end is missing: cut off, or an older copy was put back.
    Truncated {
        /// Who knows.
        witness: String,
        /// The last line that was noted.
        seq: u32,
        /// The last line that is there.
        last: u32,
    },
    /// A line that was noted is another one now.
    Forked {
        /// Who knows.
        witness: String,
        /// Its number.
        seq: u32,
    },
    /// The state is older than the journal.
    Behind {
        /// Which witness.
        witness: String,
        /// The last line that it knows.
        seq: u32,
        /// The last line that is there.
        last: u32,
    },
    /// The state knows of no journal, or is gone.
    NotNoted {
        /// Which witness.
        witness: String,
    },
}

impl Finding {
    /// One word for scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::Edited { .. } => "edited",
            Self::Reordered { .. } => "reordered",
            Self::Missing { .. } => "missing",
            Self::BadSignature { .. } => "bad-signature",
            Self::Noted { .. } => "noted",
            Self::Gone { .. } => "gone",
            Self::Replaced { .. } => "replaced",
            Self::Truncated { .. } => "truncated",
            Self::Forked { .. } => "forked",
            Self::Behind { .. } => "behind",
            Self::NotNoted { .. } => "not-noted",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { line } => {
                write!(f, "line {line} of the file is no line of a journal")
            }
            Self::Edited { line } => {
                write!(f, "line {line} was edited: the next was written after another one")
            }
            Self::Reordered { line, seq } => {
                write!(f, "reordered: line {seq} stands as line {line} of the file")
            }
            Self::Missing { first, last } if first == last => write!(f, "line {first} is missing"),
            Self::Missing { first, last } => write!(f, "lines {first} to {last} are missing"),
            Self::BadSignature { seq } => write!(f, "the signature of line {seq} is not genuine"),
            Self::Noted { seq, text } => {
                write!(f, "line {seq} tells that the journal was not whole: {text}")
            }
            Self::Gone { witness, seq } => {
                write!(f, "the journal is gone: {witness} knows line {seq}")
            }
            Self::Replaced { witness } => {
                write!(f, "replaced: it is not the journal that {witness} knows")
            }
            Self::Truncated { witness, seq, last } => write!(
                f,
                "truncated, or replaced by an older copy: {witness} knows line {seq}, the last here is {last}"
            ),
            Self::Forked { witness, seq } => write!(
                f,
                "forked: line {seq} is not the one that {witness} knows: it was edited, or all since some line before it was written anew"
            ),
            Self::Behind { witness, seq, last } => write!(
                f,
                "{witness} is older than the journal: it knows line {seq}, the last here is {last}"
            ),
            Self::NotNoted { witness } => write!(f, "{witness} does not know of the journal"),
        }
    }
}

/// Findings on their way, each with the line of the file that it is about.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<(usize, Finding)>,
    more: usize,
    /// The last line of the file by which the journal itself tells of a break.
    told: usize,
    /// The last line of the file that something is wrong with.
    newest: usize,
}

impl Findings {
    pub(super) fn add(&mut self, line: usize, finding: Finding) {
        self.newest = self.newest.max(line);
        self.push(line, finding);
    }

    /// Adds what the journal itself tells in `line`.
    pub(super) fn tell(&mut self, line: usize, finding: Finding) {
        self.told = self.told.max(line);
        self.push(line, finding);
    }

    /// Adds what belongs to no line.
    pub(super) fn add_all(&mut self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.push(usize::MAX, finding));
    }

    /// Whether something is wrong after the last line that tells of a break.
    pub(super) fn is_news(&self) -> bool {
        self.newest > self.told
    }

    /// All findings in order of the file, and how many were left out.
    pub(super) fn finish(mut self) -> (Vec<Finding>, usize) {
        self.found.sort_by_key(|(line, _)| *line);
        (self.found.into_iter().map(|(_, finding)| finding).collect(), self.more)
    }

    fn push(&mut self, line: usize, finding: Finding) {
        // The same edit shows twice where two lines were written after it.
        if self.found.iter().any(|(_, known)| *known == finding) {
            return;
        }
        match self.found.len() < MOST {
            true => self.found.push((line, finding)),
            false => self.more += 1,
        }
    }
}
