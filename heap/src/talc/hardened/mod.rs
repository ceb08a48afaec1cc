//! Detection of misuse and of heap corruption, with the feature `hardened`.
//!
//! Each allocation has a *redzone* above it with a description of the allocation. All free memory
//! is *poisoned*. Tags carry checksums. [`Misuse`] lists what is detected: at the latest when the
//! allocation is freed or resized, or when the memory is allocated again.
//! [`check`](super::base::Talc::check) finds the same in a heap at rest.
//!
//! A finding is [reported](Report) to a [hook](super::base::Talc::set_hook), which panics unless
//! another one is set. When the hook returns, the operation has been refused and changes nothing: a
//! block that was freed wrongly stays allocated for good, and a block that was resized wrongly
//! keeps its size. An allocation does not fail because of a write to free memory: it takes a gap
//! whose header is intact. The allocator remains usable. Heap records and list heads that were
//! overwritten are restored once they have been reported.
//!
//! Two kinds of misuse stay undetected: a stale pointer to a block that was freed and then
//! allocated again, and writes that leave gaps, redzones and tags unchanged.
//!
//! ```text
//!     base           + requested                    the chunk's end         the gap's end
//!     ┌──────────────┬───────────┬─────────┬────────┬───────────────────────┬───────────────┐
//!     │ allocation   │ bb bb …   │ redzone │ tag    │ extent next referrer  │ dead beef … e │
//!     └──────────────┴───────────┴─────────┴────────┴───────────────────────┴───────────────┘
//!      as requested   to a unit   4 words   1 word   3 words                 e: 1 word
//! ```
//!
//! A redzone and a tag take 40 bytes of each chunk (20 on 32-bit machines). Freeing takes time in
//! proportion to the block, which is poisoned. Allocating takes time in proportion to the memory
//! that is taken from a gap, whose poison is checked. Both also take time in proportion to the
//! number of heaps. After a mistake the heap is walked to identify it, which takes longer.
//!
//! Redzones, poison and buffer tags come from Jeff Bonwick, *The Slab Allocator* (1994), section 6.
//!
//! ```should_panic
//! use core::alloc::{GlobalAlloc, Layout};
//! use heap::talc::{TalcLock, source::Claim};
//!
//! let mut memory = [0_u64; 2048];
//! // SAFETY: only `talc` uses `memory`, which outlives it.
//! let talc = TalcLock::<spin::Mutex<()>, _>::new(unsafe { Claim::array(&raw mut memory) });
//! let layout = Layout::new::<u64>();
//! unsafe {
//!     let block = talc.alloc(layout);
//!     talc.dealloc(block, layout);
//!     talc.dealloc(block, layout); // heap misuse at …: a double free: all of … is free already
//! }
//! ```

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;

use super::Talc;
use super::binning::Binning;
use super::chunk::chunk_size;
use super::free_lists::FreeLists;
use super::gap_header::{Gap, Link, word_below};
use super::source::Source;

mod check;
mod heaps;
mod links;
mod poison;
mod redzone;
mod report;
mod verify;
mod walk;

use self::heaps::Heap;
use self::poison::{check_poison, restore_poison};
use self::redzone::Redzone;
pub use self::report::{Misuse, Report};
use self::walk::Part;

pub(super) use self::check::RegionsByAddress;
pub(super) use self::heaps::{HEAP_RECORD_SIZE, Heaps};
pub(super) use self::poison::poison;
pub(super) use self::redzone::REDZONE_SIZE;
pub(crate) use self::redzone::checksum;

/// The number of bytes that are checked for writes after free in each gap that a freed block
/// coalesces with. The bound keeps this check in constant time.
const MERGE_PROBE_BYTES: usize = 512;

/// The hook for reports, and a report that waits for a lock to be released.
pub(super) struct Reporting {
    hook: fn(&Report),
    /// Reports are deferred until a lock is released.
    is_deferred: bool,
    /// The deferred report. Only the first is kept.
    deferred: Option<Report>,
}

impl Reporting {
    pub(super) const fn new() -> Self {
        Self {
            hook: |report| panic!("{report}"),
            is_deferred: false,
            deferred: None,
        }
    }

    fn report(&mut self, report: Report) {
        if self.is_deferred {
            self.deferred.get_or_insert(report);
        } else {
            (self.hook)(&report);
        }
    }
}

/// A report that is due once the lock is released.
#[must_use]
pub(super) struct Deferred(fn(&Report), Option<Report>);

impl Deferred {
    pub(super) fn report(self) {
        if let Some(report) = self.1 {
            (self.0)(&report);
        }
    }
}

/// Damage that a search for a gap has found.
pub(super) struct Findings(Cell<Option<Report>>);

impl Findings {
    pub(super) const fn new() -> Self {
        Self(Cell::new(None))
    }

    /// Returns the gap that a link leads to, if the link is not null and the gap is intact. Notes
    /// damage.
    ///
    /// # Safety
    /// `link` is a list head, or in a gap that this function returned.
    pub(super) unsafe fn follow_link<B: Binning>(
        &self,
        free_lists: &FreeLists<B>,
        link: *mut Link,
    ) -> Option<Gap> {
        // SAFETY: the link is a list head, or in a gap that this function has verified.
        match unsafe { free_lists.verify_link(link) } {
            Ok(gap) => gap,
            Err(report) => {
                self.0.set(Some(report));
                None
            }
        }
    }
}

impl<B: Binning> FreeLists<B> {
    /// Returns whether a gap can be inserted into a list. If not, the list's head or its first gap
    /// is damaged, which is noted for [`report_pending_finding`](Talc::report_pending_finding).
    /// Until then the gap has its extents, but is in no list.
    ///
    /// # Safety
    /// The range is free memory of a heap, in no list, and at least one unit.
    #[inline]
    pub(super) unsafe fn can_insert(&mut self, bin: u32, gap: Gap) -> bool {
        if self.has_intact_head(bin) {
            return true;
        }
        // SAFETY: the range is free, at least one unit, and in no list.
        unsafe { gap.write_extent() };
        if let Err(report) = self.verify_head(bin) {
            self.heaps.pending_finding.get_or_insert(report);
        }
        false
    }

    /// Rebuilds the lists whose heads are damaged, from all gaps that belong there and that a walk
    /// from the ends of their heaps reaches. O(chunks) for each list.
    fn restore_lists(&mut self) {
        for bin in 0..B::BIN_COUNT {
            if !self.has_intact_head(bin) {
                self.restore_list(bin);
            }
        }
    }

    fn restore_list(&mut self, bin: u32) {
        self.empty_list(bin);
        // (Inserting gaps changes neither the heaps nor their parts.)
        let mut heaps = 0;
        while let Some(heap) = self.heap_at(heaps) {
            heaps += 1;
            let mut end = heap.end;
            while end > heap.first {
                // SAFETY: parts tile the heap, so each ends where the one above begins.
                let Ok(part) = (unsafe { self.part_ending_at(heap, end) }) else {
                    break;
                };
                end = part.base();
                if let Part::Gap(gap) = part {
                    self.reinsert(bin, heap, gap);
                }
            }
        }
    }

    /// Inserts a gap into its list, if that is `bin`, and both extents and the tag below agree that
    /// it is a gap.
    fn reinsert(&mut self, bin: u32, heap: Heap, gap: Gap) {
        // SAFETY: the last word of the gap says that a gap begins at `gap.base`.
        let at_base = unsafe { self.gap_at(heap, gap.base) };
        // SAFETY: another part of the heap, or its base tag, ends where this one begins.
        let tag = unsafe { word_below(gap.base) };
        let is_gap = at_base == Some(gap) && tag == self.tag_word(heap, gap.base, true);
        if is_gap && !gap.is_sliver() && Self::expected_bin(gap.size()) == bin {
            // SAFETY: it is a gap in no list: this list was emptied, and the walk visits each gap
            // once.
            unsafe { self.insert(gap) };
        }
    }
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// Sets the hook to which misuse is reported.
    ///
    /// The hook is called once for each operation that finds something. [`TalcLock`] calls it after
    /// unlocking, so that the hook may allocate. Without a lock around the allocator, or while a
    /// lock's guard is held, it is called immediately: before anything has changed, or, if a
    /// damaged list head was found later, when the operation is complete. Damage that `claim`,
    /// `extend`, `truncate` and `trim` find so late is reported by the next allocation or free.
    ///
    /// [`TalcLock`]: super::sync::TalcLock
    pub fn set_hook(&mut self, hook: fn(&Report)) {
        self.reporting.hook = hook;
    }

    /// Runs `work` and defers its reports until [`Deferred::report`].
    pub(super) fn deferring<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> (R, Deferred) {
        self.reporting.is_deferred = true;
        let result = work(self);
        self.reporting.is_deferred = false;
        let report = self.reporting.deferred.take();
        (result, Deferred(self.reporting.hook, report))
    }

    /// Reports damage that a search for a gap has found.
    pub(super) fn report_findings(&mut self, findings: &Findings) {
        if let Some(report) = findings.0.take() {
            self.report(report);
        }
    }

    /// Reports damage that an operation found after it had begun, now that it is complete.
    #[inline]
    pub(super) fn report_pending_finding(&mut self) {
        if let Some(report) = self.free_lists.heaps.pending_finding.take() {
            self.free_lists.restore_lists();
            self.report(report);
        }
    }

    /// Notes that the record which a source keeps at `address` is damaged. It is reported when the
    /// operation is complete.
    pub(crate) fn note_damaged_record(&mut self, address: usize) {
        let misuse = Misuse::DamagedSourceRecord;
        self.free_lists
            .heaps
            .pending_finding
            .get_or_insert(Report { address, misuse });
    }

    /// Restores damaged heap records or list heads, and then reports the damage.
    #[cold]
    fn report(&mut self, report: Report) {
        match report.misuse {
            Misuse::DamagedHeapRecord { .. } => self.free_lists.heaps.restore(),
            Misuse::DamagedListHead { .. } => self.free_lists.restore_lists(),
            _ => {}
        }
        self.reporting.report(report);
    }

    /// Returns whether `ptr` is an undamaged allocation with this layout, and the memory that it
    /// touches is undamaged too. If not, reports what [`deallocate`](Talc::deallocate) would
    /// report.
    ///
    /// Wrappers need it that read a block before they free it: to move it, for instance.
    ///
    /// ```
    /// use core::alloc::Layout;
    /// use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// use heap::talc::hardened::{Misuse, Report};
    /// use heap::talc::{DefaultBinning, base::Talc, source::Manual};
    ///
    /// static REPORTS: AtomicUsize = AtomicUsize::new(0);
    /// fn count(report: &Report) {
    ///     assert!(matches!(report.misuse, Misuse::InteriorPointer { .. }));
    ///     REPORTS.fetch_add(1, Relaxed);
    /// }
    ///
    /// let mut memory = [0_u64; 2048];
    /// let mut talc = Talc::<_, DefaultBinning>::new(Manual);
    /// talc.set_hook(count);
    /// let layout = Layout::new::<[u64; 10]>();
    /// // SAFETY: only `talc` uses `memory`, which outlives it.
    /// unsafe {
    ///     talc.claim(memory.as_mut_ptr().cast(), size_of_val(&memory)).expect("large enough");
    ///     let block = talc.allocate(layout).expect("there is room").as_ptr();
    ///     assert!(talc.is_allocation(block, layout));
    ///     assert!(!talc.is_allocation(block.add(8), layout));
    /// }
    /// assert_eq!(REPORTS.load(Relaxed), 1);
    /// ```
    pub fn is_allocation(&mut self, ptr: *mut u8, layout: Layout) -> bool {
        self.validate_block(ptr, layout)
    }

    /// Returns whether `ptr` is an undamaged allocation with this layout whose neighbours may be
    /// changed. If not, reports that.
    pub(super) fn validate_block(&mut self, ptr: *mut u8, layout: Layout) -> bool {
        let neighbours = match self.free_lists.verify_block(ptr, layout) {
            Ok(neighbours) => neighbours,
            Err(report) => {
                self.report(report);
                return false;
            }
        };
        if let Some(gap) = neighbours.below {
            // SAFETY: the gap has at least as many bytes.
            let from = unsafe { gap.end().byte_sub(gap.size().min(MERGE_PROBE_BYTES)) };
            // SAFETY: the gap was verified, and `from` is a multiple of a word's size.
            unsafe { self.validate_poison(gap, from, gap.end()) };
        }
        if let Some(gap) = neighbours.above {
            // SAFETY: the gap has at least as many bytes.
            let to = unsafe { gap.base.byte_add(gap.size().min(MERGE_PROBE_BYTES)) };
            // SAFETY: the gap was verified, and `to` is a multiple of a word's size.
            unsafe { self.validate_poison(gap, gap.base, to) };
        }
        true
    }

    /// Returns whether a heap ends at `heap_end` and its top is undamaged. If not, reports that.
    pub(crate) fn validate_heap_end(&mut self, heap_end: NonNull<u8>) -> bool {
        match self.free_lists.verify_end(heap_end) {
            Ok(()) => true,
            Err(report) => {
                self.report(report);
                false
            }
        }
    }

    /// Returns whether a heap ends at `heap_end` and its top is undamaged, without a report.
    pub(super) fn is_known_heap_end(&self, heap_end: NonNull<u8>) -> bool {
        self.free_lists.verify_end(heap_end).is_ok()
    }

    /// Reports the first write after free to a part of a gap, and restores the poison of that part.
    ///
    /// # Safety
    /// `gap` is a gap of a heap. `from` and `to` are multiples of a word's size.
    pub(super) unsafe fn validate_poison(&mut self, gap: Gap, from: NonNull<u8>, to: NonNull<u8>) {
        // SAFETY: the gap and the addresses are as this function demands.
        if let Err(report) = unsafe { check_poison(gap, from, to) } {
            // SAFETY: the gap and the addresses are as this function demands.
            unsafe { restore_poison(gap, from, to) };
            self.reporting.report(report);
        }
    }

    /// Writes the redzone of an allocation, if there is one.
    ///
    /// # Safety
    /// A chunk for this layout begins at `block`, and nothing uses its memory above the allocation.
    pub(super) unsafe fn write_redzone(&mut self, block: Option<NonNull<u8>>, layout: Layout) {
        if let Some(base) = block {
            let size = chunk_size(layout.size());
            let redzone = Redzone::new(self.free_lists.key(), base.addr().get(), size, layout);
            // SAFETY: a chunk of this size begins at `base`, and nothing uses its memory above the
            // allocation.
            unsafe { redzone.write(base) };
        }
    }

    /// Clears the redzone of a chunk that ended at `old_end`.
    ///
    /// # Safety
    /// The chunk is larger now, and nothing uses its memory above the allocation.
    pub(super) unsafe fn clear_redzone(&mut self, old_end: NonNull<u8>) {
        // SAFETY: a chunk that ended at `old_end` is larger now, so its redzone is inside the
        // chunk.
        unsafe { Redzone::wipe(old_end) };
    }
}
