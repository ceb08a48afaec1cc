//! A group: 512 frames of 4 KiB that together are one frame of 2 MiB.
//!
//! ```text
//! frame     0         64                       448       511
//! managed   ├─ word 0 ─┼─ word 1 ─┤   …   ├─ word 7 ─┤      1: the allocator manages the frame
//! free      ├─ word 0 ─┼─ word 1 ─┤   …   ├─ word 7 ─┤      1: the frame is free
//! free_count, and the indices of the next and the previous group in a list
//! ```

use core::ops::Range;

/// The number of frames in a group.
pub const GROUP_FRAMES: usize = 512;

const WORD_BITS: usize = u64::BITS as usize;
const WORDS: usize = GROUP_FRAMES / WORD_BITS;

/// The index that stands for no group.
pub(super) const NONE: u32 = u32::MAX;

/// The state of 512 frames. The table of the allocator is an array of groups.
#[derive(Debug, Clone)]
pub struct Group {
    /// The frames that the allocator manages.
    managed: [u64; WORDS],
    /// The free frames: a subset of `managed`.
    free: [u64; WORDS],
    /// The number of bits set in `free`.
    free_count: u16,
    /// The next group in the same list.
    pub(super) next: u32,
    /// The previous group in the same list.
    pub(super) previous: u32,
}

/// The reason why a frame could not be freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejected {
    /// The allocator does not manage the frame.
    NotManaged,
    /// The frame is free already.
    AlreadyFree,
}

impl Group {
    /// A group without frames.
    pub const EMPTY: Self = Self {
        managed: [0; WORDS],
        free: [0; WORDS],
        free_count: 0,
        next: NONE,
        previous: NONE,
    };

    /// Returns the number of free frames.
    pub(super) fn free_count(&self) -> usize {
        usize::from(self.free_count)
    }

    /// Returns the number of managed frames.
    pub(super) fn managed_count(&self) -> usize {
        self.managed
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// Adds frames, as free frames. Frames that are managed already stay unchanged.
    pub(super) fn manage(&mut self, frames: Range<usize>) {
        for (index, mask) in masks(frames) {
            self.free[index] |= mask & !self.managed[index];
            self.managed[index] |= mask;
        }
        self.count();
    }

    /// Removes frames, free or not.
    pub(super) fn withdraw(&mut self, frames: Range<usize>) {
        for (index, mask) in masks(frames) {
            self.free[index] &= !mask;
            self.managed[index] &= !mask;
        }
        self.count();
    }

    /// Computes the number of free frames, which is at most 512.
    fn count(&mut self) {
        self.free_count = self.free.iter().map(|word| word.count_ones() as u16).sum();
    }

    /// Allocates the lowest free frame, and returns its index.
    pub(super) fn allocate(&mut self) -> Option<usize> {
        let index = self.free.iter().position(|&word| word != 0)?;
        let bit = self.free[index].trailing_zeros() as usize;
        self.free[index] &= self.free[index] - 1;
        self.free_count -= 1;
        Some(index * WORD_BITS + bit)
    }

    /// Frees the frame at an index.
    pub(super) fn free(&mut self, frame: usize) -> Result<(), Rejected> {
        let (index, mask) = (frame / WORD_BITS, 1 << (frame % WORD_BITS));
        if self.managed[index] & mask == 0 {
            return Err(Rejected::NotManaged);
        }
        if self.free[index] & mask != 0 {
            return Err(Rejected::AlreadyFree);
        }
        self.free[index] |= mask;
        self.free_count += 1;
        Ok(())
    }

    /// Allocates all frames. All of them must be free.
    pub(super) fn allocate_whole(&mut self) {
        debug_assert_eq!(self.free_count(), GROUP_FRAMES);
        self.free = [0; WORDS];
        self.free_count = 0;
    }

    /// Frees all frames. All of them must be in use.
    pub(super) fn free_whole(&mut self) -> Result<(), Rejected> {
        if self.managed != [u64::MAX; WORDS] {
            return Err(Rejected::NotManaged);
        }
        if self.free_count != 0 {
            return Err(Rejected::AlreadyFree);
        }
        self.free = [u64::MAX; WORDS];
        self.free_count = GROUP_FRAMES as u16;
        Ok(())
    }
}

/// Returns the indices of the words for a range of frames, and their bits in each word.
fn masks(frames: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    (0..WORDS).filter_map(move |index| {
        let first = index * WORD_BITS;
        let start = frames.start.saturating_sub(first);
        let end = frames.end.saturating_sub(first).min(WORD_BITS);
        (start < end).then(|| (index, u64::MAX >> (WORD_BITS - (end - start)) << start))
    })
}
