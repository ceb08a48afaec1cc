//! Detection of what programs do wrong: with the feature `hardened`.
//!
//! Each allocation has a *redzone* above it that says what it is, all free memory is *poison*, and tags
//! are sealed. What is detected, at the latest when the allocation is freed or resized, or when
//! the memory is allocated again, is what [`Misuse`] lists.
//! [`check`](super::base::Talc::check) finds the same in a heap at rest.
//!
//! What is found is [reported](Report) to a [hook](super::base::Talc::set_hook), which panics unless
//! another is set. When it returns, the operation has been refused: a block that was freed
//! wrongly is left alone, for good; one that was resized wrongly stays as it is. An allocation
//! does not fail because free memory was written to. It takes what is described soundly.
//! What a wrong operation would have changed is not changed, and the allocator can be used further.
//! Records of heaps and list heads that were overwritten are restored when they have been reported.
//!
//! A block that was freed and allocated again since is not told from the new one. Writes that leave
//! gaps, tails and tags as they were are not noticed.
//!
//! ```text
//!     base           + requested                       the chunk's end         the gap's end
//!     ┌──────────────┬───────────┬─────────┬───────────┬───────────────────────┬───────────────┐
//!     │ allocation   │ bb bb …   │ redzone    │ tag, checksum │ extent next referrer  │ dead beef … e │
//!     └──────────────┴───────────┴─────────┴───────────┴───────────────────────┴───────────────┘
//!      as asked for   to a unit   4 words   1 word      3 words                 e: 1 word
//! ```
//!
//! A redzone and a tag take 40 bytes (20 on 32-bit machines) of each chunk. Freeing takes time in
//! proportion to the block, as it becomes poison, and allocating to the gap's part that is taken,
//! as it is looked at; both to the number of heaps too. Whoever has made a mistake waits longer:
//! then the heap is walked to tell what it was.
//!
//! Most comes from Jeff Bonwick, *The Slab Allocator* (1994), section 6: redzones, poison
//! and buffer tags.
//!
//! ```should_panic
//! use core::alloc::{GlobalAlloc, Layout};
//! use heap::talc::{TalcLock, source::Claim};
//!
//! let mut memory = [0_u64; 2048];
//! // SAFETY: nothing else uses `memory` as long as `talc`.
//! let talc = TalcLock::<spin::Mutex<()>, _>::new(unsafe { Claim::array(&raw mut memory) });
//! let layout = Layout::new::<u64>();
//! unsafe {
//!     let block = talc.alloc(layout);
//!     talc.dealloc(block, layout);
//!     talc.dealloc(block, layout); // heap misuse at …: it is free already, as is all of …
//! }
//! ```

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;

use super::Talc;
use super::binning::Binning;
use super::chunk::chunk_size;
use super::free_lists::FreeLists;
use super::gap_header::{Gap, Link};
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
use self::walk::{Part, word_below};

pub(super) use self::check::Parts;
pub(super) use self::heaps::{Heaps, RECORD_SIZE};
pub(super) use self::poison::poison;
pub(super) use self::redzone::REDZONE_SIZE;
pub(crate) use self::redzone::checksum;

/// So much of each gap that a freed block merges with is looked at for writes after free, so that
/// this is in constant time.
const MERGE_PROBE_BYTES: usize = 512;

/// Whom misuse is reported to.
pub(super) struct Reporting {
    hook: fn(&Report),
    /// A lock is held, without which it is to be reported.
    is_deferred: bool,
    /// What is to be reported then. The first is kept.
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

/// What is to be reported once the lock is free.
#[must_use]
pub(super) struct Deferred(fn(&Report), Option<Report>);

impl Deferred {
    pub(super) fn report(self) {
        if let Some(report) = self.1 {
            (self.0)(&report);
        }
    }
}

/// What a search came across.
pub(super) struct Findings(Cell<Option<Report>>);

impl Findings {
    pub(super) const fn new() -> Self {
        Self(Cell::new(None))
    }

    /// The gap that a link leads to, if there is one and it is sound; notes what is wrong otherwise.
    ///
    /// # Safety
    /// `link` is a list head, or in a gap that was returned here.
    pub(super) unsafe fn sound_gap<B: Binning>(
        &self,
        free_lists: &FreeLists<B>,
        link: *mut Link,
    ) -> Option<Gap> {
        // SAFETY: the link is a list head or in a gap that was returned here, and so verified.
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
    /// Whether a free range can be entered into a list. If not, the list's head or what it leads to is
    /// damaged, which is noted for [`report_pending_finding`](Talc::report_pending_finding). The range is described, and is in no
    /// list until then.
    ///
    /// # Safety
    /// The range is free memory of a heap, in no list, and at least one unit.
    #[inline]
    pub(super) unsafe fn can_enter(&mut self, bin: u32, gap: Gap) -> bool {
        if self.has_sound_head(bin) {
            return true;
        }
        // SAFETY: the range is free, at least one unit, and in no list.
        unsafe { gap.write_extent() };
        if let Err(report) = self.verify_head(bin) {
            self.heaps.finding.get_or_insert(report);
        }
        false
    }

    /// Makes the lists anew whose heads are damaged, of all gaps that belong there and that can be reached
    /// from the ends of their heaps. O(chunks) for each.
    fn restore_lists(&mut self) {
        for bin in 0..B::BIN_COUNT {
            if !self.has_sound_head(bin) {
                self.restore_list(bin);
            }
        }
    }

    fn restore_list(&mut self, bin: u32) {
        self.empty_list(bin);
        // (Entering gaps does not change what heaps there are, nor which parts they have.)
        let mut heaps = 0;
        while let Some(heap) = self.heap_at(heaps) {
            heaps += 1;
            let mut end = heap.end;
            while end > heap.first {
                // SAFETY: parts tile the heap, and end where others begin, down to the first.
                let Ok(part) = (unsafe { self.part_ending_at(heap, end) }) else {
                    break;
                };
                end = part.base();
                if let Part::Gap(gap) = part {
                    self.enter_again(bin, heap, gap);
                }
            }
        }
    }

    /// Enters a gap into its list, if that is `bin` and both ends and the tag below agree that it is a gap.
    fn enter_again(&mut self, bin: u32, heap: Heap, gap: Gap) {
        // SAFETY: a gap is there, as its end says.
        let (at_base, tag) = unsafe { (self.gap_at(heap, gap.base), word_below(gap.base)) };
        let is_gap = at_base == Some(gap) && tag == self.tag_word(heap, gap.base, true);
        if is_gap && !gap.is_sliver() && Self::expected_bin(gap.size()) == bin {
            // SAFETY: it is a gap, and in no list: this one was empty, and has each gap entered once.
            unsafe { self.insert(gap) };
        }
    }
}

impl<S: Source, B: Binning> Talc<S, B> {
    /// Has misuse reported to `hook` from now on.
    ///
    /// It is called once for each operation that finds something, when [`TalcLock`] has unlocked, so
    /// that it may allocate. Without a lock around the allocator, and while somebody holds the
    /// guard of a lock, it is called at once: before anything has been changed, or, where a list head was
    /// found to be damaged after that, when the operation is complete. What `claim`, `extend`,
    /// `truncate` and `trim` find so is reported by the next allocation or free.
    ///
    /// [`TalcLock`]: super::sync::TalcLock
    pub fn set_hook(&mut self, hook: fn(&Report)) {
        self.reporting.hook = hook;
    }

    /// Reports what `work` finds only when that is [asked for](Deferred::report).
    pub(super) fn deferring<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> (R, Deferred) {
        self.reporting.is_deferred = true;
        let result = work(self);
        self.reporting.is_deferred = false;
        let report = self.reporting.deferred.take();
        (result, Deferred(self.reporting.hook, report))
    }

    /// Reports what a search came across.
    pub(super) fn report_findings(&mut self, findings: &Findings) {
        if let Some(report) = findings.0.take() {
            self.report(report);
        }
    }

    /// Reports what an operation came across when it had begun, now that it is done.
    #[inline]
    pub(super) fn report_pending_finding(&mut self) {
        if let Some(report) = self.free_lists.heaps.finding.take() {
            self.free_lists.restore_lists();
            self.report(report);
        }
    }

    /// Notes that the record which a source keeps at `address` is damaged, to be reported when the operation is
    /// done.
    pub(crate) fn note_damaged_record(&mut self, address: usize) {
        let misuse = Misuse::DamagedSourceRecord;
        self.free_lists
            .heaps
            .finding
            .get_or_insert(Report { address, misuse });
    }

    /// Reports damage, after records and list heads have been restored, if it is theirs.
    #[cold]
    fn report(&mut self, report: Report) {
        match report.misuse {
            Misuse::DamagedHeapRecord { .. } => self.free_lists.heaps.restore(),
            Misuse::DamagedListHead { .. } => self.free_lists.restore_lists(),
            _ => {}
        }
        self.reporting.report(report);
    }

    /// Whether a pointer is an allocation with this layout, undamaged, as is what it touches. If not, that
    /// has been reported, as [`deallocate`](Talc::deallocate) would have.
    ///
    /// For wrappers that read a block before they free it: when they move it, for instance.
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
    /// // SAFETY: nobody else uses `memory` as long as `talc` does.
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

    /// Whether a pointer is an allocation with this layout, undamaged, and what it touches may be
    /// changed. If not, that has been reported.
    pub(super) fn validate_block(&mut self, ptr: *mut u8, layout: Layout) -> bool {
        let neighbours = match self.free_lists.verify_block(ptr, layout) {
            Ok(neighbours) => neighbours,
            Err(report) => {
                self.report(report);
                return false;
            }
        };
        // SAFETY: what is looked at lies in the gaps.
        unsafe {
            if let Some(gap) = neighbours.below {
                let from = gap.end().byte_sub(gap.size().min(MERGE_PROBE_BYTES));
                self.validate_poison(gap, from, gap.end());
            }
            if let Some(gap) = neighbours.above {
                let to = gap.base.byte_add(gap.size().min(MERGE_PROBE_BYTES));
                self.validate_poison(gap, gap.base, to);
            }
        }
        true
    }

    /// Whether a heap ends there, undamaged. If not, that has been reported.
    pub(crate) fn validate_heap_end(&mut self, heap_end: NonNull<u8>) -> bool {
        match self.free_lists.verify_end(heap_end) {
            Ok(()) => true,
            Err(report) => {
                self.report(report);
                false
            }
        }
    }

    /// Whether a heap ends there, and what ends with it is undamaged.
    pub(super) fn is_known_heap_end(&self, heap_end: NonNull<u8>) -> bool {
        self.free_lists.verify_end(heap_end).is_ok()
    }

    /// Reports the first write to a part of a gap after that was freed, and undoes all.
    ///
    /// # Safety
    /// It is a gap of a heap, and the addresses are multiples of a word's size.
    pub(super) unsafe fn validate_poison(&mut self, gap: Gap, from: NonNull<u8>, to: NonNull<u8>) {
        // SAFETY: the caller's duty.
        if let Err(report) = unsafe { check_poison(gap, from, to) } {
            // SAFETY: as before.
            unsafe { restore_poison(gap, from, to) };
            self.reporting.report(report);
        }
    }

    /// Writes the redzone of an allocation.
    ///
    /// # Safety
    /// The chunk for a block of this layout is at `block`, and nothing in it beyond that is in use.
    pub(super) unsafe fn write_redzone(&mut self, block: Option<NonNull<u8>>, layout: Layout) {
        if let Some(base) = block {
            let size = chunk_size(layout.size());
            let redzone = Redzone::new(self.free_lists.key(), base.addr().get(), size, layout);
            // SAFETY: the caller's duty.
            unsafe { redzone.write(base) };
        }
    }

    /// Removes the redzone of a chunk that ended at `old_end`.
    ///
    /// # Safety
    /// It is larger now, and nothing beyond its allocation is in use.
    pub(super) unsafe fn clear_redzone(&mut self, old_end: NonNull<u8>) {
        // SAFETY: the caller's duty.
        unsafe { Redzone::wipe(old_end) };
    }
}
