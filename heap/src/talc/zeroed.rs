//! Memory that is known to be zero, and so need not be cleared.
//!
//! ```text
//!                base of the top gap     from                       heap end
//!      ┄──────────┬────────┬──────────────┬──────────────────┬────────┐
//!       allocated │ header │ freed before │ zero             │ extent │
//!      ┄──────────┴────────┴──────────────┴──────────────────┴────────┘
//! ```
//!
//! A source may grant memory that is zero. Allocations come from the bottom of a gap, so memory
//! that was never allocated lies at the top of its heap. An allocation need not be noted: it takes
//! memory out of the top gap. Only when freed memory extends the top gap downwards is it noted up
//! to which address memory had been in use. The cost is limited to that case, and to sources that
//! may [grant zeroed memory](Source::GRANTS_ZEROED).
//!
//! One heap is remembered: the one that was granted such memory last. So is the memory that a
//! source has restored in a hole for the allocation that is under way.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::NonNull;

use super::Talc;
use super::allocate::Request;
use super::binning::Binning;
use super::gap_header::{Gap, GapHeader};
use super::source::Source;

/// Smaller allocations are cleared completely: that costs less than a look-up.
const MIN_SIZE: usize = 1024;

/// The memory that is known to be zero.
pub(super) struct KnownZero {
    /// In the gap that ends a heap at `end`, all memory above this address and above the gap's
    /// header is zero, except for the last word.
    from: usize,
    /// The end of that heap; zero if no heap is known.
    end: usize,
    /// Memory that was restored as zeros for the allocation that is under way. A gap's header or
    /// last word may lie in it.
    restored: (usize, usize),
}

impl KnownZero {
    pub(super) const fn new() -> Self {
        Self {
            from: 0,
            end: 0,
            restored: (0, 0),
        }
    }

    /// Notes that a chunk which ended at `end` was freed into the top gap of the heap that ends at
    /// `heap_end`. A gap's header may still lie above the chunk.
    #[inline]
    pub(super) fn note_freed(&mut self, end: NonNull<u8>, heap_end: NonNull<u8>) {
        if self.end == heap_end.addr().get() {
            self.from = self.from.max(end.addr().get() + size_of::<GapHeader>());
        }
    }

    /// Notes that a heap which ended at `old_end` now ends at `new_end`.
    #[inline]
    pub(super) fn note_end(&mut self, old_end: NonNull<u8>, new_end: usize) {
        if self.end == old_end.addr().get() {
            // The added memory may have any contents.
            let is_lower = new_end <= self.end;
            self.end = if is_lower { new_end } else { 0 };
        }
    }

    /// Forgets the heap that ended at `end`.
    pub(super) fn forget(&mut self, end: NonNull<u8>) {
        if self.end == end.addr().get() {
            self.end = 0;
        }
    }

    /// Returns the addresses in a gap that are known to be zero.
    fn part_of(&self, gap: Gap) -> Range<usize> {
        let base = gap.base.addr().get() + size_of::<GapHeader>();
        let end = gap.end().addr().get() - size_of::<usize>();
        let restored = self.restored.0.max(base)..self.restored.1.min(end);
        if gap.end().addr().get() != self.end {
            return restored;
        }
        let at_top = self.from.max(base)..end;
        if at_top.len() >= restored.len() {
            at_top
        } else {
            restored
        }
    }
}

/// An allocation that has yet to be cleared.
///
/// ```text
///     block         + 24                                  + 4008         + 4015
///     ├─────────────┼─────────────────────────────────────┼──────────────┤
///     │ to be       │ known to be zero                    │ to be        │    bytes(): 31
///     │ cleared     │                                     │ cleared      │
///     └─────────────┴─────────────────────────────────────┴──────────────┘
///      a gap had its header here                           and its last word here
/// ```
///
/// [Clearing](Self::clear) takes time, and so is left to the caller, who may release a lock first.
#[must_use = "the allocation is not cleared yet"]
#[derive(Debug)]
pub struct Uncleared {
    block: NonNull<u8>,
    size: usize,
    /// The offsets from `block`, within the block, of bytes that are zero.
    zeroed: Range<usize>,
}

// SAFETY: the value has exclusive access to the memory of its block.
unsafe impl Send for Uncleared {}

impl Uncleared {
    /// Returns the allocation at `block`. `zeroed` is a range of addresses, of any extent.
    #[inline]
    fn new(block: NonNull<u8>, size: usize, zeroed: Range<usize>) -> Self {
        let offset = |address: usize| address.saturating_sub(block.addr().get()).min(size);
        let zeroed = offset(zeroed.start)..offset(zeroed.end);
        Self {
            block,
            size,
            zeroed,
        }
    }

    /// Returns the number of bytes that are not known to be zero, on both sides in the
    /// [diagram](Self). O(1).
    pub fn bytes(&self) -> usize {
        self.size - self.zeroed.len()
    }

    /// Clears the allocation and returns it. Writes [`bytes`](Self::bytes) bytes.
    ///
    /// # Safety
    /// The allocation has not been freed, and the allocator's memory still exists.
    #[inline]
    pub unsafe fn clear(self) -> NonNull<u8> {
        let Self {
            block,
            size,
            zeroed,
        } = self;
        // SAFETY: `zeroed` lies within the block, so the bytes below it do.
        unsafe { block.write_bytes(0, zeroed.start) };
        // SAFETY: `zeroed` ends within the block or at its end.
        let above = unsafe { block.byte_add(zeroed.end) };
        // SAFETY: the block has this many bytes above `zeroed`.
        unsafe { above.write_bytes(0, size - zeroed.end) };
        block
    }
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// [Allocates](Talc::allocate) memory that is to be zero, without clearing it. The result says
    /// which bytes are known to be zero already. Returns `None` as `allocate` does.
    ///
    /// The cost is that of `allocate`. Bytes are known to be zero only in allocations of 1 KiB or
    /// more, and only in memory that the [`Source`] granted as zero.
    ///
    /// ```
    /// # use core::alloc::Layout;
    /// # use heap::talc::{DefaultBinning, base::Talc, source::Manual};
    /// # let mut memory = [0xaa_u8; 10_000];
    /// # let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// // SAFETY: only `talc` uses `memory`, which outlives it.
    /// unsafe {
    ///     talc.claim(memory.as_mut_ptr(), size_of_val(&memory)).expect("large enough");
    ///     let layout = Layout::new::<[u8; 4000]>();
    ///     let uncleared = talc.allocate_uncleared(layout).expect("there is room");
    ///     assert_eq!(uncleared.bytes(), 4000); // `Manual` grants nothing
    ///     let block = uncleared.clear().cast::<[u8; 4000]>();
    ///     assert_eq!(block.read(), [0; 4000]);
    /// }
    /// ```
    ///
    /// # Safety
    /// `layout.size()` is not zero.
    #[doc(alias("calloc", "alloc_zeroed"))]
    #[inline]
    pub unsafe fn allocate_uncleared(&mut self, layout: Layout) -> Option<Uncleared> {
        self.forget_restored();
        self.allocate_uncleared_by(layout, Self::find_or_acquire)
    }

    /// Allocates memory that is to be zero on the fast path, or else from the gap that `find`
    /// returns.
    #[inline]
    pub(super) fn allocate_uncleared_by(
        &mut self,
        layout: Layout,
        find: impl FnOnce(&mut Self, &Request, Layout) -> Option<Gap>,
    ) -> Option<Uncleared> {
        let size = layout.size();
        if grants_zeroed::<S>() && size >= MIN_SIZE {
            let request = Request::new(layout);
            let gap = find(self, &request, layout)?;
            let zeroed = self.known_zero.part_of(gap);
            // SAFETY: the gap was found in its list, and the request fits in it.
            let block = unsafe { self.allocate_from(gap, &request, layout) };
            return Some(Uncleared::new(block, size, zeroed));
        }
        let block = self.allocate_by(layout, find)?;
        Some(Uncleared::new(block, size, 0..0))
    }

    /// Notes that memory was restored as zeros for the allocation that is under way. Once the lock
    /// has been free, others may have used it: the next request forgets it first.
    pub(crate) fn note_restored(&mut self, base: NonNull<u8>, size: usize) {
        if grants_zeroed::<S>() {
            let base = base.addr().get();
            self.known_zero.restored = (base, base + size);
        }
    }

    /// Forgets memory that was restored for another allocation.
    #[inline]
    pub(crate) fn forget_restored(&mut self) {
        self.known_zero.restored = (0, 0);
    }

    /// [Claims](Talc::claim) memory that is zero.
    ///
    /// ```text
    ///     ┌─┬──────────────┬───────────┬────────────────────────────────────────────┬─────────┐
    ///     │t│ (list heads) │ header 24 │ known to be zero                           │ word: 8 │
    ///     └─┴──────────────┴───────────┴────────────────────────────────────────────┴─────────┘
    ///                      ├─ the gap ────────────────────────────────────────────────────────┤
    /// ```
    ///
    /// This is `claim`, unless the source sets [`GRANTS_ZEROED`](Source::GRANTS_ZEROED). One heap
    /// is remembered: the last that was claimed or extended with zeroed memory.
    ///
    /// ```
    /// # use core::alloc::Layout;
    /// use heap::talc::base::{Talc, binning::Binning};
    /// use heap::talc::{DefaultBinning, source::Source};
    ///
    /// #[derive(Debug)]
    /// struct Zeroed;
    /// // SAFETY: the source only leaves heaps as they are.
    /// unsafe impl Source for Zeroed {
    ///     const TRACK_HEAP_END: bool = true;
    ///     const GRANTS_ZEROED: bool = true;
    ///     fn acquire<B: Binning>(_: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
    ///         Err(())
    ///     }
    /// }
    ///
    /// let mut memory = [0_usize; 4096];
    /// let mut talc = Talc::<_, DefaultBinning>::new(Zeroed);
    /// // SAFETY: only `talc` uses `memory`, which outlives it. It is zero.
    /// unsafe {
    ///     let base = memory.as_mut_ptr().cast();
    ///     talc.claim_zeroed(base, size_of_val(&memory)).expect("large enough");
    ///     let layout = Layout::new::<[u8; 4000]>();
    ///     let block = talc.allocate_uncleared(layout).expect("there is room");
    ///     // The gap's header was there. (With `hardened`, free memory is poisoned instead.)
    ///     let header = 3 * size_of::<usize>();
    ///     assert_eq!(block.bytes(), if cfg!(feature = "hardened") { 4000 } else { header });
    ///     block.clear();
    /// }
    /// ```
    ///
    /// # Safety
    /// As for [`claim`](Talc::claim), and the memory is zero.
    pub unsafe fn claim_zeroed(&mut self, base: *mut u8, size: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller gives the memory as for `claim`.
        let end = unsafe { self.claim(base, size) }?;
        if grants_zeroed::<S>() {
            // The words that `claim` wrote are outside the gap, or in its header.
            self.known_zero.from = base.addr();
            self.known_zero.end = end.addr().get();
        }
        Some(end)
    }

    /// [Extends](Talc::extend) a heap by memory that is zero from `zero_from` up, which is
    /// `heap_end` or above.
    ///
    /// ```text
    ///                        heap_end        zero_from                   new_end
    ///     ┄──────────────────┬───────────────┬───────────────────────────┐
    ///      in use, or free   │ anything      │ zero                      │
    ///     ┄──────────────────┴───────────────┴───────────────────────────┘
    /// ```
    ///
    /// If both are the same, memory below `heap_end` that was known to be zero still is.
    ///
    /// This is `extend`, unless the source sets [`GRANTS_ZEROED`](Source::GRANTS_ZEROED).
    ///
    /// # Safety
    /// As for [`extend`](Talc::extend), and the memory is zero from `zero_from` to the returned
    /// end.
    pub unsafe fn extend_zeroed(
        &mut self,
        heap_end: NonNull<u8>,
        new_end: *mut u8,
        zero_from: *mut u8,
    ) -> NonNull<u8> {
        let continues =
            self.known_zero.end == heap_end.addr().get() && zero_from == heap_end.as_ptr();
        let from = if continues {
            self.known_zero.from
        } else {
            zero_from.addr()
        };
        // SAFETY: the caller gives the memory as for `extend`.
        let end = unsafe { self.extend(heap_end, new_end) };
        if grants_zeroed::<S>() && end > heap_end {
            // SAFETY: the heap has just been extended by a gap, which ends at `end`.
            let gap = unsafe { Gap::ending_at(end) };
            // SAFETY: the word is below the heap's old end.
            let last_word = unsafe { heap_end.cast::<usize>().sub(1) };
            // If a gap ended at the old end, its last word is now in the middle of the new gap.
            if last_word.addr().get() >= gap.base.addr().get() + size_of::<GapHeader>() {
                // SAFETY: the word is in the gap, above its header, and describes nothing any more.
                unsafe { last_word.write(0) };
            }
            self.known_zero.from = from;
            self.known_zero.end = end.addr().get();
        }
        end
    }
}

/// Returns whether memory may be known to be zero: never with `hardened`, which poisons free
/// memory.
#[inline]
pub(super) const fn grants_zeroed<S: Source>() -> bool {
    const {
        assert!(
            S::TRACK_HEAP_END || !S::GRANTS_ZEROED,
            "GRANTS_ZEROED needs TRACK_HEAP_END"
        );
        S::GRANTS_ZEROED && cfg!(not(feature = "hardened"))
    }
}
