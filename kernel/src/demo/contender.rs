//! The allocators that are compared, each behind `GlobalAlloc` and a lock that masks interrupts.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use kernel::heap::HEAP;
use kernel::memory::{HeapArena, heap_pages_arena};
use kernel::sync::InterruptLock;
use lock_api::Mutex;

/// An allocator with a name whose use of memory can be read.
pub trait Contender: GlobalAlloc {
    /// Called when the workload is about to begin.
    fn start(&self) {}
    /// Bytes of memory that it holds just now for the workload, free or not.
    fn footprint(&self) -> usize;
}

/// The kernel heap itself, growing and shrinking as it always does.
#[derive(Default)]
pub struct KernelHeap {
    /// Bytes that were mapped when the workload began.
    before: AtomicUsize,
}

// SAFETY: passes everything on to the kernel heap.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { HEAP.alloc(layout) }
    }

    unsafe fn dealloc(&self, base: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { HEAP.dealloc(base, layout) }
    }

    unsafe fn realloc(&self, base: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { HEAP.realloc(base, layout, size) }
    }
}

impl Contender for KernelHeap {
    fn start(&self) {
        HEAP.reap();
        self.before.store(HEAP.stats().mapped, Ordering::Relaxed);
    }

    fn footprint(&self) -> usize {
        HEAP.stats()
            .mapped
            .saturating_sub(self.before.load(Ordering::Relaxed))
    }
}

/// How much an allocator that cannot ask for memory itself is given when it runs out, in bytes.
const STEP: usize = 64 << 10;

/// Pages of the kernel's arena, mapped beforehand, for an allocator under test.
pub struct Region {
    base: usize,
    size: usize,
}

impl Region {
    fn arena() -> &'static HeapArena {
        // SAFETY: a region frees only the pages that it has allocated, once, when it is dropped; no span
        // is added.
        unsafe { heap_pages_arena() }
    }

    /// At least `size` bytes. `None` when there is not so much memory.
    pub fn new(size: usize) -> Option<Self> {
        let size = size.checked_next_multiple_of(STEP)?;
        let base = Self::arena()
            .alloc(size, heap::vmem::AllocPolicy::InstantFit)
            .ok()?;
        Some(Region { base, size })
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        let base = NonNull::new(ptr::with_exposed_provenance_mut(self.base))
            .expect("no page is at address zero");
        // SAFETY: offsets stay within the region.
        unsafe { base.byte_add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        Self::arena()
            .free_sized(self.base, self.size)
            .expect("the region was allocated from this arena");
    }
}

/// What `linked_list_allocator` and `talc` have in common here: a heap in a region, which is extended by steps.
///
/// # Safety
/// Implementors are allocators: blocks that [`take`](Self::take) returns fit their layouts, do not overlap, and
/// stay where they are until they are given back.
pub unsafe trait Extend {
    /// Allocates.
    ///
    /// # Safety
    /// The size is not zero.
    unsafe fn take(&mut self, layout: Layout) -> *mut u8;
    /// # Safety
    /// As for `GlobalAlloc::dealloc`.
    unsafe fn give(&mut self, base: NonNull<u8>, layout: Layout);
    /// # Safety
    /// The `STEP` bytes from where the heap ends must be memory that nobody else uses.
    unsafe fn extend(&mut self);
}

/// An allocator that is given the next [`STEP`] bytes of a region whenever it has run out.
pub struct Growing<'region, E> {
    heap: Mutex<InterruptLock, (E, usize)>,
    region: &'region Region,
}

impl<'region, E: Extend> Growing<'region, E> {
    /// # Safety
    /// `heap` must lie in the first [`STEP`] bytes of `region`, the rest of which nobody else uses.
    unsafe fn new(heap: E, region: &'region Region) -> Self {
        Growing {
            heap: Mutex::new((heap, STEP)),
            region,
        }
    }
}

// SAFETY: `E` is an allocator, as its trait promises; the lock makes it exclusive.
unsafe impl<E: Extend> GlobalAlloc for Growing<'_, E> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (heap, used) = &mut *self.heap.lock();
        loop {
            // SAFETY: the caller keeps the contract of `GlobalAlloc`: the size is not zero.
            let base = unsafe { heap.take(layout) };
            if !base.is_null() || *used + STEP > self.region.size {
                return base;
            }
            // SAFETY: the region reaches that far.
            unsafe { heap.extend() };
            *used += STEP;
        }
    }

    unsafe fn dealloc(&self, base: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`: the block is one of this heap.
        unsafe {
            self.heap
                .lock()
                .0
                .give(NonNull::new_unchecked(base), layout)
        }
    }
}

impl<E: Extend> Contender for Growing<'_, E> {
    fn footprint(&self) -> usize {
        self.heap.lock().1
    }
}

// SAFETY: it is an allocator, and its blocks do not move.
unsafe impl Extend for linked_list_allocator::Heap {
    unsafe fn take(&mut self, layout: Layout) -> *mut u8 {
        self.allocate_first_fit(layout)
            .map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn give(&mut self, base: NonNull<u8>, layout: Layout) {
        // SAFETY: passed on.
        unsafe { self.deallocate(base, layout) }
    }

    unsafe fn extend(&mut self) {
        // SAFETY: passed on.
        unsafe { linked_list_allocator::Heap::extend(self, STEP) }
    }
}

/// `linked_list_allocator`, in `region`.
pub fn linked_list(region: &mut Region) -> Growing<'_, linked_list_allocator::Heap> {
    let mut heap = linked_list_allocator::Heap::empty();
    // SAFETY: the region is memory that nobody else uses.
    unsafe { heap.init(region.at(0).as_ptr(), STEP) };
    // SAFETY: it lies there.
    unsafe { Growing::new(heap, region) }
}

/// The `talc` crate's heap, and where it ends.
pub struct Talc {
    talc: talc::base::Talc<talc::source::Manual, talc::DefaultBinning>,
    end: NonNull<u8>,
}

// SAFETY: nothing else leads to the heap's memory.
unsafe impl Send for Talc {}

// SAFETY: it is an allocator, and its blocks do not move.
unsafe impl Extend for Talc {
    unsafe fn take(&mut self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller asks for no size of zero.
        unsafe { self.talc.try_allocate(layout) }.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn give(&mut self, base: NonNull<u8>, layout: Layout) {
        // SAFETY: passed on.
        unsafe { self.talc.deallocate(base.as_ptr(), layout) }
    }

    unsafe fn extend(&mut self) {
        // SAFETY: passed on.
        self.end = unsafe { self.talc.extend(self.end, self.end.as_ptr().byte_add(STEP)) };
    }
}

/// The `talc` crate, in `region`.
pub fn talc(region: &mut Region) -> Growing<'_, Talc> {
    let mut talc = talc::base::Talc::new(talc::source::Manual);
    // SAFETY: the region is memory that nobody else uses.
    let end = unsafe { talc.claim(region.at(0).as_ptr(), STEP) }
        .expect("a step is more than the first heap needs");
    // SAFETY: it lies there.
    unsafe { Growing::new(Talc { talc, end }, region) }
}
