//! What is still to be digested, and which bytes of which source come next.

use std::sync::Arc;

use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::measurement::{Digest, PcrBank};

/// A run of bytes, its source by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Read { source: usize, start: u64, end: u64 },
    Zeros(u64),
    Bytes(Arc<[u8]>),
}

#[derive(Clone)]
enum Hasher {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    fn new(bank: PcrBank) -> Self {
        match bank {
            PcrBank::Sha1 => Self::Sha1(Sha1::new()),
            PcrBank::Sha256 => Self::Sha256(Sha256::new()),
            PcrBank::Sha384 => Self::Sha384(Sha384::new()),
            PcrBank::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn update_zeros(&mut self, mut len: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        while len > 0 {
            let step = len.min(ZEROS.len() as u64);
            self.update(ZEROS.get(..step as usize).unwrap_or(&ZEROS));
            len -= step;
        }
    }

    fn finish(self) -> Option<Digest> {
        match self {
            Self::Sha1(hasher) => Digest::from_bytes(PcrBank::Sha1, &hasher.finalize()),
            Self::Sha256(hasher) => Digest::from_bytes(PcrBank::Sha256, &hasher.finalize()),
            Self::Sha384(hasher) => Digest::from_bytes(PcrBank::Sha384, &hasher.finalize()),
            Self::Sha512(hasher) => Digest::from_bytes(PcrBank::Sha512, &hasher.finalize()),
        }
        .ok()
    }
}

/// One recipe on its way. Without a hasher it only tells what is to be read.
struct Job {
    recipe: usize,
    /// What is left, the next part last.
    left: Vec<Part>,
    hasher: Option<Hasher>,
    /// Recipes that begin with all of this one, and go on when it is done.
    next: Vec<Job>,
}

impl Job {
    /// Bytes that this job and those after it digest.
    fn work(&self) -> u64 {
        let own = self.left.iter().map(|part| match part {
            Part::Read { start, end, .. } => end.saturating_sub(*start),
            Part::Zeros(len) => *len,
            Part::Bytes(bytes) => bytes.len() as u64,
        });
        own.chain(self.next.iter().map(Self::work)).fold(0, u64::saturating_add)
    }

    /// Adds source, place and end of every part that can be read next.
    fn wants(&self, wanted: &mut Vec<(usize, u64, u64)>) {
        match self.left.last() {
            Some(Part::Read { source, start, end }) => wanted.push((*source, *start, *end)),
            Some(_) => {}
            None => self.next.iter().for_each(|job| job.wants(wanted)),
        }
    }

    /// Takes what needs no reading, and starts the next jobs when nothing is left.
    fn settle(&mut self) {
        while let Some(Part::Bytes(_) | Part::Zeros(_)) = self.left.last() {
            let part = self.left.pop();
            let Some(hasher) = &mut self.hasher else { continue };
            match part {
                Some(Part::Bytes(bytes)) => hasher.update(&bytes),
                Some(Part::Zeros(len)) => hasher.update_zeros(len),
                _ => {}
            }
        }
        if self.left.is_empty() {
            for job in &mut self.next {
                job.hasher.clone_from(&self.hasher);
                job.settle();
            }
        }
    }

    /// Takes what it can of a chunk that lies at `at` in `source`.
    fn feed(&mut self, source: usize, at: u64, chunk: &[u8]) {
        let chunk_end = at.saturating_add(chunk.len() as u64);
        if self.left.is_empty() {
            self.next.iter_mut().for_each(|job| job.feed(source, at, chunk));
        }
        while let Some(Part::Read { source: of, start, end }) = self.left.last_mut()
            && *of == source
            && (at..chunk_end).contains(start)
        {
            let stop = chunk_end.min(*end);
            if let Some(hasher) = &mut self.hasher {
                let taken = (*start - at) as usize..(stop - at) as usize;
                hasher.update(chunk.get(taken).unwrap_or_default());
            }
            *start = stop;
            if stop == *end {
                self.left.pop();
                self.settle();
                if self.left.is_empty() {
                    self.next.iter_mut().for_each(|job| job.feed(source, at, chunk));
                }
            }
        }
    }

    fn finish(self, digests: &mut Vec<(usize, Digest)>) {
        digests.extend(self.hasher.and_then(Hasher::finish).map(|digest| (self.recipe, digest)));
        self.next.into_iter().for_each(|job| job.finish(digests));
    }

    /// Finds the place of a recipe among jobs of shorter ones.
    fn insert(jobs: &mut Vec<Self>, recipes: &[Vec<Part>], recipe: usize) {
        let parts = |recipe: usize| recipes.get(recipe).map(Vec::as_slice).unwrap_or_default();
        let (mut level, mut begun) = (jobs, 0);
        loop {
            let begins = |job: &Self| {
                let other = parts(job.recipe);
                !other.is_empty() && parts(recipe).starts_with(other)
            };
            let Some(place) = level.iter().position(begins) else { break };
            let Some(job) = level.get_mut(place) else { return };
            begun = parts(job.recipe).len();
            level = &mut job.next;
        }
        let left = parts(recipe).iter().skip(begun).rev().cloned().collect();
        level.push(Self { recipe, left, hasher: None, next: vec![] });
    }
}

/// Jobs that see the same chunks.
#[derive(Default)]
pub(super) struct Jobs {
    jobs: Vec<Job>,
}

impl Jobs {
    fn new(recipes: &[Vec<Part>], hasher: Option<&Hasher>) -> Self {
        let mut order: Vec<usize> = (0..recipes.len()).collect();
        order.sort_by_key(|recipe| recipes.get(*recipe).map_or(0, Vec::len));
        let mut jobs = vec![];
        for recipe in order {
            Job::insert(&mut jobs, recipes, recipe);
        }
        for job in &mut jobs {
            job.hasher = hasher.cloned();
        }
        Self { jobs }
    }

    /// Jobs that tell what is to be read.
    pub(super) fn planning(recipes: &[Vec<Part>]) -> Self {
        let mut all = Self::new(recipes, None);
        all.jobs.iter_mut().for_each(Job::settle);
        all
    }

    /// Jobs for every recipe and bank, in two shares, the second not the larger one.
    pub(super) fn digesting(recipes: &[Vec<Part>], banks: &[PcrBank]) -> (Self, Self) {
        let of_bank = |bank: &PcrBank| Self::new(recipes, Some(&Hasher::new(*bank))).jobs;
        let mut all: Vec<Job> = banks.iter().flat_map(of_bank).collect();
        all.sort_by_cached_key(|job| std::cmp::Reverse(job.work()));
        let (mut first, mut second) = (Self::default(), Self::default());
        let (mut first_work, mut second_work) = (0_u64, 0_u64);
        for job in all {
            let work = job.work();
            if first_work <= second_work {
                first_work = first_work.saturating_add(work);
                first.jobs.push(job);
            } else {
                second_work = second_work.saturating_add(work);
                second.jobs.push(job);
            }
        }
        for job in first.jobs.iter_mut().chain(&mut second.jobs) {
            job.settle();
        }
        if first_work < second_work { (second, first) } else { (first, second) }
    }

    /// Adds the jobs of another share.
    pub(super) fn extend(&mut self, other: Self) {
        self.jobs.extend(other.jobs);
    }

    /// Bytes still to be digested.
    pub(super) fn work(&self) -> u64 {
        self.jobs.iter().map(Job::work).fold(0, u64::saturating_add)
    }

    /// Where the next pass begins: the source, and the first byte of it that a job waits for.
    pub(super) fn next_pass(&self) -> Option<(usize, u64)> {
        let wanted = self.wanted();
        let (source, ..) = *wanted.first()?;
        let of_source = wanted.iter().filter(|(of, ..)| *of == source);
        of_source.map(|(_, start, _)| *start).min().map(|start| (source, start))
    }

    /// Place and length of the next chunk at or after `from`; `None` when the pass is over.
    pub(super) fn next_read(&self, source: usize, from: u64, chunk: u64) -> Option<(u64, u64)> {
        let mut wanted = self.wanted();
        wanted.retain(|(of, start, _)| *of == source && *start >= from);
        let first = wanted.iter().map(|(_, start, _)| *start).min()?;
        let limit = first.saturating_add(chunk);
        wanted.retain(|(_, start, _)| *start < limit);
        let last = wanted.iter().map(|(.., end)| *end).max()?.min(limit);
        Some((first, last.saturating_sub(first)))
    }

    fn wanted(&self) -> Vec<(usize, u64, u64)> {
        let mut wanted = vec![];
        self.jobs.iter().for_each(|job| job.wants(&mut wanted));
        wanted
    }

    /// Gives every job its share of a chunk.
    pub(super) fn feed(&mut self, source: usize, at: u64, chunk: &[u8]) {
        self.jobs.iter_mut().for_each(|job| job.feed(source, at, chunk));
    }

    /// The digests, each with the number of its recipe.
    pub(super) fn finish(self) -> Vec<(usize, Digest)> {
        let mut digests = vec![];
        self.jobs.into_iter().for_each(|job| job.finish(&mut digests));
        digests
    }
}
