//! What must hold after each step, and at the end.

use std::mem::size_of;

use heap::Span;
use heap::source::ArenaHeap;
use heap::talc::base::CHUNK_UNIT;
use heap::vmem::SegmentKind;

use super::actor::{Actor, is_pages};
use super::slabs::reap_all;
use super::{PAGE, Stack};
use crate::common::random::Choices;

/// Everything that can be seen agrees.
pub(crate) fn verify(actor: &Actor<'_, '_>) {
    let stack = actor.stack;
    stack.window.assert_no_fault();
    let heaps = check_heaps(stack);
    if let Some(slabs) = &stack.slabs {
        slabs.check().unwrap();
    }
    stack.arena.check().unwrap();
    if !stack.alone {
        return;
    }
    let ranges: Vec<_> = heaps
        .iter()
        .map(|heap| (heap.base.addr().get(), heap.end.addr().get()))
        .collect();
    actor.shadow.borrow().assert_within(&ranges);
    let sizes: usize = heaps.iter().map(|heap| heap.size).sum();
    let allocated = stack.arena.allocated_space();
    assert!(
        allocated >= sizes + actor.rented(),
        "{allocated:#x} of the arena are allocated, and in use are {heaps:x?}"
    );
    assert!(
        stack.arena.borrowed_space() == stack.window.lent(),
        "the arena has not what the window has lent"
    );
    let holes = stack.heap.lock().source.hole_bytes();
    if actor.is_at_rest() && is_all_taken_back(stack) {
        assert_eq!(
            stack.window.lent() - stack.window.mapped(),
            holes,
            "pages of the window that are lent and not mapped, and holes"
        );
    }
}

/// Returns whether the arena has no free memory of its own, and nothing waits to be given back: all
/// pages that are lent and not mapped are holes of the heap.
fn is_all_taken_back(stack: &Stack<'_, '_>) -> bool {
    stack.arena.free_space() == 0 && !stack.heap.lock().source.has_pending_releases()
}

/// Each record says where Talc's heap ends, and where the arena's segment does. Returns the heaps.
fn check_heaps(stack: &Stack<'_, '_>) -> Vec<ArenaHeap> {
    let talc = stack.heap.lock();
    talc.check().unwrap();
    let heaps: Vec<_> = talc.arena_heaps().collect();
    let retained: usize = heaps.iter().map(|heap| heap.retained).sum();
    assert_eq!(retained, talc.source.claimed(), "{heaps:x?}");
    for heap in &heaps {
        let base = heap.base.addr().get();
        let record = base + heap.retained - heap.end.addr().get();
        assert!(
            is_pages(base | heap.retained | heap.size) && heap.retained <= heap.size,
            "{heap:x?}"
        );
        assert!(
            (size_of::<[usize; 6]>()..=16 * size_of::<usize>()).contains(&record)
                && record % CHUNK_UNIT == 0,
            "{record} bytes for the record: {heap:x?}"
        );
        // SAFETY: `arena_heaps` lists heaps of this allocator.
        unsafe {
            talc.check_heap(Span::new(heap.base.as_ptr(), heap.end.as_ptr()))
                .unwrap_or_else(|corruption| panic!("{heap:x?}: {corruption:?}"));
            assert!(talc.reserved(heap.end).up_to <= heap.end, "{heap:x?}");
        }
    }
    // A drain may change a segment while the lock is free.
    if stack.alone {
        for heap in &heaps {
            let base = heap.base.addr().get();
            let segment = stack
                .arena
                .segment_of(base)
                .expect("a heap lies in the arena");
            assert_eq!(
                (segment.base, segment.last, segment.kind),
                (base, base + heap.size - 1, SegmentKind::Allocated),
                "the segment of {heap:x?}"
            );
        }
    }
    heaps
}

/// Asserts that the heaps retain all that the arena has allocated to them: nothing is queued.
pub(crate) fn assert_settled(actor: &Actor<'_, '_>) {
    let heaps = check_heaps(actor.stack);
    assert!(
        heaps.iter().all(|heap| heap.retained == heap.size),
        "{heaps:x?}"
    );
    let sizes: usize = heaps.iter().map(|heap| heap.size).sum();
    assert_eq!(actor.stack.arena.allocated_space(), sizes + actor.rented());
}

/// Frees all blocks, or leaves them to a heap that is dropped with them. Returns whether it left
/// them.
pub(crate) fn finish(
    stack: &Stack<'_, '_>,
    actors: &mut [Actor<'_, '_>],
    choices: &mut impl Choices,
) -> bool {
    stack.window.injection.cease();
    stack.window.limit(stack.window.pages());
    let in_use = choices.chance(4);
    for actor in &mut *actors {
        actor.finish(in_use);
    }
    stack.window.assert_no_fault();
    let last = &actors[0];
    if let Some(slabs) = stack.slabs.as_ref().filter(|_| !in_use) {
        reap_all(slabs);
        assert_eq!(slabs.stats().slabs(), 0, "{}", slabs.stats());
    }
    last.drain();
    assert_settled(last);
    if in_use {
        return stack.heap.lock().arena_heaps().count() > 0;
    }
    last.trim();
    last.drain();
    assert_settled(last);
    let heaps = check_heaps(stack);
    assert!(heaps.len() <= 1, "{heaps:x?}");
    assert!(
        stack.arena.allocated_space() <= 2 * PAGE,
        "more than the list heads is left: {heaps:x?}"
    );
    #[cfg(feature = "counters")]
    assert_eq!(stack.heap.lock().counters().allocated_bytes, 0);
    false
}
