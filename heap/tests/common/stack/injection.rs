//! Fault injection: which calls of the source and of the supply of tags are refused.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::common::random::{Choices, Random};

/// A call that can be interrupted. All but the last can be refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Import,
    Extend,
    Shrink,
    Release,
    /// A boundary tag, or a page for an index.
    Tag,
    /// Of a lock, the heap's or the arena's.
    Unlock,
}

/// How many can be refused.
const CALLS: usize = Call::Unlock as usize;

/// How likely each call is refused, and how often each was.
#[derive(Default)]
pub struct Injection {
    /// Out of 16, by [`Call`].
    chances: [AtomicUsize; CALLS],
    /// What the next decision is drawn from.
    word: AtomicU64,
    granted: [AtomicUsize; CALLS],
    refused: [AtomicUsize; CALLS],
    /// Calls that give memory back are never refused, so that an arena has no free memory of its
    /// own.
    takes_all_back: bool,
    /// There are no tags, unless nothing is refused.
    short_of_tags: bool,
}

impl Injection {
    /// Nothing is refused yet. With `takes_all_back`, what gives memory back never is; with
    /// `short_of_tags` all tags are in every phase.
    pub fn new(takes_all_back: bool, short_of_tags: bool) -> Self {
        Self {
            takes_all_back,
            short_of_tags,
            ..Self::default()
        }
    }

    /// The decisions of the next step are drawn from `seed`.
    pub fn begin_step(&self, seed: u64) {
        self.word.store(seed, Relaxed);
    }

    /// Begins another phase: each kind of call is refused never, now and then, mostly, or always.
    pub fn change(&self, choices: &mut impl Choices) {
        for chance in &self.chances {
            chance.store(choices.pick(&[0, 0, 2, 8, 14, 16]), Relaxed);
        }
        if choices.chance(if self.short_of_tags { 1 } else { 8 }) {
            self.withhold_tags();
        }
    }

    /// From now on what is shrunk needs tags, and gets none.
    pub fn withhold_tags(&self) {
        self.chances[Call::Shrink as usize].store(16, Relaxed);
        self.chances[Call::Tag as usize].store(16, Relaxed);
    }

    /// Everything is granted from now on.
    pub fn cease(&self) {
        for chance in &self.chances {
            chance.store(0, Relaxed);
        }
    }

    /// Decides on a call.
    pub fn refuses(&self, call: Call) -> bool {
        if self.takes_all_back && matches!(call, Call::Shrink | Call::Release) {
            return false;
        }
        let word = self.word.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        Random::new(word).below(16) < self.chances[call as usize].load(Relaxed)
    }

    /// Notes how a call ended.
    pub fn note(&self, call: Call, granted: bool) {
        let counts = if granted {
            &self.granted
        } else {
            &self.refused
        };
        counts[call as usize].fetch_add(1, Relaxed);
    }

    /// How many calls of this kind were granted so far.
    pub fn granted(&self, call: Call) -> usize {
        self.granted[call as usize].load(Relaxed)
    }

    /// How many calls of this kind were refused so far.
    pub fn refused(&self, call: Call) -> usize {
        self.refused[call as usize].load(Relaxed)
    }
}
