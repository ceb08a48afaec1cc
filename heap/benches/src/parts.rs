//! Timing on a busy machine.

use std::time::{Duration, Instant};

use crate::arena::Arena;
use crate::peer::Peer;
use crate::replay::{Slot, free_rest, replay_part};
use crate::trace::Trace;

/// Operations that are timed together, in some ten microseconds: hardly any replay is left alone as a
/// whole, but most of its parts are.
const PART: usize = 500;

/// The times of the parts of a replay, of each the shortest so far. A busy machine makes times longer,
/// never shorter.
pub struct Parts(Vec<Duration>);

impl Parts {
    /// Nothing is timed yet.
    pub fn new(trace: &Trace) -> Self {
        let parts = [trace.operations.len(), trace.slots].map(|len| len.div_ceil(PART));
        Self(vec![Duration::MAX; parts.iter().sum()])
    }

    /// Times one replay in a new heap.
    pub fn replay<P: Peer>(&mut self, arena: &Arena, trace: &Trace, slots: &mut [Slot]) {
        // SAFETY: the arena is nobody else's.
        let mut peer = unsafe { P::new(arena.base(), arena.size()) }.expect("the arena is large");
        let mut shortest = self.0.iter_mut();
        let mut note = |start: Instant| {
            let time = start.elapsed();
            let shortest = shortest.next().expect("there are so many parts");
            *shortest = time.min(*shortest);
        };
        for part in trace.operations.chunks(PART) {
            let start = Instant::now();
            assert!(replay_part(&mut peer, part, slots), "out of memory");
            note(start);
        }
        for part in slots.chunks_mut(PART) {
            let start = Instant::now();
            free_rest(&mut peer, part);
            note(start);
        }
    }

    /// How long a replay takes when nobody disturbs it. At least one was timed.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }
}
