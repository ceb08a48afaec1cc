//! 512 frames of 4 KiB that are one frame of 2 MiB.
//!
//! ```text
//! frame     0         64                       448       511
//! managed   ├─ word 0 ─┼─ word 1 ─┤   …   ├─ word 7 ─┤      1: ours to hand out
//! free      ├─ word 0 ─┼─ word 1 ─┤   …   ├─ word 7 ─┤      1: not handed out now
//! free_count, and the neighbours in the list of groups that this one is in
//! ```

use core::ops::Range;

/// How many frames a group has.
pub const GROUP_FRAMES: usize = 512;

const WORD_BITS: usize = u64::BITS as usize;
const WORDS: usize = GROUP_FRAMES / WORD_BITS;

/// The number of no group.
pub(super) const NONE: u32 = u32::MAX;

/// What is known about 512 frames; the frame allocator's table is an array of these.
#[derive(Debug, Clone)]
pub struct Group {
    /// Frames that belong to the allocator.
    managed: [u64; WORDS],
    /// Frames that are free: a subset of `managed`.
    free: [u64; WORDS],
    /// The number of bits set in `free`.
    free_count: u16,
    /// The next group in the same list.
    pub(super) next: u32,
    /// The previous group in the same list.
    pub(super) previous: u32,
}

/// Why a frame could not be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rejected {
    /// It never belonged to the allocator.
    NotManaged,
    /// It is free already.
    AlreadyFree,
}

impl Group {
    /// A group of which no frame is the allocator's.
    pub const EMPTY: Self = Self {
        managed: [0; WORDS],
        free: [0; WORDS],
        free_count: 0,
        next: NONE,
        previous: NONE,
    };

    pub(super) fn free_count(&self) -> usize {
        usize::from(self.free_count)
    }

    pub(super) fn managed_count(&self) -> usize {
        self.managed
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// Makes frames the allocator's, free.
    pub(super) fn manage(&mut self, frames: Range<usize>) {
        for (index, mask) in masks(frames) {
            self.free[index] |= mask & !self.managed[index];
            self.managed[index] |= mask;
        }
        self.count();
    }

    /// Takes frames from the allocator, whatever they are used for.
    pub(super) fn withdraw(&mut self, frames: Range<usize>) {
        for (index, mask) in masks(frames) {
            self.free[index] &= !mask;
            self.managed[index] &= !mask;
        }
        self.count();
    }

    fn count(&mut self) {
        // At most 512.
        self.free_count = self.free.iter().map(|word| word.count_ones() as u16).sum();
    }

    /// Takes the lowest free frame.
    pub(super) fn allocate(&mut self) -> Option<usize> {
        let index = self.free.iter().position(|&word| word != 0)?;
        let bit = self.free[index].trailing_zeros() as usize;
        self.free[index] &= self.free[index] - 1;
        self.free_count -= 1;
        Some(index * WORD_BITS + bit)
    }

    /// Gives a frame back.
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

    /// Takes all frames, which are all free.
    pub(super) fn allocate_whole(&mut self) {
        debug_assert_eq!(self.free_count(), GROUP_FRAMES);
        self.free = [0; WORDS];
        self.free_count = 0;
    }

    /// Gives back all frames at once.
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

/// The words that a range of frames lies in, and which of their bits.
fn masks(frames: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    (0..WORDS).filter_map(move |index| {
        let first = index * WORD_BITS;
        let start = frames.start.saturating_sub(first);
        let end = frames.end.saturating_sub(first).min(WORD_BITS);
        (start < end).then(|| (index, u64::MAX >> (WORD_BITS - (end - start)) << start))
    })
}
