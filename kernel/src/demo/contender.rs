//! The allocators in the comparison, each behind `GlobalAlloc` and a lock that masks interrupts.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::hint::black_box;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use kernel::heap::HEAP;
use kernel::sync::InterruptLock;
use lock_api::Mutex;

use super::region::Region;

/// An allocator in the comparison.
pub(crate) trait Contender: GlobalAlloc {
    /// Prepares for a workload.
    fn start(&self) {}
    /// Does what the passing of time does to the memory that the allocator holds.
    fn settle(&self) {}
    /// Returns the number of bytes that the allocator holds for the workload, free or not.
    fn footprint(&self) -> usize;
}

/// The kernel heap itself, which grows and shrinks as usual.
#[derive(Default)]
pub(crate) struct KernelHeap {
    /// The number of bytes that were mapped before the workload.
    before: AtomicUsize,
}

// SAFETY: all operations are those of the kernel heap.
unsafe impl GlobalAlloc for KernelHeap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { HEAP.alloc(layout) }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, base: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { HEAP.dealloc(base, layout) }
    }

    #[inline(never)]
    unsafe fn realloc(&self, base: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of the method of the same name.
        unsafe { HEAP.realloc(base, layout, size) }
    }
}

impl Contender for KernelHeap {
    fn start(&self) {
        HEAP.reap();
        self.before.store(HEAP.stats().mapped, Ordering::Relaxed);
    }

    fn settle(&self) {
        HEAP.settle();
    }

    fn footprint(&self) -> usize {
        HEAP.stats()
            .mapped
            .saturating_sub(self.before.load(Ordering::Relaxed))
    }
}

/// No allocator: every block is the same. Its instructions are those of the measurement.
#[derive(Default)]
pub(crate) struct Nothing {
    block: UnsafeCell<u128>,
}

// SAFETY: blocks overlap, which `GlobalAlloc` forbids. The value is private to the comparison,
// whose replayer writes one byte of each block and reads none.
unsafe impl GlobalAlloc for Nothing {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        black_box(layout);
        self.block.get().cast()
    }

    #[inline(never)]
    unsafe fn dealloc(&self, base: *mut u8, _: Layout) {
        black_box(base);
    }

    #[inline(never)]
    unsafe fn realloc(&self, base: *mut u8, _: Layout, size: usize) -> *mut u8 {
        black_box(size);
        base
    }
}

impl Contender for Nothing {
    fn footprint(&self) -> usize {
        0
    }
}

/// The number of bytes that an allocator without a source gets each time it runs out of memory.
const STEP: usize = 64 << 10;

/// An allocator whose heap can be extended: the common interface of `linked_list_allocator` and
/// `talc`.
///
/// # Safety
/// Blocks that [`take`](Self::take) returns fit their layouts, do not overlap, and stay where they
/// are until [`give`](Self::give) frees them.
pub(crate) unsafe trait Extend {
    /// Allocates a block, or returns null.
    ///
    /// # Safety
    /// The size is not zero.
    unsafe fn take(&mut self, layout: Layout) -> *mut u8;
    /// Frees a block.
    ///
    /// # Safety
    /// The same as for `GlobalAlloc::dealloc`.
    unsafe fn give(&mut self, base: NonNull<u8>, layout: Layout);
    /// Extends the heap by [`STEP`] bytes.
    ///
    /// # Safety
    /// The `STEP` bytes after the end of the heap are memory that no other code uses.
    unsafe fn extend(&mut self);
}

/// An allocator that gets the next [`STEP`] bytes of a region each time it runs out of memory.
pub(crate) struct Growing<'region, E> {
    /// The allocator, and the number of bytes that it has got so far.
    heap: Mutex<InterruptLock, (E, usize)>,
    region: &'region Region,
}

impl<'region, E: Extend> Growing<'region, E> {
    /// Creates an allocator from a heap.
    ///
    /// # Safety
    /// `heap` lies in the first [`STEP`] bytes of `region`. No other code uses the rest of
    /// `region`.
    unsafe fn new(heap: E, region: &'region Region) -> Self {
        Growing {
            heap: Mutex::new((heap, STEP)),
            region,
        }
    }
}

// SAFETY: the trait of `E` guarantees that blocks fit and do not overlap or move. The lock excludes
// concurrent use.
unsafe impl<E: Extend> GlobalAlloc for Growing<'_, E> {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (heap, used) = &mut *self.heap.lock();
        loop {
            // SAFETY: the caller of `alloc` guarantees that the size is not zero.
            let base = unsafe { heap.take(layout) };
            if !base.is_null() || *used + STEP > self.region.size() {
                return base;
            }
            // SAFETY: the next bytes of the region are free, as `used` says.
            unsafe { heap.extend() };
            *used += STEP;
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, base: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees that `base` is a block, and so not null.
        let base = unsafe { NonNull::new_unchecked(base) };
        // SAFETY: the caller guarantees that `base` is a block of this heap with this layout.
        unsafe { self.heap.lock().0.give(base, layout) }
    }
}

impl<E: Extend> Contender for Growing<'_, E> {
    fn footprint(&self) -> usize {
        self.heap.lock().1
    }
}

// SAFETY: the crate guarantees that blocks fit and do not overlap. It never moves a block.
unsafe impl Extend for linked_list_allocator::Heap {
    unsafe fn take(&mut self, layout: Layout) -> *mut u8 {
        self.allocate_first_fit(layout)
            .map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn give(&mut self, base: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller guarantees that `base` is a block of this heap with this layout.
        unsafe { self.deallocate(base, layout) }
    }

    unsafe fn extend(&mut self) {
        // SAFETY: the caller guarantees that the next `STEP` bytes are unused memory.
        unsafe { linked_list_allocator::Heap::extend(self, STEP) }
    }
}

/// Creates a heap of `linked_list_allocator` in `region`.
pub(crate) fn linked_list(region: &mut Region) -> Growing<'_, linked_list_allocator::Heap> {
    let mut heap = linked_list_allocator::Heap::empty();
    // SAFETY: the exclusive borrow of the region excludes other uses of its memory.
    unsafe { heap.init(region.base().as_ptr(), STEP) };
    // SAFETY: the heap was just created in the first `STEP` bytes of the region.
    unsafe { Growing::new(heap, region) }
}

/// A heap of the crate `talc`, and the end of the heap.
pub(crate) struct Talc {
    talc: talc::base::Talc<talc::source::Manual, talc::DefaultBinning>,
    end: NonNull<u8>,
}

// SAFETY: the heap's memory is accessed through this value only.
unsafe impl Send for Talc {}

// SAFETY: the crate guarantees that blocks fit and do not overlap. It never moves a block.
unsafe impl Extend for Talc {
    unsafe fn take(&mut self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees that the size is not zero.
        unsafe { self.talc.try_allocate(layout) }.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn give(&mut self, base: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller guarantees that `base` is a block of this heap with this layout.
        unsafe { self.talc.deallocate(base.as_ptr(), layout) }
    }

    unsafe fn extend(&mut self) {
        let new_end = self.end.as_ptr().wrapping_byte_add(STEP);
        // SAFETY: the caller guarantees that the next `STEP` bytes are unused memory.
        self.end = unsafe { self.talc.extend(self.end, new_end) };
    }
}

/// Creates a heap of the crate `talc` in `region`.
pub(crate) fn talc(region: &mut Region) -> Growing<'_, Talc> {
    let mut talc = talc::base::Talc::new(talc::source::Manual);
    // SAFETY: the exclusive borrow of the region excludes other uses of its memory.
    let end = unsafe { talc.claim(region.base().as_ptr(), STEP) }
        .expect("64 KiB are enough for the first heap");
    // SAFETY: the heap was just created in the first `STEP` bytes of the region.
    unsafe { Growing::new(Talc { talc, end }, region) }
}
