//! Which hole becomes memory again, and how much of it.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::ArenaSource;
use super::hole::HoleRef;
use crate::talc::base::binning::Binning;
use crate::talc::base::{ChunkRequirement, Talc};
use crate::vmem::{Lock, TagSupply};

/// The smallest part of a hole that is restored, in bytes, unless the hole is smaller.
const MIN_RESTORED: usize = 16 << 10;

/// The number of holes that may be large enough, with the free memory beside them, and are probed.
const MAX_PROBES: usize = 8;

impl<A: TagSupply, L: Lock, B: Binning> Talc<ArenaSource<'_, A, L>, B> {
    /// Makes the lowest `size` bytes of a hole, which are memory again, free memory of the heap.
    pub(super) fn fill_hole(&mut self, hole: HoleRef, size: usize) {
        let base = hole.base();
        if size == hole.size() {
            let end = hole.chunk_end();
            if hole.is_untagged() {
                // SAFETY: the chunk is memory again, and one in use begins above.
                unsafe { self.write_tag(end) };
            }
            self.source.holes.delete(hole);
            // SAFETY: the hole's chunk is a carved one, and memory again.
            unsafe { self.uncarve(base, end) };
        } else {
            // SAFETY: `size` is less than the hole's.
            let new_base = unsafe { base.byte_add(size) };
            self.source.holes.update(hole, new_base, false);
            // SAFETY: the hole's chunk is a carved one, and memory again below `new_base`.
            unsafe { self.raise_carved(base, new_base) };
        }
        if self.source.is_zeroed {
            self.note_restored(base, size);
        }
    }

    /// Returns a hole in which `layout` fits, together with the free memory beside it: one of a few
    /// that may be large enough, from the lowest up, or else the lowest that certainly is. Returns
    /// also how many bytes from its base are preferred to become memory, and how many must.
    ///
    /// At least [`MIN_RESTORED`] are preferred: what is restored and not used is given back later.
    pub(super) fn choose_hole(
        &self,
        layout: Layout,
        quantum: usize,
    ) -> Option<(HoleRef, [usize; 2])> {
        let requirement = ChunkRequirement::new(layout);
        let holes = &self.source.holes;
        let sizes = |hole: HoleRef, required: usize| {
            [required.max(MIN_RESTORED).min(hole.size()), required]
        };
        let mut address = 0;
        let nearly = requirement.chunk_size().saturating_sub(2 * quantum);
        for _ in 0..MAX_PROBES {
            let hole = holes.first_of(nearly.max(1), address)?;
            if let Some(required) = self.required_of(hole, requirement, quantum) {
                return Some((hole, sizes(hole, required)));
            }
            address = hole.pages_end().addr().get();
        }
        let hole = holes.first_of(requirement.max_size().checked_next_multiple_of(quantum)?, 0)?;
        let required = self.required_of(hole, requirement, quantum)?;
        Some((hole, sizes(hole, required)))
    }

    /// Returns how many bytes from the base of a hole must become memory so that the chunk fits, or
    /// `None` if it does not even if all do.
    fn required_of(
        &self,
        hole: HoleRef,
        requirement: ChunkRequirement,
        quantum: usize,
    ) -> Option<usize> {
        let (base, pages_end) = (hole.base().addr().get(), hole.pages_end().addr().get());
        // SAFETY: the hole's chunk begins at its base.
        let free_base: NonNull<u8> = unsafe { self.free_below(hole.base()) };
        let end = requirement.end_above(free_base.addr().get())?;
        if end <= pages_end {
            let required = end.saturating_sub(base).next_multiple_of(quantum);
            return Some(required.max(quantum));
        }
        if hole.is_untagged() {
            return None;
        }
        // SAFETY: the hole's chunk ends there.
        let free_end = unsafe { self.free_above(hole.chunk_end()) };
        (end <= free_end.addr().get()).then(|| hole.size())
    }
}
