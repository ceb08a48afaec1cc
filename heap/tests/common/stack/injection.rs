//! Fault injection: decides which calls of the source and of the tag supply are refused.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::common::random::{Choices, Random};

/// A call that can be interrupted. All but the last can be refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Import,
    Extend,
    Shrink,
    Release,
    Discard,
    Restore,
    /// A boundary tag, or a page for an index.
    Tag,
    /// The release of a lock of the heap or the arena.
    Unlock,
}

/// The number of kinds of calls that can be refused.
const CALLS: usize = Call::Unlock as usize;

/// The probability that each kind of call is refused, and counts of the results.
#[derive(Default)]
pub struct Injection {
    /// The probability of refusal in sixteenths, by [`Call`].
    chances: [AtomicUsize; CALLS],
    /// The state of the generator of decisions.
    word: AtomicU64,
    granted: [AtomicUsize; CALLS],
    refused: [AtomicUsize; CALLS],
    /// Calls that give memory back are never refused, so that an arena has no free memory of its
    /// own.
    takes_all_back: bool,
    /// Tags are refused in every phase, except after [`cease`](Self::cease).
    short_of_tags: bool,
}

impl Injection {
    /// Creates an injection that refuses nothing yet. With `takes_all_back` it never refuses calls
    /// that give memory back. With `short_of_tags` it refuses all tags in every phase.
    pub fn new(takes_all_back: bool, short_of_tags: bool) -> Self {
        Self {
            takes_all_back,
            short_of_tags,
            ..Self::default()
        }
    }

    /// Seeds the decisions of the next step.
    pub fn begin_step(&self, seed: u64) {
        self.word.store(seed, Relaxed);
    }

    /// Begins another phase: each kind of call is refused never, sometimes, mostly, or always.
    pub(crate) fn change(&self, choices: &mut impl Choices) {
        for chance in &self.chances {
            chance.store(choices.pick(&[0, 0, 2, 8, 14, 16]), Relaxed);
        }
        if choices.chance(if self.short_of_tags { 1 } else { 8 }) {
            self.withhold_tags();
        }
    }

    /// Refuses all shrinks and tags from now on: a refused shrink needs tags.
    pub fn withhold_tags(&self) {
        self.chances[Call::Shrink as usize].store(16, Relaxed);
        self.chances[Call::Tag as usize].store(16, Relaxed);
    }

    /// Refuses nothing from now on.
    pub fn cease(&self) {
        for chance in &self.chances {
            chance.store(0, Relaxed);
        }
    }

    /// Returns whether this call is refused.
    pub fn refuses(&self, call: Call) -> bool {
        if self.takes_all_back && matches!(call, Call::Shrink | Call::Release) {
            return false;
        }
        let word = self.word.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        Random::new(word).below(16) < self.chances[call as usize].load(Relaxed)
    }

    /// Counts the result of a call.
    pub fn note(&self, call: Call, granted: bool) {
        let counts = if granted {
            &self.granted
        } else {
            &self.refused
        };
        counts[call as usize].fetch_add(1, Relaxed);
    }

    /// Returns how many calls of this kind were granted so far.
    pub fn granted(&self, call: Call) -> usize {
        self.granted[call as usize].load(Relaxed)
    }

    /// Returns how many calls of this kind were refused so far.
    pub fn refused(&self, call: Call) -> usize {
        self.refused[call as usize].load(Relaxed)
    }
}
