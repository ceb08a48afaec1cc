//! Memory that is known to be zero, so that nobody clears it again.
//!
//! ```text
//!                base of the top gap     from                       heap end
//!      ┄──────────┬────────┬──────────────┬──────────────────┬────────┐
//!       allocated │ header │ freed before │ zero             │ extent │
//!      ┄──────────┴────────┴──────────────┴──────────────────┴────────┘
//! ```
//!
//! A source may grant memory that is zero. What is allocated comes from the bottom of a gap, so what
//! nobody has had yet is at the heap's top. Nothing needs to be noted when it is allocated:
//! then it is in the top gap no more. Only when the top gap gets larger, by what is freed below
//! it, is it noted up to where that had been in use. So this costs nothing but in that case, and only
//! with a source that may [grant zeroed memory](Source::GRANTS_ZEROED).
//!
//! It is known of one heap, that to which such memory was granted last.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::NonNull;

use super::Talc;
use super::allocate::Request;
use super::binning::Binning;
use super::gap_header::{Gap, GapHeader};
use super::source::Source;

/// To clear less is not worth a search of its own.
const MIN_SIZE: usize = 1024;

/// Where memory is zero.
pub(super) struct KnownZero {
    /// In the gap that ends a heap at `end`, all above this and above its header is zero, but for its
    /// last word.
    from: usize,
    /// Where that heap ends; zero if there is none.
    end: usize,
}

impl KnownZero {
    pub(super) const fn new() -> Self {
        Self { from: 0, end: 0 }
    }

    /// A chunk that ended at `end` was freed, and is now part of the top gap of the heap that ends at
    /// `heap_end`. There may still be a header above it.
    #[inline]
    pub(super) fn note_freed(&mut self, end: NonNull<u8>, heap_end: NonNull<u8>) {
        if self.end == heap_end.addr().get() {
            self.from = self.from.max(end.addr().get() + size_of::<GapHeader>());
        }
    }

    /// A heap that ended at `old_end` ends at `new_end`.
    #[inline]
    pub(super) fn note_end(&mut self, old_end: NonNull<u8>, new_end: usize) {
        if self.end == old_end.addr().get() {
            // Of what was added nothing is known.
            let is_lower = new_end <= self.end;
            self.end = if is_lower { new_end } else { 0 };
        }
    }

    /// The heap that ended at `end` is gone.
    pub(super) fn forget(&mut self, end: NonNull<u8>) {
        if self.end == end.addr().get() {
            self.end = 0;
        }
    }

    /// The part of a gap that is zero.
    fn part_of(&self, gap: Gap) -> Range<usize> {
        if gap.end().addr().get() != self.end {
            return 0..0;
        }
        let from = self
            .from
            .max(gap.base.addr().get() + size_of::<GapHeader>());
        from..self.end - size_of::<usize>()
    }
}

/// An allocation that shall be zero, and is not yet.
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
/// It is to be [cleared](Self::clear), which takes time and so is left for when no lock is held.
#[must_use = "it is not cleared yet"]
#[derive(Debug)]
pub struct Uncleared {
    block: NonNull<u8>,
    size: usize,
    /// The offsets from `block` of bytes that are zero: within the block.
    zeroed: Range<usize>,
}

// SAFETY: it is memory that nobody else has.
unsafe impl Send for Uncleared {}

impl Uncleared {
    /// `zeroed` are addresses.
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

    /// How many bytes are still to be cleared: those that are not known to be zero, in the
    /// [diagram](Self) on both sides. O(1).
    pub fn bytes(&self) -> usize {
        self.size - self.zeroed.len()
    }

    /// Clears the allocation, and returns it. Writes [`bytes`](Self::bytes) bytes.
    ///
    /// # Safety
    /// It has not been freed, and the allocator's memory is still there.
    #[inline]
    pub unsafe fn clear(self) -> NonNull<u8> {
        let Self {
            block,
            size,
            zeroed,
        } = self;
        // SAFETY: this is all in the block.
        unsafe {
            block.write_bytes(0, zeroed.start);
            let above = block.byte_add(zeroed.end);
            above.write_bytes(0, size - zeroed.end);
        }
        block
    }
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// [Allocates](Talc::allocate) memory that shall be zero. It is returned with what is known about
    /// which of it already is. `None` as there.
    ///
    /// In constant time, as there: nothing is cleared yet. Only of 1 KiB or more, and of memory
    /// that the [`Source`] granted as zero, anything is known.
    ///
    /// ```
    /// # use core::alloc::Layout;
    /// # use heap::talc::{DefaultBinning, base::Talc, source::Manual};
    /// # let mut memory = [0xaa_u8; 10_000];
    /// # let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// // SAFETY: nobody else uses `memory` as long as `talc` does.
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
    #[inline]
    pub unsafe fn allocate_uncleared(&mut self, layout: Layout) -> Option<Uncleared> {
        let size = layout.size();
        if grants_zeroed::<S>() && size >= MIN_SIZE {
            let request = Request::new(layout);
            let gap = self.find_or_acquire(&request, layout)?;
            let zeroed = self.known_zero.part_of(gap);
            // SAFETY: the request fits in the gap.
            let block = unsafe { self.allocate_from(gap, &request, layout) };
            return Some(Uncleared::new(block, size, zeroed));
        }
        // SAFETY: the caller's duty.
        let block = unsafe { self.allocate(layout) }?;
        Some(Uncleared::new(block, size, 0..0))
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
    /// It has no advantage over that unless the source's [`GRANTS_ZEROED`](Source::GRANTS_ZEROED) is set.
    /// It is known of one heap: the last that was claimed or extended so.
    ///
    /// ```
    /// # use core::alloc::Layout;
    /// use heap::talc::base::{Talc, binning::Binning};
    /// use heap::talc::{DefaultBinning, source::Source};
    ///
    /// #[derive(Debug)]
    /// struct Zeroed;
    /// // SAFETY: it does nothing but keep heaps as they are.
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
    /// // SAFETY: nobody else uses `memory` as long as `talc` does. It is zero.
    /// unsafe {
    ///     let base = memory.as_mut_ptr().cast();
    ///     talc.claim_zeroed(base, size_of_val(&memory)).expect("large enough");
    ///     let layout = Layout::new::<[u8; 4000]>();
    ///     let block = talc.allocate_uncleared(layout).expect("there is room");
    ///     // Where the gap's header was. (With `hardened`, free memory is poison instead.)
    ///     let header = 3 * size_of::<usize>();
    ///     assert_eq!(block.bytes(), if cfg!(feature = "hardened") { 4000 } else { header });
    ///     block.clear();
    /// }
    /// ```
    ///
    /// # Safety
    /// As there, and the memory is zero.
    pub unsafe fn claim_zeroed(&mut self, base: *mut u8, size: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's duty.
        let end = unsafe { self.claim(base, size) }?;
        if grants_zeroed::<S>() {
            // What was written there is not in the gap, or its header.
            self.known_zero = KnownZero {
                from: base.addr(),
                end: end.addr().get(),
            };
        }
        Some(end)
    }

    /// [Extends](Talc::extend) a heap by memory that is zero from `zero_from` up, which is `heap_end` or
    /// above.
    ///
    /// ```text
    ///                        heap_end        zero_from                   new_end
    ///     ┄──────────────────┬───────────────┬───────────────────────────┐
    ///      in use, or free   │ anything      │ zero                      │
    ///     ┄──────────────────┴───────────────┴───────────────────────────┘
    /// ```
    ///
    /// If they are the same, what was known to be zero below `heap_end` still is.
    ///
    /// It has no advantage over that unless the source's [`GRANTS_ZEROED`](Source::GRANTS_ZEROED) is set.
    ///
    /// # Safety
    /// As there, and the memory is zero from `zero_from` to the returned end.
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
        // SAFETY: the caller's duty.
        let end = unsafe { self.extend(heap_end, new_end) };
        if grants_zeroed::<S>() && end > heap_end {
            // SAFETY: the heap ends with the gap that was just made there.
            let gap = unsafe { Gap::ending_at(end) };
            // SAFETY: the word is below the heap's old end.
            let last_word = unsafe { heap_end.cast::<usize>().sub(1) };
            // A gap's last word, unless no gap was there, or one as small as a header.
            if last_word.addr().get() >= gap.base.addr().get() + size_of::<GapHeader>() {
                // SAFETY: the word is in the gap, and does not describe it any more.
                unsafe { last_word.write(0) };
            }
            self.known_zero = KnownZero {
                from,
                end: end.addr().get(),
            };
        }
        end
    }
}

/// Whether anything is to be known about memory that is zero. Free memory is poison with `hardened`.
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
