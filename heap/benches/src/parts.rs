//! Timing on a busy machine, part by part.

use std::time::{Duration, Instant};

use crate::arena::Arena;
use crate::peer::Peer;
use crate::replay::{Slot, free_rest, replay_part};
use crate::trace::Trace;

/// The number of operations that are timed together, in some ten microseconds. Hardly any whole
/// replay is undisturbed, but most of its parts are.
const PART: usize = 500;

/// The shortest times so far of the parts of a replay. A busy machine makes times longer, never
/// shorter.
pub struct Parts(Vec<Duration>);

impl Parts {
    /// Returns the parts of a trace, none of them timed yet.
    pub fn new(trace: &Trace) -> Self {
        let parts = [trace.operations.len(), trace.slots].map(|len| len.div_ceil(PART));
        Self(vec![Duration::MAX; parts.iter().sum()])
    }

    /// Times one replay in a new heap.
    pub fn replay<P: Peer>(&mut self, arena: &Arena, trace: &Trace, slots: &mut [Slot]) {
        // SAFETY: only this peer uses the arena.
        let mut peer = unsafe { P::new(arena.base(), arena.size()) }.expect("the arena is large");
        let mut shortest = self.0.iter_mut();
        let mut note = |start: Instant| {
            let time = start.elapsed();
            let shortest = shortest.next().expect("each part has a time");
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

    /// Returns the time of an undisturbed replay. At least one must have been timed.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }
}
